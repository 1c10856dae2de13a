"""Compare runs: mean and standard deviation over seeds, paired differences, cost, training curves."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .inputs import finished_runs, output_file


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=finished_runs, help="run folders, or folders from `train --seeds`")
    add("--output", type=output_file, default="comparison.html", help="output file (default: %(default)s)")
    add("--json", action="store_true", help="print the comparison as JSON, and write nothing")


def run(flags: Namespace) -> None:
    from ..reports.comparison_report import comparison_text, write_comparison
    from ..reports.run_comparison import compare_runs

    comparison = compare_runs(flags.runs)
    if flags.json:
        print(json.dumps(comparison, indent=2))
        return
    print(comparison_text(comparison))
    print(f"report: {write_comparison(comparison, Path(flags.output))}")

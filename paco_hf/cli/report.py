"""`paco-hf report`."""

import json
from pathlib import Path

from .common import check_output, verb_parser


def run(argv: list[str]) -> None:
    parser = verb_parser("report", "Compare runs: mean and standard deviation over seeds, cost, training curves.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", default="comparison.html", help="the page to write (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, write nothing")
    flags = parser.parse_args(argv)
    check_output(flags.output)
    from ..reports.comparison_report import comparison_text, write_comparison
    from ..reports.run_comparison import compare_runs

    comparison = compare_runs(flags.runs)
    if flags.json:
        print(json.dumps(comparison, indent=2))
        return
    print(comparison_text(comparison))
    print(f"report: {write_comparison(comparison, Path(flags.output))}")

"""Two processes share the forward passes of `paco-hf evaluate`; one of them makes everything of the logits."""

import json
import shutil
from pathlib import Path

import pytest
from fresh_processes import FreshProcesses, rank_environments

from paco_hf.cli import main

# The second process may neither fit nor examine.
CODE = """
import os, sys
from paco_hf.workflows import abstain, evaluate
if os.environ["RANK"] == "1":
    evaluate.examine = abstain.fit_temperature = None
from paco_hf.cli import main
sys.exit(main({arguments!r}))
"""


def test_two_processes_score_and_store_what_one_does(
    with_trainer: FreshProcesses, paco_run: Path, tmp_path: Path, capsys
) -> None:
    one, two = (Path(shutil.copytree(paco_run, tmp_path / name)) for name in ("one", "two"))
    # 2,000 images in batches of 300: the halves end in other places than the whole, and in shorter batches.
    flags = ["--calibrate", "--abstain", "coverage=0.9", "--batch_size", "300", "--no_report", "--json"]
    assert main(["evaluate", str(one), *flags]) == 0
    alone = json.loads(capsys.readouterr().out)
    code = CODE.format(arguments=["evaluate", str(two), *flags])
    first, second = with_trainer.run(code, code, environments=rank_environments(2))
    assert not second
    together = json.loads(first)
    assert together["per_class"] == alone["per_class"]
    assert together["intervals"]["nll"]["value"] == pytest.approx(alone["intervals"]["nll"]["value"], rel=1e-5)
    configs = [json.loads((run / "config.json").read_text(encoding="utf-8")) for run in (one, two)]
    assert configs[1]["temperature"] == pytest.approx(configs[0]["temperature"], rel=1e-5)
    assert configs[1]["abstention"]["thresholds"] == pytest.approx(configs[0]["abstention"]["thresholds"], rel=1e-4)


def test_an_error_of_the_first_process_is_one_of_both(with_trainer: FreshProcesses, paco_run: Path) -> None:
    flags = ["evaluate", str(paco_run), "--abstain", "precision=0.999", "--no_report"]
    code = f"from paco_hf.cli import main; status = main({flags!r}); assert status == 2, status"
    with_trainer.run(code, code, environments=rank_environments(2))

"""Import paths from before the packages: they work, or the changelog names the successor."""

import re
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from conftest import ROOT

from paco_hf import PaCoTrainingArguments

NAMES = {
    "losses": "LossTerms log_class_prior paco_loss multitask_loss balanced_softmax_loss",
    "trainer": "PaCoTrainer",
    "metrics": "long_tailed_accuracy expected_calibration_error unit_rows retrieval_precision",
    "hub": "hub_errors hub_file push full_name make_repo push_trainer stage_model check_no_paths",
    "conversion": "convert load_reference_checkpoint",
    "embedding": "Embeddings features_of embed_split embed_files start_from_centers check_output",
    "data.views": "VIEWS RAND_AUGMENT_VIEWS GaussianBlur Cutout FitSquare rand_augment view_operations build_view "
    "EpochIndex EpochSampler ViewsDataset WholeImages EvaluationDataset ImageCollator",
    "data.long_tail": "long_tailed_counts long_tailed_indices class_counts stratified_split",
}
OLD_ARGUMENTS = ROOT / "tests/old_runs/csv_paco/interrupted/checkpoint-10/training_args.bin"
GONE = {"losses": "ContrastiveLoss ClassificationLoss"}
CHANGED = (ROOT / "CHANGELOG.md").read_text().split("### Changed")[1]
MODULES = CHANGED.split("* Data:")[0]
SUCCESSORS = dict(re.findall(r"`([\w.]+)`\s+->\s+((?:`[\w.]+`,?\s*)+)", MODULES))


@pytest.mark.parametrize("module", NAMES)
def test_names_are_importable_from_where_they_were(module: str) -> None:
    for name in NAMES[module].split():
        assert getattr(import_module(f"paco_hf.{module}"), name), name


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, -1])
def test_in_a_new_process_in_any_order(first: int) -> None:
    lines = ["import sys; assert 'paco_hf' not in sys.modules"]
    lines += [f"from paco_hf.{module} import {', '.join(NAMES[module].split())}" for module in list(NAMES)[::first]]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_the_arguments_of_an_old_checkpoint_load() -> None:
    args = torch.load(OLD_ARGUMENTS, weights_only=False)
    assert isinstance(args, PaCoTrainingArguments)
    assert (args.loss, args.queue_size) == ("paco", 16)


def test_names_that_are_gone_are_in_the_changelog() -> None:
    for module, names in GONE.items():
        for name in names.split():
            assert not hasattr(import_module(f"paco_hf.{module}"), name)
            assert re.search(rf"`(paco_hf\.{module}\.)?{name}`", CHANGED), name


@pytest.mark.parametrize("old", SUCCESSORS)
def test_successors_are_there(old: str) -> None:
    for successor in re.findall(r"`([\w.]+)`", SUCCESSORS[old]):
        assert import_module(f"paco_hf.{successor}")

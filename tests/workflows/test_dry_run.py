"""A dry run is the run, stopped before its first step: what the run refuses, the dry run refuses in the same line."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import made_once
from transformers import TrainerCallback
from user_data import complaint, folders, printed

from paco_hf.arguments.parser import parse_run
from paco_hf.cli import main
from paco_hf.trainer import step_timer
from paco_hf.workflows import train as workflow

TINY = "--backbone test_resnet --precision fp32 --image_size 16 --max_steps 2 --report false --save_steps 1"
TINY += " --per_device_train_batch_size 4 --queue_size 16"
ADAM = "--learning_rate 1e-3 --optim"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timer, "LEAST_SECONDS", 0)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a run that was stopped, and another that is finished."""

    def make(root: Path) -> None:
        folders(root / "data", {"cat": 6, "dog": 6})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            assert main(["train", "--dataset", "data", *shlex.split(TINY), "--output_dir", "finished"]) == 0
            shutil.copytree("finished", "stopped")
            Path("stopped/metrics.json").unlink()
            Path("file").touch()

    shutil.copytree(made_once(tmp_path_factory, "dry-run", make), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


EARLY = [
    "--metric_for_best_model f1",
    "--freeze_backbone --metric_for_best_model eval_f1",
    "--report_to wandb",
    "--report_to flyte",
    "--report_to unheard_of",
    f"{ADAM} adamw_bnb_8bit",
    f"{ADAM} lomo",
    f"{ADAM} galore_adamw --optim_target_modules attn",
    f"--freeze_backbone {ADAM} schedule_free_sgd",
    "--lora_rank 4",
    "--learning_rate inf",
    "--alpha nan",
    "--momentum -inf",
    "--num_train_epochs inf",
    "--save_steps 0",
    "--save_total_limit -1",
    "--push_to_hub",
    "--push_to_hub --hub_model_id a/b/c",
    "--deepspeed ds.json",
    "--output_dir file",
    "--output_dir file/run",
    "--output_dir /proc/run",
    "--output_dir finished",
    "--output_dir finished --resume --learning_rate 1",
    "--output_dir data",
    "--resume_from_checkpoint nowhere",
]
LATE = [
    "--per_device_train_batch_size 32",
    "--freeze_backbone --per_device_train_batch_size 32",
    "--metric_for_best_model many",
    "--per_device_train_batch_size 7 --dataloader_drop_last false",
    "--queue_size 1000000000000",
    "--projection_dim 1000000000000",
    "--lr_scheduler_type cosine_with_min_lr",
    "--lr_scheduler_type polynomial --lr_scheduler_kwargs '{\"power\": [1]}'",
    "--optim_args betas=3",
    f"{ADAM} adamw_torch --adam_beta1 7",
    "--trainable_convolutions layer9",
    "--layer_decay 2e-1 --dataloader_prefetch_factor 2",
    "--batch_eval_metrics",
    "--freeze_backbone --cross_validation 99",
    "--output_dir stopped --resume --loss ce --validation_fraction 0.4",
    "--output_dir stopped --resume --loss ce",
    "--output_dir stopped --resume --projection_dim 7",
    f"--output_dir stopped --resume {ADAM} adamw_torch",
    "--output_dir stopped --resume_from_checkpoint stopped/checkpoint-2 --queue_size 7",
    "--output_dir stopped --resume --backbone test_vit --image_size 96",
]


@pytest.mark.parametrize("flags", [*EARLY, *LATE])
def test_a_dry_run_refuses_what_the_run_does(flags: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    argv = ["train", "--dataset", "data", *shlex.split(f"{TINY} --output_dir new {flags}")]
    before = files(home)
    lines = []
    for more in (["--dry_run"], []):
        assert main([*argv, *more]) == 2
        out, err = capsys.readouterr()
        assert ("labels: from the class folders" in out) == (flags in LATE)
        lines.append(re.sub(r"[\d.]+ GB are free", "some are free", err).splitlines())
        assert files(home) == before
    assert lines[0] == lines[1]
    assert len(lines[0]) == 1


def test_a_package_that_lacks_is_named_with_how_to_install_it(home: Path, capsys) -> None:
    argv = ["train", "--dataset", "data", *shlex.split(TINY)]
    line = complaint(capsys, *argv, "--report_to", "comet_ml")
    assert line.endswith(
        "report_to 'comet_ml' needs a package that is not installed: `pip install comet-ml`, or remove it"
    )
    line = complaint(capsys, *argv, *f"{ADAM} adamw_bnb_8bit".split())
    assert "optim 'adamw_bnb_8bit'" in line
    assert "`pip install -U bitsandbytes`" in line


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--resume --output_dir stopped --max_steps 4",
        "--resume --output_dir finished",
        "--overwrite --output_dir finished",
        "--freeze_backbone --class_centers means",
        "--class_centers means --loss ce",
        "--validation_fraction 0",
    ],
)
def test_a_dry_run_changes_nothing(flags: str, home: Path, capsys) -> None:
    before = files(home)
    out = printed(capsys, "--dataset", "data", *shlex.split(f"{TINY} {flags}"), "--dry_run")
    assert files(home) == before
    assert ("on this machine" in out) == (flags != "--resume --output_dir finished")
    assert "step 1/" not in out
    assert "validation top-1" not in out


def test_the_loss_is_judged_for_no_more_steps_than_the_run_has(home: Path, capsys) -> None:
    argv = ["--dataset", "data", *shlex.split(TINY), "--output_dir", "new", "--loss", "ce", "--learning_rate", "1e38"]
    assert "on this machine" in printed(capsys, *argv, "--max_steps", "1", "--dry_run")
    printed(capsys, *argv, "--max_steps", "1")
    shutil.rmtree("new")
    line = complaint(capsys, "train", *argv, "--max_steps", "9", "--dry_run")
    assert "the loss is" in line
    assert line == complaint(capsys, "train", *argv, "--max_steps", "9")


def test_a_dry_run_of_a_stream(stream: Path, tmp_path: Path, capsys) -> None:
    argv = [
        "--dataset",
        str(stream),
        "--streaming",
        *shlex.split(f"{TINY} --image_size 24"),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert "on this machine" in printed(capsys, *argv, "--dry_run")
    assert not any(tmp_path.iterdir())
    argv += ["--per_device_train_batch_size", "999"]
    assert complaint(capsys, "train", *argv, "--dry_run") == complaint(capsys, "train", *argv)


def test_no_tracker_starts_and_nothing_is_sent(home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    calls: list[str] = []
    monkeypatch.setattr("paco_hf.hub.upload.check_login", lambda *arguments: calls.append("login"))
    monkeypatch.setattr(
        "paco_hf.trainer.saving.CheckpointingTrainer.init_hf_repo", lambda self: calls.append("repository")
    )

    class Tracker(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs) -> None:
            calls.append("tracker")

    argv = shlex.split(f"--dataset data {TINY} --output_dir new --push_to_hub --dry_run")
    workflow.train(*parse_run(argv), callbacks=[Tracker()])
    assert calls == ["login"]

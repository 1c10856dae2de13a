"""What is said of a flag that there is not: what was meant, or nothing; never another thing."""

from pathlib import Path

import pytest
from user_data import complaint, folders

from paco_hf.arguments.hints import meant_name, unknown_argument
from paco_hf.arguments.parser import RunParser, parse_run

# What people type, and what they mean; "": there is none such, and no other one may be named.
TRAINING = {
    "--epochs": "num_train_epochs",
    "--num-epochs": "num_train_epochs",
    "--max_epochs=3": "num_train_epochs",
    "--lr": "learning_rate",
    "--lr=0.1": "learning_rate",
    "--base-lr": "learning_rate",
    "--learning-rates": "learning_rate",
    "--min_lr": "min_learning_rate",
    "--batch_size": "per_device_train_batch_size",
    "--batch-size": "per_device_train_batch_size",
    "-b": "per_device_train_batch_size",
    "-b32": "per_device_train_batch_size",
    "--bs": "per_device_train_batch_size",
    "--train_batch_size": "per_device_train_batch_size",
    "--eval_batch_size": "per_device_eval_batch_size",
    "--val-batch-size": "per_device_eval_batch_size",
    "--model": "backbone",
    "--arch": "backbone",
    "-a": "backbone",
    "--model_name": "backbone",
    "--model_name_or_path": "backbone",
    "--bacbone": "backbone",
    "--data": "dataset",
    "--data_dir": "dataset",
    "--data-path": "dataset",
    "--dataset_name": "dataset",
    "--train_dir": "dataset",
    "--output": "output_dir",
    "--out": "output_dir",
    "-o": "output_dir",
    "--save_dir": "output_dir",
    "--logdir": "output_dir",
    "--logging_dir": "output_dir",
    "--wd": "weight_decay",
    "--workers": "dataloader_num_workers",
    "--num_workers": "dataloader_num_workers",
    "-j": "dataloader_num_workers",
    "-j8": "dataloader_num_workers",
    "--img_size": "image_size",
    "--img-size": "image_size",
    "--imgsz": "image_size",
    "--input_size": "image_size",
    "--resolution": "image_size",
    "--amp": "precision",
    "--mixed_precision": "precision",
    "--val_split": "validation_fraction",
    "--val_size": "validation_fraction",
    "--train_val_split": "validation_fraction",
    "--test_size": "test_fraction",
    "--optimizer": "optim",
    "--opt": "optim",
    "--scheduler": "lr_scheduler_type",
    "--lr_scheduler": "lr_scheduler_type",
    "--warmup": "warmup_epochs",
    "--warmup_ratio": "warmup_steps",
    "--wandb": "report_to",
    "--tensorboard": "report_to",
    "--random_seed": "seed",
    "--manual-seed": "seed",
    "--label_smoothing": "label_smoothing_factor",
    "--grad_accum": "gradient_accumulation_steps",
    "--clip_grad": "max_grad_norm",
    "--evaluation_strategy": "eval_strategy",
    "--overwrite_output_dir": "overwrite",
    "--freeze": "freeze_backbone",
    "--lora_r": "lora_rank",
    "--folds": "cross_validation",
    "--steps": "max_steps",
    "--metric": "metric_for_best_model",
    "--config": "recipe",
    "--moco-k": "queue_size",
    "--tau": "temperature",
    "--imb_factor": "imbalance_factor",
    "--gpus": "nproc",
    "--dryrun": "dry_run",
    "--criterion": "loss",
    "--log_interval": "logging_steps",
    "--cpu": "use_cpu",
    "--label_col": "label_column",
    "--queu_size": "queue_size",
    "--reusme": "resume",
    "--early_stopping_patience": "",
    "--early-stopping": "",
    "--patience": "",
    "--device": "",
    "--gpu": "",
    "--cuda": "",
    "--num_classes": "",
    "--nc": "",
    "--checkpoint": "",
    "--ckpt": "",
    "--weights": "",
    "--val_dir": "",
    "--train_size": "",
    "--dropout": "",
    "--mixup": "",
    "--cutmix": "",
    "--ema": "",
    "--class_weights": "",
    "--oversample": "",
    "--jit_mode_eval": "",
    "--verbose": "",
    "--name": "",
    "--max_samples": "",
    "--unheard_of": "",
}
ADVICE = {
    "--early_stopping_patience": "--num_train_epochs",
    "--device": "CUDA_VISIBLE_DEVICES",
    "--num_classes": "detected from the data",
    "--ckpt": "--resume_from_checkpoint",
    "--val_dir": "--validation_split",
    "--train_size": "--validation_fraction",
    "--from_scratch": "--pretrained",
    "--mixup": "--query_view",
    "--ema": "--key_momentum",
    "--class_weights": "--loss balanced_softmax",
    "--weighted_sampler": "--loss balanced_softmax",
    "--focal": "--loss balanced_softmax",
    "--save_best": "--metric_for_best_model",
    "--verbose": "--logging_steps",
    "--name": "--run_name",
    "--unheard_of": "--help lists the arguments",
}


@pytest.fixture(scope="module")
def flags() -> list[str]:
    return [*RunParser("paco-hf train").flags, "--nproc"]


def test_a_habit_leads_to_what_is_meant_or_nowhere(flags: list[str]) -> None:
    wrong = {}
    for typed, right in TRAINING.items():
        if typed in flags:  # of the releases of transformers that still have it
            continue
        text = str(unknown_argument(typed, flags, "train"))
        if f"did you mean --{right}?" not in text if right else "did you mean" in text:
            wrong[typed] = text
    assert not wrong
    for typed, part in ADVICE.items():
        assert part in str(unknown_argument(typed, flags, "train"))


def test_what_is_advised_exists(flags: list[str]) -> None:
    from paco_hf.arguments import hints

    advice = " ".join(hints._habits()["train"].values())
    mentioned = {word.rstrip(",;") for word in advice.split() if word.startswith("--")}
    assert mentioned <= set(flags)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("train", "--epochs", "3"), "unknown argument '--epochs': did you mean --num_train_epochs?"),
        (("train", "--lr=0.1"), "unknown argument '--lr': did you mean --learning_rate?"),
        (("predict", "{run}", "{data}", "--topk", "3"), "did you mean --top?"),
        (("predict", "{run}", "{data}", "--batch-size", "3"), "did you mean --batch_size?"),
        (("predict", "{run}", "{data}", "--threshold", "0.5"), "store thresholds with `paco-hf evaluate --abstain`"),
        (("card", "{run}", "--threshold", "0.5"), "unknown argument '--threshold' (--help lists the arguments)"),
        (("predict", "{run}", "{data}", "--recursive"), "folders are always read recursively"),
        (("predict", "{run}", "{data}", "--output_dir", "x"), "did you mean --output?"),
        (("predict", "{run}", "{data}", "--csv"), "--output FILE.csv"),
        (("embed", "{run}", "{data}", "-o", "x"), "unknown argument '-o': did you mean --output?"),
        (("data", "prepare", "{data}", "-o", "x"), "unknown argument '-o': did you mean --out?"),
        (("data", "prepare", "{data}", "--threads", "2"), "required: --out"),
        (("predict", "{run}", "{data}", "--device", "cpu"), "CUDA_VISIBLE_DEVICES"),
        (
            ("predict", "{run}", "{data}", "--workers", "2"),
            "unknown argument '--workers' (--help lists the arguments)",
        ),
        (("predict", "--model", "{run}", "{data}"), "as the first argument, without a flag"),
        (("evaluate", "{run}", "--data_dir", "{data}"), "did you mean --dataset?"),
        (("evaluate", "{run}", "--output_path", "out"), "did you mean --output_dir?"),
        (("data", "prepare", "{data}", "--out", "new", "--workers", "2"), "did you mean --threads?"),
        (("report", "{run}", "--save", "x"), "did you mean --output?"),
        (("test", "{run}"), "unknown verb 'test': did you mean evaluate?"),
        (("fit",), "unknown verb 'fit': did you mean train?"),
        (("infer",), "unknown verb 'infer': did you mean predict?"),
        (("estimate_prior",), "unknown verb 'estimate_prior': did you mean estimate-prior?"),
        (("trian",), "unknown verb 'trian': "),
        (("fly",), "unknown verb 'fly': choose one of train"),
    ],
)
def test_every_verb_has_them(argv: tuple[str, ...], part: str, ce_run: Path, tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "photos", {"a": 1})
    assert part in complaint(capsys, *(word.format(run=ce_run, data=data) for word in argv))


def test_settings_of_recipes_and_small_slips(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 0.1\n")
    with pytest.raises(ValueError, match="unknown setting 'lr': did you mean learning_rate"):
        parse_run(["--recipe", str(tmp_path / "mine.yaml")])
    assert meant_name("datasett", {"dataset", "data_seed"}) == "dataset"
    assert meant_name("finetune", ["train"], "verbs") == "train"
    assert meant_name("finetune", ["predict"], "verbs") is None


@pytest.mark.parametrize(
    "dataset", [".", "./", "../photos", "../photos/", "../photos/.", "inner/..", "~/photos", "~/photos/"]
)
def test_a_run_is_named_after_the_folder(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    _, args = parse_run(["--dataset", dataset])
    assert args.output_dir == "runs/paco-photos"
    _, args = parse_run(["--dataset", dataset, "--loss", "ce"])
    assert args.output_dir == "runs/ce-photos"
    # On a pretrained backbone the loss follows from the data.
    assert parse_run(["--dataset", dataset, "--backbone", "resnet18", "--pretrained"])[1].output_dir == "runs/photos"


def test_other_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for dataset, name in {
        "user/name": "runs/paco-name",
        "labels.csv": "runs/paco-labels.csv",
        "/": "runs/paco-data",
    }.items():
        assert parse_run(["--dataset", dataset])[1].output_dir == name

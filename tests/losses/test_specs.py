"""The table of the losses: what its entries name exists, and a loss that is added to it works in every verb."""

import contextlib
import dataclasses
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor
from user_data import folders

from paco_hf import PaCoConfig, PaCoForContrastiveTraining, PaCoForImageClassification, PaCoTrainingArguments
from paco_hf.arguments.auto_settings import suggested_settings
from paco_hf.arguments.run_arguments import RunArguments
from paco_hf.cli import main
from paco_hf.losses.specs import FORMULA_SETTINGS, LOSSES, LossSpec, loss_spec
from paco_hf.models.modeling_contrastive import TRAINING_STATE_NAME
from paco_hf.reports.run_comparison import compare_runs

BATCH, QUEUE, STEPS = 16, 40, 3
COUNTS = {"ant": 40, "bee": 20, "cat": 12}


class Calls:
    """What the formulas were called with."""

    plain: ClassVar[list[dict[str, Any]]] = []
    pair: ClassVar[list[dict[str, Any]]] = []


def squared_error(class_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Brier's score: of one view, without a prior."""
    Calls.plain.append({"logits": tuple(class_logits.shape), "label_smoothing": label_smoothing})
    target = F.one_hot(labels, class_logits.shape[1]) * (1 - label_smoothing)
    return (class_logits.float().softmax(-1) - target).square().sum(-1).mean()


def pull_and_push(
    features: tuple[Tensor, Tensor],
    labels: Tensor,
    class_logits: Tensor,
    *,
    class_counts: Any = None,
    temperature: float = 0.2,
) -> Tensor:
    """Contrastive, of two views: cross-entropy, and InfoNCE of each query with the rows of its class."""
    batch, queue = features
    n = len(class_logits)
    Calls.pair.append(
        {
            "batch": tuple(batch.shape),
            "queue": tuple(queue.shape),
            "labels": tuple(labels.shape),
            "logits": tuple(class_logits.shape),
            "classes": len(class_counts),
            "temperature": temperature,
            "queue_has_gradient": queue.requires_grad,
        }
    )
    similarity = batch[:n] @ torch.cat([batch[n:], queue]).T / temperature
    same = labels[:n, None] == labels[None, n:]
    contrast = -(similarity.log_softmax(-1) * same).sum(-1) / same.sum(-1)
    return F.cross_entropy(class_logits.float(), labels[:n]) + contrast.mean()


PLAIN = LossSpec(
    name="toy_plain",
    title="a toy of one view",
    formula=f"{__name__}:squared_error",
    settings=("label_smoothing_factor",),
)
PAIR = LossSpec(
    name="toy_pair",
    title="a toy of two views",
    description="pulled together by {title}",
    formula=f"{__name__}:pull_and_push",
    views=2,
    contrastive=True,
    key_encoder=True,
    enqueues="key",
    prior="optional",
    settings=("temperature",),
)


@contextlib.contextmanager
def toys_in_the_table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for spec in (PLAIN, PAIR):
            patch.setitem(LOSSES, spec.name, spec)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    photos = folders(tmp_path_factory.mktemp("photos"), COUNTS)
    with toys_in_the_table():
        for spec in (PLAIN, PAIR):
            short = {
                "loss": spec.name,
                "dataset": photos,
                "backbone": "cifar_resnet20",
                "max_steps": STEPS,
                "save_steps": 1,
                "save_total_limit": STEPS,
                "per_device_train_batch_size": BATCH,
                "queue_size": QUEUE,
                "projection_dim": 8,
                "temperature": 0.3 if spec.contrastive else 0.5,
                "label_smoothing_factor": 0.0 if spec.contrastive else 0.1,
                "precision": "fp32",
                "output_dir": folder / spec.name,
            }
            flags = [text for name, value in short.items() for text in (f"--{name}", str(value))]
            assert main(["train", *flags]) == 0
    return folder


@pytest.fixture
def runs(trained: Path) -> Iterator[Path]:
    """A run of each toy, and both in the table."""
    with toys_in_the_table():
        yield trained


def test_the_formulas_are_called_with_what_their_entries_say(runs: Path) -> None:
    assert Calls.plain == [{"logits": (BATCH, len(COUNTS)), "label_smoothing": 0.1}] * STEPS
    assert (
        Calls.pair
        == [
            {
                "batch": (2 * BATCH, 8),
                "queue": (QUEUE, 8),
                "labels": (2 * BATCH + QUEUE,),
                "logits": (BATCH, len(COUNTS)),
                "classes": len(COUNTS),
                "temperature": 0.3,
                "queue_has_gradient": False,
            }
        ]
        * STEPS
    )


def test_parameters_move(runs: Path) -> None:
    first, last = ({spec.name: runs / spec.name / f"checkpoint-{n}" for spec in (PLAIN, PAIR)} for n in (1, STEPS))
    for spec in (PLAIN, PAIR):
        before, after = (load_file(folder[spec.name] / "model.safetensors") for folder in (first, last))
        for name, tensor in after.items():
            assert not torch.equal(before[name], tensor), name
    before, after = (load_file(folder[PAIR.name] / TRAINING_STATE_NAME) for folder in (first, last))
    for name, tensor in after.items():
        assert not torch.equal(before[name], tensor), name
    assert after["queue.pointer"].item() == STEPS * BATCH % QUEUE
    model = PaCoForContrastiveTraining.from_pretrained(last[PAIR.name])
    assert (model.spec, model.projector_type) == (PAIR, "mlp3-relu")
    assert not (last[PLAIN.name] / TRAINING_STATE_NAME).exists()


@pytest.mark.parametrize("spec", [PLAIN, PAIR], ids=lambda spec: spec.name)
def test_what_a_run_leaves(
    runs: Path, spec: LossSpec, capsys: pytest.CaptureFixture[str], blank_figures: None
) -> None:
    folder = runs / spec.name
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["loss"] == spec.name
    scores = json.loads((folder / "metrics.json").read_text())["test"]
    assert json.loads((folder / "config.json").read_text())["balanced_logits"] == (spec.prior != "none")
    # One report, of the two.
    assert main(["evaluate", str(folder), "--json", *(["--no_report"] if spec is PLAIN else [])]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(scores["accuracy"], abs=1e-6)
    assert main(["card", str(folder)]) == 0
    card = (folder / "README.md").read_text()
    assert spec.description.format(title=spec.title) in card
    # Among the settings a loss's own, and none that it does not have.
    assert ("| `queue_size` | " in card) == spec.contrastive


def test_the_comparison_sees_what_each_uses(runs: Path, tmp_path: Path) -> None:
    folders = [runs / spec.name for spec in (PLAIN, PAIR)]
    # Temperature and label smoothing differ too, but each is of one of the losses alone.
    assert compare_runs(folders)["settings"] == {"loss": [PLAIN.name, PAIR.name]}
    page = tmp_path / "comparison.html"
    assert main(["report", *map(str, folders), "--output", str(page)]) == 0
    assert all(spec.name in page.read_text() for spec in (PLAIN, PAIR))


def test_help_and_errors_name_a_loss_that_was_added(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--loss", PLAIN.name, "--dry_run"]) == 2
    assert f"invalid choice: '{PLAIN.name}'" in capsys.readouterr().err
    monkeypatch.setitem(LOSSES, PLAIN.name, PLAIN)
    assert main(["train", "--help"]) == 0
    assert f"ce,{PLAIN.name}}}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"loss must be one of paco, .*, {PLAIN.name}, got 'pacco'"):
        loss_spec("pacco")
    assert not suggested_settings(600, 224, False, loss=PLAIN.name).keys() & {"queue_size", "alpha", "temperature"}


def test_the_table_loads_without_torch() -> None:
    code = "import sys; from paco_hf.losses import LOSSES; print(*LOSSES, *{'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_entries_name_what_exists(name: str) -> None:
    spec = LOSSES[name]
    assert spec.name == name
    parameters = inspect.signature(pkgutil.resolve_name(spec.formula)).parameters
    training = {field.name for field in dataclasses.fields(PaCoTrainingArguments)}
    run = {field.name for field in dataclasses.fields(RunArguments)}
    assert set(spec.settings) <= training
    assert {FORMULA_SETTINGS[setting] for setting in spec.settings} <= parameters.keys()
    assert ("class_counts" in parameters) == (spec.prior != "none")
    assert ("return_terms" in parameters) == spec.return_terms
    assert spec.ignores <= training | run
    assert not spec.ignores & set(spec.settings)


def test_what_each_loss_ignores() -> None:
    contrastive = {"alpha", "beta", "gamma", "temperature", "supervised_temperature", "key_view", "queue_size"}
    contrastive |= {"projection_dim", "projector", "key_momentum", "gather_batch"}
    assert {name: set(spec.ignores) for name, spec in LOSSES.items()} == {
        "paco": set(),
        "gpaco": {"key_momentum"},
        "multitask": {"key_momentum", "beta", "gamma", "supervised_temperature"},
        "gpaco_single": {"key_momentum", "key_view"},
        "balanced_softmax": contrastive,
        "ce": contrastive | {"class_prior"},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": 2}, "need contrastive=True"),
        ({"enqueues": "query"}, "need contrastive=True"),
        ({"contrastive": True, "key_encoder": True}, "need views=2"),
        ({"contrastive": True, "enqueues": "key"}, "need views=2"),
        ({"contrastive": True, "views": 2, "key_encoder": True, "anchors": "views"}, "needs anchors='query'"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"loss 'toy': .*{message}"):
        LossSpec(name="toy", title="toy", formula=f"{__name__}:squared_error", **fields)


@pytest.mark.parametrize("enqueues", ["key", "query", None])
def test_the_queue_takes_what_the_entry_says(monkeypatch: pytest.MonkeyPatch, enqueues: Any) -> None:
    """Both views through one encoder, the anchors of the query view alone."""
    spec = dataclasses.replace(PAIR, name="toy", key_encoder=False, enqueues=enqueues, ignores=frozenset())
    monkeypatch.setitem(LOSSES, "toy", spec)
    config = PaCoConfig(backbone="cifar_resnet20", num_labels=5, image_size=32)
    model = PaCoForContrastiveTraining.from_classifier(
        PaCoForImageClassification(config), variant="toy", projection_dim=8, queue_size=6
    )
    query, key = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    out = model(query, key_pixel_values=key, labels=torch.arange(4))
    assert out.logits.shape == (4, 5)
    assert out.features.requires_grad
    if enqueues is None:
        assert len(out.features) == 8
        assert len(model.queue.labels) == 0
    else:
        rows = out.features[:4] if enqueues == "query" else out.features[4:8]
        assert torch.equal(model.queue.features[:4], rows.detach())
        assert model.queue.labels[:4].tolist() == [0, 1, 2, 3]

"""Data and weights of a certain commit, on the hub of `tests/loopback_hub.py`: pinned by a run, and used again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from conftest import ROOT
from datasets import ClassLabel
from huggingface_hub import ModelCard
from loopback_hub import Commit, File, Hub, Repo
from safetensors.torch import save
from test_upload import Computer
from user_data import parquet

from paco_hf.arguments.parser import parse_run
from paco_hf.runs.output_folder import changed_settings
from paco_hf.workflows import evaluation_data, pins

DATA, WEIGHTS, MODEL = "ada/birds", "ada/backbone", "ada/model"
CHECKPOINT = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"
NAMES = ClassLabel(names=["owl", "tit"])
TRAIN = ["train", "--dataset", DATA, "--backbone", f"hf://{WEIGHTS}", "--freeze_backbone", "false"]
TRAIN += ["--image_size", "32", "--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "4"]
TRAIN += ["--loss", "ce", "--inspect", "false", "--report", "false"]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub({"token-ada": "ada"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def computer(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computer]:
    folder = tmp_path_factory.mktemp("ada")
    with Computer(folder, hub.environment(None, folder / "home")) as computer:
        computer.home = folder / "home"
        yield computer


def add_commit(hub: Hub, kind: str, name: str, files: dict[str, bytes], branch: str = "main") -> Commit:
    repo = hub.repos.setdefault((kind, name), Repo(name, kind, private=False))
    stored = {path: File(data, lfs=path.endswith((".parquet", ".safetensors"))) for path, data in files.items()}
    for file in stored.values():
        if file.lfs:
            repo.store(file.sha256, file.data)
    before = repo.branches["main"].files if repo.branches else {"README.md": File(b"---\n---\n", lfs=False)}
    return repo.commit(branch, before | stored, "images", "", "ada")


def images(folder: Path, labels: list[int]) -> bytes:
    return parquet(folder / "some.parquet", labels, NAMES).read_bytes()


def backbone(seed: int) -> dict[str, bytes]:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=0)
    config = {"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": model.pretrained_cfg}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(model.state_dict())}


@pytest.fixture(scope="module")
def commits(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two commits each of a data set and of weights; `first` is a branch of the earlier ones."""
    folder, named = tmp_path_factory.mktemp("images"), {}
    for kind, name, contents in (
        ("dataset", DATA, [{"train.parquet": images(folder, labels)} for labels in ([0, 1] * 6, [0, 1, 1] * 6)]),
        ("model", WEIGHTS, [backbone(seed) for seed in (1, 2)]),
    ):
        for number, files in enumerate(contents):
            named[f"{kind} {number}"] = add_commit(hub, kind, name, files).sha
        repo = hub.repos[kind, name]
        repo.branches["first"] = repo.commits[named[f"{kind} 0"]]
    return named


@contextmanager
def offline(computer: Computer) -> Iterator[None]:
    """As with HF_HUB_OFFLINE, which the clients read when they are imported."""
    code = "import datasets.config as one, huggingface_hub.constants as other\n"
    code += "one.HF_HUB_OFFLINE = other.HF_HUB_OFFLINE = {}"
    computer.python(code.format(True))
    yield
    computer.python(code.format(False))


def facts(run: Path) -> tuple[dict, dict]:
    return json.loads((run / "run.json").read_text()), yaml.safe_load((run / "recipe.yaml").read_text())


def interrupted(computer: Computer, *command: object) -> None:
    """A run that ends after its first checkpoint."""
    code = f"""
from paco_hf.cli import main
from paco_hf.runs.record import run_record
from unittest.mock import patch
with patch("paco_hf.workflows.train.finish", side_effect=OSError("the end")):
    assert main({[*map(str, command)]!r}) == 2
"""
    computer.python(code)


def test_a_run_keeps_its_commits_and_goes_on_with_them(
    hub: Hub, computer: Computer, commits: dict[str, str], tmp_path: Path
) -> None:
    run, settings = tmp_path / "run", ("--output_dir", tmp_path / "run")
    first = (*TRAIN, "--dataset", f"{DATA}@first", "--backbone", f"hf://{WEIGHTS}@first", *settings)
    interrupted(computer, *first)
    # The branch has moved on: resumed with it by its name the run is refused, without a name it goes on with its own.
    repo = hub.repos["dataset", DATA]
    repo.branches["first"] = repo.branches["main"]
    refusal = computer.refused(*first, "--resume")
    assert (
        f"{DATA} at {commits['dataset 0'][:7]}, but --dataset_revision first is {commits['dataset 1'][:7]}" in refusal
    )
    repo.branches["first"] = repo.commits[commits["dataset 0"]]
    out = computer.paco_hf(*TRAIN, *settings, "--resume", "--report", "true")
    assert "resuming from" in out
    assert "changed settings" not in out
    record, recipe = facts(run)
    assert record["revisions"] == {
        "data": {"repository": DATA, "commit": commits["dataset 0"]},
        "weights": {"repository": WEIGHTS, "commit": commits["model 0"]},
    }
    assert (recipe["dataset"], recipe["dataset_revision"]) == (DATA, commits["dataset 0"])
    assert (recipe["backbone"], recipe["backbone_revision"]) == (f"hf://{WEIGHTS}", commits["model 0"])
    card = ModelCard.load(run / "README.md")
    assert card.data.base_model == WEIGHTS
    assert f"`{DATA}` at commit `{commits['dataset 0'][:12]}`" in card.text
    assert f"`{WEIGHTS}` at commit `{commits['model 0'][:12]}`" in card.text
    # Finished, it is the run of these commits whatever they are called; and its recipe trains on them again.
    for again in (first, (*TRAIN, *settings)):
        assert "nothing to resume" in computer.paco_hf(*again, "--resume")
    computer.paco_hf("train", "--recipe", run / "recipe.yaml", "--output_dir", tmp_path / "again")
    again, _ = facts(tmp_path / "again")
    assert (again["revisions"], again["data"]) == (record["revisions"], record["data"])
    computer.paco_hf(*TRAIN, "--output_dir", tmp_path / "newest")
    newest, _ = facts(tmp_path / "newest")
    assert [one["commit"] for one in newest["revisions"].values()] == [commits["dataset 1"], commits["model 1"]]
    shown = computer.paco_hf("report", run, tmp_path / "newest", "--output", tmp_path / "both.html")
    for commit in commits.values():
        assert commit[:7] in shown
        assert commit[:7] in (tmp_path / "both.html").read_text()
    assert "balanced" in computer.paco_hf("evaluate", run, "--dataset", f"{DATA}@first", "--no_report")


def test_without_a_network_revisions_are_those_of_the_cache(
    hub: Hub, computer: Computer, commits: dict[str, str], tmp_path: Path
) -> None:
    computer.paco_hf(
        *TRAIN, "--backbone_revision", "first", "--dataset_revision", "first", "--output_dir", tmp_path / "a"
    )
    computer.paco_hf(*TRAIN, "--output_dir", tmp_path / "b")
    requests = len(hub.requests)
    with offline(computer):
        for revision, number in (("first", 0), (commits["dataset 0"], 0), (None, 1)):
            out = tmp_path / f"offline-{revision}"
            named = ["--dataset_revision", revision] if revision else []
            computer.paco_hf(*TRAIN, *named, "--output_dir", out)
            assert facts(out)[0]["revisions"]["data"]["commit"] == commits[f"dataset {number}"]
        assert "balanced" in computer.paco_hf("evaluate", tmp_path / "a", "--no_report")
        refusal = computer.refused(*TRAIN, "--dataset_revision", "v9", "--output_dir", tmp_path / "no")
        assert f"the revision 'v9' of {DATA} is not in the cache (it has first, main, " in refusal
    assert len(hub.requests) == requests


def test_revisions_that_there_are_not(hub: Hub, computer: Computer, commits: dict[str, str], tmp_path: Path) -> None:
    end = ("--output_dir", tmp_path / "none")
    for flags, name in ((["--dataset", f"{DATA}@v9"], DATA), (["--backbone", f"hf://{WEIGHTS}@v9"], WEIGHTS)):
        refusal = computer.refused(*TRAIN, *flags, *end)
        line = f"{name} has no revision 'v9' (branches main, first): use one of its branches, tags or commits"
        assert line in refusal
    (tmp_path / "photos").mkdir()
    for flags in (
        ["--dataset", f"{tmp_path}/photos", "--dataset_revision", "v1"],
        ["--dataset", "builtin@v1"],
        ["--backbone", "resnet18", "--backbone_revision", "v1"],
    ):
        refusal = computer.refused(*TRAIN, *flags, *end)
        assert "from the Hub, so it has no revision 'v1': remove the revision" in refusal
    two = ("--dataset", f"{DATA}@first", "--dataset_revision", "main")
    assert "name two revisions: use only one of them" in computer.refused(*TRAIN, *two, *end)
    assert not (tmp_path / "none").exists()


def test_what_the_hub_refuses_is_not_what_it_cannot_answer(
    hub: Hub, computer: Computer, commits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "from paco_hf.utils.hub_commits import resolve_commit\n"
    asked += f"print(resolve_commit('{DATA}', 'first', 'dataset'))"
    first = commits["dataset 0"]
    path = f"/api/datasets/{DATA}"
    computer.paco_hf("data", "stats", f"{DATA}@first")
    for status, answer in ((200, first), (429, first), (503, first), (403, "None"), (401, "None")):
        hub.fail_next("GET", path, status, times=100 * (status > 200))
        assert computer.python(asked)[0].split() == [answer], status
        if status == 503:
            assert "12 images" in computer.paco_hf("data", "stats", f"{DATA}@first")
        hub.disarm()
    # A run that is resumed is not told that a branch is a commit.
    monkeypatch.setattr(pins, "resolve_commit", lambda *asked: None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"dataset": DATA, "dataset_revision": first}))
    with pytest.raises(
        ValueError, match="_revision main is unknown, because the Hub denies access to the repository: remove"
    ):
        pins.pin_run(*parse_run(["--dataset", f"{DATA}@main", "--output_dir", str(tmp_path), "--resume"]))


def test_another_revision_is_not_the_data_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {(DATA, "v2"): 40 * "a", ("uoft-cs/cifar100", "v2"): 40 * "a", (DATA, "v3"): 40 * "b"}
    monkeypatch.setattr(evaluation_data, "resolve_commit", lambda name, revision, kind: answers.get((name, revision)))

    def same(dataset: str, trained_on: str, commit: str | None = 40 * "a") -> bool:
        recipe = {"dataset": trained_on, "dataset_revision": commit}
        return evaluation_data.names_run_data(SimpleNamespace(recipe=recipe), dataset)

    address = f"hf://datasets/{DATA}"
    for name, trained_on in ((f"{DATA}@v2", DATA), (f"{DATA}:small@v2", f"{DATA}:small"), ("cifar100@v2", "cifar100")):
        assert same(name, trained_on)
        assert not same(name, trained_on, 40 * "b")
    assert same(f"{address}@v2/x", f"{address}/x")
    assert same(DATA, DATA)
    assert not same(f"{address}@v3/x", f"{address}/x")
    assert not same(f"{DATA}@refused", DATA)
    assert not same(f"{DATA}@refused", DATA, None)
    assert not same(f"{DATA}@v2", "ada/fish")


def test_models_of_a_revision(hub: Hub, computer: Computer, tmp_path: Path) -> None:
    files = {name: (CHECKPOINT / name).read_bytes() for name in ("config.json", "preprocessor_config.json")}
    weights = {"model.safetensors": (CHECKPOINT / "model.safetensors").read_bytes()}
    old = add_commit(hub, "model", MODEL, files | weights)
    hub.repos["model", MODEL].branches["v1"] = old
    config = json.loads(files["config.json"])
    renamed = {label: f"new {name}" for label, name in config["id2label"].items()}
    config |= {"id2label": renamed, "label2id": {name: int(label) for label, name in renamed.items()}}
    add_commit(hub, "model", MODEL, {"config.json": json.dumps(config).encode()})
    picture = str(CHECKPOINT / "prior.png")

    def label(*flags: str, model: str = MODEL) -> str:
        return json.loads(computer.paco_hf("predict", model, picture, "--json", *flags))[0]["label"]

    assert label().startswith("new ")
    for answer in (label("--revision", "v1"), label(model=f"{MODEL}@v1"), label("--revision", old.sha)):
        assert not answer.startswith("new ")
    embed = ("embed", MODEL, picture, "--output", tmp_path / "x.safetensors")
    assert "features of 1 images" in computer.paco_hf(*embed, "--revision", "v1")
    assert f"{MODEL} has no revision 'v9' (branches main, v1)" in computer.refused(*embed, "--revision", "v9")
    refusal = computer.refused("predict", CHECKPOINT, picture, "--revision", "v1")
    assert "is a local folder: remove the flag" in refusal


def test_weights_of_a_name_of_timms(hub: Hub, computer: Computer) -> None:
    name = "test_resnet.r160_in1k"
    shas = [add_commit(hub, "model", f"timm/{name}", backbone(seed)).sha for seed in (3, 4)]
    code = """
import timm, torch
from paco_hf import PaCoForImageClassification
from paco_hf.arguments.parser import parse_run
from paco_hf.workflows.build import new_model
from paco_hf.models.pretrained_backbones import find_backbone
from paco_hf.workflows.pins import pin_run
for revision in ("{first}", "main"):
    flags = ["--backbone", "{name}", "--pretrained", "true", "--output_dir", "no", "--backbone_revision", revision]
    run = pin_run(*parse_run(flags))
    model = new_model(run, find_backbone(run.backbone, run.backbone_revision), {{}}, num_labels=2)
    torch.manual_seed(3 if revision != "main" else 4)
    expected = timm.create_model("test_resnet", num_classes=0).state_dict()
    loaded = model.paco.backbone.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    assert "pretrained_cfg_overlay" not in model.config.backbone_kwargs
    print(run.backbone_revision)
"""
    out, _ = computer.python(code.format(first=shas[0], name=name))
    assert out.split() == shas


def test_addresses_of_data_have_their_commits(hub: Hub, computer: Computer, commits: dict[str, str]) -> None:
    address = f"hf://datasets/{DATA}"
    assert "12 images" in computer.paco_hf("data", "stats", f"{address}@first")
    assert "18 images" in computer.paco_hf("data", "stats", f"{address}")
    code = f"""
from paco_hf.arguments.parser import parse_run
from paco_hf.workflows.pins import pin_run
from paco_hf.data.loading import load_data
from paco_hf.data.spec import DataSpec
run = pin_run(*parse_run(["--dataset", "{address}@first", "--output_dir", "no"]))
print(run.dataset, run.dataset_revision, sum(load_data(DataSpec.from_settings(vars(run))).class_counts))
"""
    assert computer.python(code)[0].split() == [address, commits["dataset 0"], "12"]
    refusal = computer.refused(*TRAIN, "--dataset", f"{address}@v9", "--output_dir", "no")
    assert f"{DATA} has no revision 'v9'" in refusal


def test_a_run_of_before_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    settings = {"dataset": DATA, "backbone": f"hf://{WEIGHTS}", "backbone_revision": 40 * "a"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"dataset": DATA, "backbone": f"hf://{WEIGHTS}@first"}))
    assert changed_settings(tmp_path, settings | {"dataset_revision": 40 * "b"}) == ""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings | {"dataset_revision": 40 * "c"}))
    changed = changed_settings(tmp_path, settings | {"dataset_revision": 40 * "b"})
    assert changed == f"dataset_revision {40 * 'c'} -> {40 * 'b'}"

"""From training to the Hub and back, each step in a process of its own, on the hub of `tests/loopback_hub.py`."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import patience
import pytest
import torch
import yaml
from conftest import golden_path
from datasets import Value
from huggingface_hub import ModelCard
from loopback_hub import File, Hub, Repo
from miniature import picture
from safetensors.torch import load
from user_data import SPECIES, labels_of, parquet

from paco_hf import PaCoForImageClassification, PaCoTrainingArguments
from paco_hf.cli import main
from paco_hf.inference.prediction import predict
from paco_hf.reports.model_card_text import NO_LICENSE

REPO, HIDDEN, REFUSED = "ada/rare-things", "ada/hidden-things", "ada/refused-things"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub({"token-ada": "ada", "token-bob": "bob"}) as hub:
        yield hub


def train_flags(root: Path) -> list[str]:
    flags = "--backbone cifar_resnet20 --image_size 32 --max_steps 4 --per_device_train_batch_size 4 --queue_size 8"
    return ["train", "--dataset", f"{root}/birds", *flags.split()]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on a folder of one's own, whose path is nobody's business."""
    root = tmp_path_factory.mktemp("secret-place")
    for split, images in (("train", 6), ("test", 2)):
        for label in range(3):
            folder = root / "birds" / split / f"bird {label}"
            folder.mkdir(parents=True)
            for i in range(images - label if split == "train" else images):
                picture(100 * label + i, (40, 32)).save(folder / f"{i}.png")
    assert main([*train_flags(root), "--output_dir", f"{root}/run"]) == 0
    return root / "run"


def python(*command: object, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    arguments = [sys.executable, *map(str, command)]
    return patience.run(arguments, cwd=cwd, env=environment)


class Computer:
    """A process somewhere else, whose user types `paco-hf` commands, or Python. Waiting before another attempt takes
    no time, nor do figures and the estimate of a dry run."""

    LOOP = """
import contextlib, gc, io, json, os, sys, time, traceback
from matplotlib.figure import Figure
from PIL import Image
from paco_hf import PaCoTrainingArguments
from paco_hf.cli import main
from paco_hf.workflows import train

def save(figure, file, **options):
    file.write("<svg></svg>") if options["format"] == "svg" else Image.new("RGB", (1, 1)).save(file, "PNG")

def run(code):
    try:
        exec(code, {})
    except Exception:
        traceback.print_exc()
        return 1
    return 0

time.sleep, Figure.savefig, train.rehearse = lambda seconds: None, save, lambda *arguments: []
gc.freeze()
for line in sys.stdin:
    argv, token = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(argv[1]) if argv[0] == "-c" else main(argv)
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", self.LOOP]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True)

    def paco_hf(self, *command: object, token: str | None = "token-ada") -> str:
        """What a command prints."""
        status, out, err = self._answer(command, token)
        assert status == 0, err
        return out

    def python(self, code: str, token: str | None = "token-ada") -> tuple[str, str]:
        """What the code prints, and what it says of errors."""
        status, out, err = self._answer(("-c", code), token)
        assert status == 0, err
        return out, err

    def refused(self, *command: object, token: str | None = "token-ada") -> str:
        """The one line that a refused command prints."""
        status, out, err = self._answer(command, token)
        assert status == 2, out
        assert err.count("\n") == 1, err
        return err

    def _answer(self, command: tuple, token: str | None) -> tuple[int, str, str]:
        self.process.stdin.write(json.dumps([list(map(str, command)), token]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> "Computer":
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def computer(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computer]:
    folder = tmp_path_factory.mktemp("ada")
    with Computer(folder, hub.environment(None, folder / "home")) as computer:
        yield computer


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["paco_hf"] = None  # as where the package is not installed
"""
# The same in a process that has imported it, and goes on with it.
FORGET_THE_PACKAGE = """
import sys, paco_hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
known = CONFIG_MAPPING._extra_content.pop("paco")
sys.modules["paco_hf"] = None
"""
REMEMBER_THE_PACKAGE = """
sys.modules["paco_hf"] = paco_hf
CONFIG_MAPPING._extra_content["paco"] = known
"""
CLASSIFY = """
import json
import torch
from transformers import AutoModelForImageClassification, pipeline
keywords = {{"trust_remote_code": True}} if {remote} else {{}}
classify = pipeline("image-classification", {repo!r}, **keywords)
first = classify({image!r})
classify.model.save_pretrained("saved")
again = AutoModelForImageClassification.from_pretrained("saved", **keywords)
images = torch.ones(1, 3, 32, 32)
assert torch.equal(again.eval()(images).logits, classify.model(images).logits)
print(json.dumps([first, type(classify.model).__module__]))
"""


def classified_without_the_package(repo: str, image: Path, folder: Path, environment: dict[str, str]) -> list:
    """What `CLASSIFY` prints in a process where this package is not installed."""
    folder.mkdir()
    code = WITHOUT_THE_PACKAGE + CLASSIFY.format(remote=True, repo=repo, image=str(image))
    done = python("-c", code, cwd=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_train_push_and_load_elsewhere(hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path) -> None:
    push = ("push", run_folder, REPO, "--include_training_state", "--license", "cc-by-4.0")
    computer.paco_hf(*push)
    files = hub.files(REPO)
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "abstention.py",
        "accuracy_by_frequency.png",
        "backbones.py",
        "class_counts.png",
        "config.json",
        "configuration_paco.py",
        "metrics.json",
        "model.safetensors",
        "modeling_paco.py",
        "paco_training_state.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
        "splits.json",
        "run.json",
        "training_curve.png",
    }
    assert len(hub.commits(REPO)) == 2  # the first is the Hub's own
    for name, content in files.items():
        assert b"secret-place" not in content, name
        assert b"optimizer.pt" not in content, name
    metrics = json.loads((run_folder / "metrics.json").read_text())["test"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert card.data.pipeline_tag == "image-classification"
    measured = {(result.dataset_split, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert measured["test", "top-1 accuracy"] == round(metrics["accuracy"], 6)
    assert f'model="{REPO}"' in card.text
    assert yaml.safe_load(files["recipe.yaml"])["dataset"] == "birds"

    # Anyone, elsewhere: with the package, without it, and from the shell.
    image = tmp_path / "bird.png"
    picture(1, (40, 32)).save(image)
    code = [CLASSIFY.format(remote=remote, repo=REPO, image=str(image)) for remote in (False, True)]
    code[1] = f"{FORGET_THE_PACKAGE}{code[1]}{REMEMBER_THE_PACKAGE}"
    answers = [json.loads(computer.python(one, token=None)[0]) for one in code]
    assert answers[0][0] == answers[1][0]
    assert answers[0][0][0]["label"].startswith("bird ")
    assert answers[0][1] == "paco_hf.models.modeling_paco"
    assert answers[1][1].startswith("transformers_modules.ada.")
    (predicted,) = json.loads(computer.paco_hf("predict", REPO, image, "--json", token=None))
    assert predicted["label"] == answers[0][0][0]["label"]

    # Once more: nothing has changed, so nothing is sent but the questions.
    sent = len(hub.seen("PUT", ""))
    computer.paco_hf(*push)
    assert len(hub.seen("PUT", "")) == sent
    assert hub.files(REPO) == files


@pytest.mark.slow
def test_code_of_the_hub_needs_no_package(hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path) -> None:
    """In a process that never had it."""
    computer.paco_hf("push", run_folder, REPO)
    image = tmp_path / "bird.png"
    picture(1, (40, 32)).save(image)
    with_it = json.loads(computer.python(CLASSIFY.format(remote=False, repo=REPO, image=str(image)), token=None)[0])
    environment = hub.environment(None, tmp_path / "cache")
    without_it = classified_without_the_package(REPO, image, tmp_path / "elsewhere", environment)
    assert without_it[0] == with_it[0]
    assert without_it[1].startswith("transformers_modules.ada.")


def test_private_repositories_and_revisions(hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "bird.png"
    picture(1, (40, 32)).save(image)
    computer.paco_hf("push", run_folder, HIDDEN, "--private", "--revision", "v1")
    assert "model.safetensors" in hub.files(HIDDEN, "v1")
    assert set(hub.files(HIDDEN)) == {".gitattributes"}
    computer.paco_hf("push", run_folder, HIDDEN, "--private")
    assert "cannot be loaded from the Hub" in computer.refused("predict", HIDDEN, image, token="token-bob")
    assert json.loads(computer.paco_hf("predict", HIDDEN, image, "--json"))
    computer.paco_hf("push", run_folder, "ada/public")
    commits = len(hub.commits("ada/public"))
    assert "exists and is public, so nothing is pushed" in computer.refused(
        "push", run_folder, "ada/public", "--private"
    )
    assert len(hub.commits("ada/public")) == commits


def test_what_is_pushed_says_nothing_of_the_computer(
    hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "place" / "run"
    shutil.copytree(run_folder, run)
    (run / "emissions.csv").write_text("timestamp,emissions\nnow,0.5\n")
    config = json.loads((run / "config.json").read_text())
    weights = tmp_path / "place" / "weights.safetensors"
    weights.touch()
    config |= {"temperature": 2.0, "backbone_kwargs": {"pretrained_cfg_overlay": {"file": str(weights)}}}
    (run / "config.json").write_text(json.dumps(config))
    computer.paco_hf("push", run, "rare", "--license", "mit")  # the name of the token's owner is added
    files = hub.files("ada/rare")
    assert all(str(tmp_path).encode() not in content for content in files.values())
    assert json.loads(files["config.json"])["temperature"] == 2.0
    assert b"0.5 kg CO2" in files["README.md"]
    # An edited card is kept, with the license that is asked for; one that tells of a path is not sent.
    computer.paco_hf("card", run)
    card = (run / "README.md").read_text()
    (run / "README.md").write_text(card.replace("## Limits", "## Limits\n\nMine."))
    assert NO_LICENSE in card
    computer.paco_hf("push", run, "ada/rare", "--license", "cc0-1.0")
    assert b"Mine." in hub.files("ada/rare")["README.md"]
    assert NO_LICENSE.encode() not in hub.files("ada/rare")["README.md"]
    assert ModelCard(hub.files("ada/rare")["README.md"].decode()).data.license == "cc0-1.0"
    (run / "README.md").write_text(f"{card}\nSee {weights}.")
    assert f"the local path {weights}" in computer.refused("push", run, "ada/never")
    assert ("model", "ada/never") not in hub.repos


@pytest.mark.slow
def test_refusals_of_the_hub_are_one_line(hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path) -> None:
    push = ("push", run_folder, REFUSED)
    assert "hf auth login" in computer.refused(*push, token=None)
    message = computer.refused(*push, token="token-nobody's")
    assert "HTTP 401" in message
    assert "hf auth login" in message
    message = computer.refused(*push, token="token-bob")
    assert "HTTP 403" in message
    assert "write access" in message
    for status, hint in ((409, "try again"), (429, "too many requests"), (500, "in trouble")):
        hub.fail_next("POST", "/commit/", status)
        message = computer.refused(*push)
        assert f"HTTP {status}" in message
        assert hint in message
    hub.cut_next("POST", "/commit/")
    assert "cannot be reached" in computer.refused(*push)
    assert "name" in computer.refused("push", run_folder, "no/such/name")
    # At once where a run is to be pushed at its end; and pushed later, when it could not be.
    train = [*train_flags(run_folder.parent), "--output_dir", run_folder, "--resume"]
    train += ["--push_to_hub", "true", "--hub_model_id", "ada/at-the-end"]
    hub.fail_next("POST", "/commit/", 500)
    assert "HTTP 500" in computer.refused(*train)
    assert "published: " in computer.paco_hf(*train)
    assert "model.safetensors" in hub.files("ada/at-the-end")
    assert "no finished model" in computer.refused("push", tmp_path, REFUSED)
    assert "model.safetensors" not in hub.files(REFUSED)
    # Repeated, it completes: the weights had arrived.
    sent = len(hub.seen("PUT", ""))
    computer.paco_hf(*push)
    assert len(hub.seen("PUT", "")) == sent
    # Weights that break off on their way: refused after the client's attempts, complete when repeated.
    hub.cut_next("PUT", "", after_bytes=1000, times=99)
    assert "cannot be reached" in computer.refused("push", run_folder, "ada/second", "--include_training_state")
    hub.disarm()
    computer.paco_hf("push", run_folder, "ada/second", "--include_training_state")
    assert "paco_training_state.safetensors" in hub.files("ada/second")


def test_conversion_from_the_hub(hub: Hub, computer: Computer, tmp_path: Path) -> None:
    source = "hf://ada/files/lt/paco.pth.tar"
    file = File(golden_path("convert_resnet_tiny.pth").read_bytes(), lfs=True)
    repo = hub.repos["model", "ada/files"] = Repo("ada/files", "model", private=True)
    repo.store(file.sha256, file.data)
    repo.commit("main", {"lt/paco.pth.tar": file}, "files", "", "ada")
    hub.cut_next("GET", "/cdn/", after_bytes=1000, times=99)
    assert "cannot be reached" in computer.refused("convert", source, tmp_path / "out")
    hub.disarm()
    assert "HTTP 404" in computer.refused("convert", "hf://ada/files/none.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert json.loads(computer.paco_hf("convert", source, tmp_path / "out", "--json"))["source"] == source


def test_a_data_set_and_a_backbone_of_the_hub(hub: Hub, computer: Computer, tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", labels_of(SPECIES), Value("string"))
    code = f"""
from huggingface_hub import DatasetCardData, HfApi
HfApi().create_repo("ada/flowers", repo_type="dataset")
HfApi().upload_folder(repo_id="ada/flowers", folder_path={str(tmp_path / "data")!r}, repo_type="dataset")
import timm
from timm.models import push_to_hf_hub
push_to_hf_hub(timm.create_model("test_resnet", num_classes=3), "ada/mine", safe_serialization=True)
from paco_hf.cli import main
command = ["train", "--dataset", "ada/flowers", "--max_steps", "2", "--backbone"]
assert main([*command, "cifar_resnet20", "--report", "true", "--output_dir", {str(tmp_path / "run")!r}]) == 0
flags = ["--freeze_backbone", "true", "--report", "false", "--output_dir", {str(tmp_path / "hub")!r}]
assert main([*command, "hf://ada/mine", *flags]) == 0
from paco_hf.workflows.evaluation_data import load_evaluation
from paco_hf.hub.upload import push
push({str(tmp_path / "run")!r}, "ada/model")
HfApi().create_repo("ada/several", repo_type="dataset")
several = [{{"config_name": name, "data_files": name + "/*.parquet"}} for name in ("small", "large")]
card = f"---\\n{{DatasetCardData(configs=several)}}\\n---\\n".encode()
HfApi().upload_file(repo_id="ada/several", path_or_fileobj=card, path_in_repo="README.md", repo_type="dataset")
for name in ("small", "large"):
    HfApi().upload_folder(
        repo_id="ada/several", folder_path={str(tmp_path / "data")!r}, repo_type="dataset", path_in_repo=name
    )
for name in ("ada/several", "ada/several:tiny", "ada/several:large"):
    main(["train", "--dataset", name, "--dry_run"])
print("scored", load_evaluation("ada/model").rows, load_evaluation("ada/model", {str(tmp_path / "data")!r}).rows)
"""
    out, err = computer.python(code)
    assert out.count("columns: image 'image', label 'label'; splits: train 'train'") == 3, err
    choice = "choose one, as in --dataset ada/several:small (configurations: small, large)"
    assert f"ada/several has several configurations: {choice}" in err
    assert f"ada/several has no configuration 'tiny': {choice}" in err
    rows = json.loads((tmp_path / "run" / "splits.json").read_text())["splits"]["test"]["rows"]
    assert f"scored {rows} {rows}" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] is not None
    assert "猫" in (tmp_path / "run" / "evaluation" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["dataset"] == "ada/flowers"
    # The backbone of the Hub is in the checkpoint, which loads without it.
    model = PaCoForImageClassification.from_pretrained(tmp_path / "hub")
    assert model.config.backbone == "test_resnet"
    theirs = load(hub.files("ada/mine")["model.safetensors"])
    state = model.paco.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.items() if not name.startswith("fc."))


TRAINER = """
import torch
from torch.utils.data import Dataset
from transformers import BitImageProcessor
from paco_hf import PaCoConfig, PaCoForImageClassification, PaCoTrainer, PaCoTrainingArguments


class Views(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        torch.manual_seed(int(index[1] if isinstance(index, tuple) else index))
        return {{"pixel_values": torch.randn(3, 32, 32), "key_pixel_values": torch.randn(3, 32, 32), "labels": 1}}


for options in {options}:
    model = PaCoForImageClassification(
        PaCoConfig(backbone="cifar_resnet20", num_labels=2, image_size=32, class_counts=[3, 5])
    )
    args = PaCoTrainingArguments(
        output_dir="secret-place/mine", num_train_epochs=1, per_device_train_batch_size=4, queue_size=8, **options
    )
    trainer = PaCoTrainer(
        model, args, train_dataset=Views(), eval_dataset=Views(), processing_class=BitImageProcessor()
    )
    trainer.train()
    assert trainer.push_to_hub().repo_url
"""


@pytest.mark.slow
def test_trainer_pushes_what_it_has(hub: Hub, tmp_path: Path) -> None:
    settings = {"push_to_hub": True, "hub_model_id": "ada/trained", "hub_private_repo": True}
    code = TRAINER.format(options=[{}, settings])
    done = python("-c", code, cwd=tmp_path, environment=hub.environment("token-ada", tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    for repo in ("ada/mine", "ada/trained"):
        files = hub.files(repo)
        assert {"model.safetensors", "modeling_paco.py", "README.md", "recipe.yaml"} <= set(files)
        assert not {"training_args.bin", "optimizer.pt"} & set(files)
        assert not any(name.startswith(("checkpoint", "selected")) for name in files)
        card = ModelCard(files["README.md"].decode())
        assert card.data.eval_results[0].dataset_split == "validation"
        assert all(b"secret-place" not in content for content in files.values())
    assert [hub.repos["model", repo].private for repo in ("ada/mine", "ada/trained")] == [False, True]
    assert not hub.seen("PUT", "optimizer")


def test_a_run_is_pushed_once_or_not() -> None:
    with pytest.raises(ValueError, match="hub_strategy must be 'end'"):
        PaCoTrainingArguments(output_dir="out", hub_strategy="every_save")


def test_space_is_one_commit_and_complete(hub: Hub, computer: Computer, run_folder: Path) -> None:
    out = computer.paco_hf("push", run_folder, "rare-page", "--space", "--private")
    assert "spaces/ada/rare-page" in out
    files = hub.files("ada/rare-page", repo_type="space")
    assert {
        "app.py",
        "requirements.txt",
        "README.md",
        "model/model.safetensors",
        "paco_hf/webapp/app.py",
    } <= files.keys()
    assert b"secret-place" not in b"".join(content for name, content in files.items() if name.startswith("model/"))
    before = len(hub.commits("ada/rare-page", repo_type="space"))
    computer.paco_hf("push", run_folder, "ada/rare-page", "--space")
    assert len(hub.commits("ada/rare-page", repo_type="space")) <= before + 1
    assert "HTTP 401" in computer.refused("push", run_folder, "ada/another", "--space", token=None)
    assert "HTTP 403" in computer.refused("push", run_folder, "ada/rare-page", "--space", token="token-bob")


@pytest.mark.slow
def test_adapters_are_pushed_beside_the_merged_model(
    hub: Hub, computer: Computer, run_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    kwargs = json.dumps({"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 48, "num_heads": 3})
    flags = ["--backbone", "vit_tiny_patch16_224", "--backbone_kwargs", kwargs, "--lora_rank", "2", "--loss", "gpaco"]
    assert main([*train_flags(run_folder.parent), *flags, "--output_dir", str(tmp_path / "run")]) == 0
    computer.paco_hf("push", tmp_path / "run", "ada/adapted")
    files = hub.files("ada/adapted")
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "model.safetensors"} <= files.keys()
    assert "lora_rank" in files["README.md"].decode()
    picture(1).save(tmp_path / "a.png")
    script = """
import sys
from transformers import pipeline
sys.modules["peft"] = None
import paco_hf
for model in sys.argv[1:]:
    print([answer["label"] for answer in pipeline("image-classification", model=model)("a.png")])
"""
    environment = hub.environment("token-ada", tmp_path / "home")
    done = python("-c", script, "ada/adapted", tmp_path / "run", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    from_the_hub, local = done.stdout.splitlines()
    assert from_the_hub == local != ""


def test_addresses_and_ids_of_the_hub_are_read_alike(hub: Hub, computer: Computer, tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", labels_of(SPECIES), Value("string"))
    code = f"""
from huggingface_hub import HfApi
HfApi().create_repo("ada/blooms", repo_type="dataset")
HfApi().upload_folder(repo_id="ada/blooms", folder_path={str(tmp_path / "data")!r}, repo_type="dataset")
from paco_hf.data.loading import load_data
from paco_hf.inference.unlabeled import find_images
shard = "hf://datasets/ada/blooms/train-00000-of-00001.parquet"
print([load_data(name).class_counts for name in ("ada/blooms", "hf://datasets/ada/blooms", shard)])
print([len(find_images([name])) for name in ("ada/blooms", "hf://datasets/ada/blooms", shard)])
"""
    out, err = computer.python(code)
    counts = [SPECIES[name] for name in sorted(SPECIES)]
    assert out.splitlines() == [str([counts] * 3), str([sum(counts)] * 3)], err


PLAIN = """
import json
import timm, torch
from transformers import AutoImageProcessor, pipeline
classify = pipeline("image-classification", model="ada/plain")
best = classify({image!r}, top_k=100)
pixels = AutoImageProcessor.from_pretrained("ada/plain")(classify.image_processor.fetch_images({image!r}))
model = timm.create_model("hf_hub:ada/plain", pretrained=True).eval()
with torch.no_grad():
    scores = model(torch.as_tensor(pixels["pixel_values"][0])[None]).softmax(-1)[0].tolist()
print(json.dumps([best, dict(zip(model.pretrained_cfg["label_names"], scores)), type(classify.model).__module__]))
"""


def check_plain(out: str, run: Path, image: Path) -> None:
    """That `PLAIN` printed the scores of the run, by none of its code."""
    best, scores, module = json.loads(out)
    assert module == "transformers.models.timm_wrapper.modeling_timm_wrapper"
    (predicted,) = predict(str(run), [str(image)], top=100)
    expected = {entry["label"]: entry["score"] for entry in predicted["top"]}
    assert {entry["label"]: entry["score"] for entry in best} == pytest.approx(expected, abs=1e-6)
    assert scores == pytest.approx(expected, abs=1e-6)
    assert max(expected.values()) - min(expected.values()) > 0.01


def test_timm_form_is_published_without_code(hub: Hub, computer: Computer, paco_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(paco_run, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"temperature": 0.05}))
    push = ("push", run, "ada/plain", "--to", "timm", "--license", "mit")
    computer.paco_hf(*push)
    files = hub.files("ada/plain")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= files.keys()
    assert {"README.md", "metrics.json", "recipe.yaml", "run.json", "class_counts.png"} <= files.keys()
    assert not [name for name in files if name.endswith(".py")]
    assert b"auto_map" not in b"".join(content for name, content in files.items() if name.endswith(".json"))
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("timm", "mit")
    assert card.data.pipeline_tag == "image-classification"
    assert {result.dataset_split for result in card.data.eval_results} == {"test", "validation"}
    assert "trust_remote_code" not in card.text
    assert "its temperature, 0.05, is in the weights" in card.text
    image = tmp_path / "image.png"
    picture(1, (40, 32)).save(image)
    code = f"{FORGET_THE_PACKAGE}{PLAIN.format(image=str(image))}{REMEMBER_THE_PACKAGE}"
    check_plain(computer.python(code, token=None)[0], run, image)
    # The same folder without a Hub; what is no checkpoint of this package is named so.
    folder = tmp_path / "folder"
    assert "what a push to ada/plain sends" in computer.paco_hf(*push, "--write_only", folder, token=None)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: content for name, content in files.items() if name != ".gitattributes"
    }
    for model in ("ada/plain", folder):
        assert "is in timm format, which paco-hf does not read" in computer.refused("predict", model, image)
    # With code as well.
    computer.paco_hf("push", run, "plain", "--write_only", tmp_path / "code", token=None)
    assert not [*(tmp_path / "code").rglob("*.parquet")]
    (Path(run) / "evaluation").mkdir(exist_ok=True)
    (Path(run) / "evaluation" / "predictions.parquet").unlink(missing_ok=True)
    words = ("push", run, "plain", "--include_predictions", "--write_only", tmp_path / "more")
    assert "to include: write it with `paco-hf evaluate" in computer.refused(*words, token=None)
    assert not (tmp_path / "more").exists()
    (Path(run) / "evaluation" / "predictions.parquet").write_bytes(b"rows")
    computer.paco_hf(*words, token=None)
    assert (tmp_path / "more" / "evaluation" / "predictions.parquet").read_bytes() == b"rows"
    assert (tmp_path / "code" / "modeling_paco.py").is_file()
    assert 'model="USER/plain"' in (tmp_path / "code" / "README.md").read_text()
    for flags, message in (
        (["--to", "tflite"], "invalid choice: 'tflite'"),
        (["--to", "timm", "--include_training_state"], "are not part of the timm format"),
        (["--to", "timm", "--split", "train"], "has a linear one: remove them"),
        (["--split", "train"], "are only for --to timm"),
        (["--write_only", tmp_path / "new", "--private"], "pushes nothing"),
    ):
        assert message in computer.refused("push", run, "ada/plain", *flags), flags
    assert "hf auth login" in computer.refused(*push, token=None)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_timm_form_and_its_space_need_no_package(hub: Hub, computer: Computer, paco_run: Path, tmp_path: Path) -> None:
    """In processes that never had it."""
    from gradio_client import Client, handle_file

    computer.paco_hf("push", paco_run, "ada/plain", "--to", "timm")
    image = tmp_path / "image.png"
    picture(1, (40, 32)).save(image)
    environment = {**hub.environment(None, tmp_path / "cache"), "PYTHONPATH": ""}
    code = WITHOUT_THE_PACKAGE + PLAIN.format(image=str(image))
    done = python("-c", code, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    check_plain(done.stdout, paco_run, image)

    space = ("push", paco_run, "ada/plain-page", "--space", "--to", "timm")
    computer.paco_hf(*space, "--examples", image)
    files = hub.files("ada/plain-page", repo_type="space")
    assert {"app.py", "requirements.txt", "README.md", "model/config.json", "examples/01-image.png"} <= files.keys()
    assert not [name for name in files if name.startswith("paco_hf/")]
    folder = tmp_path / "page"
    computer.paco_hf(*space, "--write_only", folder, token=None)
    needed = {re.split(r"[<>=]", line)[0] for line in (folder / "requirements.txt").read_text().split()}
    assert needed == {"gradio", "pillow", "timm", "torch", "torchvision", "transformers"}
    code = f"{WITHOUT_THE_PACKAGE}import runpy; runpy.run_path('app.py', run_name='__main__')"
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env={**environment, **quiet}, stdout=subprocess.PIPE, text=True
    )
    try:
        address = next(filter(None, (re.search(r"http://\S+:\d+", line) for line in process.stdout)))[0]
        label = Client(address, verbose=False).predict(handle_file(str(image)), api_name="/classify")
    finally:
        process.terminate()
        process.wait(30)
    (predicted,) = predict(str(paco_run), [str(image)])
    assert label["label"] == predicted["label"]
    scores = [entry["confidence"] for entry in label["confidences"]]
    assert scores == pytest.approx([entry["score"] for entry in predicted["top"]], abs=1e-6)

"""`import paco_hf` is light, and its models are known to transformers and timm in whichever order they are imported.

Each case is a process of its own, which has imported nothing before; or, where it is about transformers, timm and this
package, torch alone.
"""

import ast
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import spawned_worker
from fresh_processes import FreshProcesses

import paco_hf
from paco_hf.data.image_lists import imagenet_class_names

ROOT = Path(paco_hf.__file__).parent
CHECKPOINT = ROOT.parent / "model_cards" / "paco-resnet32-cifar100-lt-100"
HEAVY = ("torch", "transformers", "timm", "datasets", "accelerate", "torchvision")
IS_LIGHT = f"import sys; assert not set(sys.modules) & set({HEAVY}), set(sys.modules) & set({HEAVY})"


def python(code: str, *flags: str) -> str:
    """What the code prints in a process of its own."""
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stub_names() -> set[str]:
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    return {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_import_is_light_and_fast() -> None:
    # Of processor time, which other processes do not lengthen.
    timed = f"import time; start = time.process_time(); import paco_hf; print(time.process_time() - start); {IS_LIGHT}"
    assert min(float(python(timed)) for _ in range(3)) <= 0.3


@pytest.mark.parametrize(
    "code",
    [
        "from paco_hf.losses.specs import *",
        "import paco_hf.arguments, paco_hf.losses, paco_hf.models, paco_hf.data, paco_hf.trainer, paco_hf.hub",
        "import paco_hf; dir(paco_hf)",
        "from paco_hf.cli import main; import sys; sys.argv = ['paco-hf']; assert main(['--help']) == 0",
    ],
)
def test_what_help_needs_is_light(code: str) -> None:
    python(f"{code}\n{IS_LIGHT}")


def test_predicting_needs_no_data_set_and_no_trainer(with_torch: FreshProcesses) -> None:
    code = "import sys; import paco_hf.inference.prediction; loaded = set(sys.modules); "
    unneeded = {"datasets", "matplotlib", "transformers.trainer", "paco_hf.arguments", "paco_hf.data"}
    with_torch.run(f"{code}assert not loaded & {unneeded}, loaded & {unneeded}")


def test_predicting_image_files_loads_no_trainer_no_data_sets_and_no_figures(with_torch: FreshProcesses) -> None:
    picture = str(CHECKPOINT / "class_counts.png")
    code = (
        f"from paco_hf.cli import main; import sys; assert main(['predict', {str(CHECKPOINT)!r}, {picture!r}]) == 0; "
    )
    unneeded = {"datasets", "matplotlib", "transformers.trainer", "paco_hf.trainer.paco_trainer"}
    with_torch.run(f"{code}loaded = {unneeded} & set(sys.modules); assert not loaded, loaded")


def test_names_of_imagenets_classes_are_those_of_timm() -> None:
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k").label_descriptions()
    ours = imagenet_class_names()
    assert [ours[i].removesuffix(f" ({synset})") for i, synset in enumerate(ImageNetInfo().label_names())] == names


def test_public_names_are_listed_and_resolve() -> None:
    names = stub_names()
    assert {"PaCoTrainer", "PaCoConfig", "paco_loss", "conversion", "embedding"} <= names
    assert names <= set(dir(paco_hf))
    packages = {"conversion", "data", "embedding", "hub", "losses", "metrics", "models", "trainer"}
    assert names - packages == set(paco_hf.__all__)
    for name in names:
        assert getattr(paco_hf, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        paco_hf.no_such_name  # noqa: B018


KNOWN = f"""
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
config = AutoConfig.from_pretrained({str(CHECKPOINT)!r})
assert type(config).__module__ == "paco_hf.models.configuration_paco", type(config)
assert type(AutoModel.from_config(config)).__name__ == "PaCoModel"
model = AutoModelForImageClassification.from_pretrained({str(CHECKPOINT)!r})
assert type(model).__module__ == "paco_hf.models.modeling_paco", type(model)
import timm
assert timm.is_model("cifar_resnet32") and "cifar_resnet50" in timm.list_models()
"""


ORDERS = [
    "import paco_hf",
    "import transformers, timm; import paco_hf",
    "from transformers import AutoModelForImageClassification; import paco_hf",
    "import transformers; import paco_hf",
    "import timm; import paco_hf",
    "import paco_hf.models.modeling_paco",
    "from paco_hf import *",
    "from paco_hf import *\nfrom transformers import *",
    "import threading; t = threading.Thread(target=__import__, args=['paco_hf']); t.start(); t.join()",
    "import paco_hf, transformers; transformers.AutoConfig; transformers.AutoModel",
    "import transformers.models.auto.modeling_auto; import paco_hf",
    "import paco_hf.models.configuration_paco",
    "from paco_hf import PaCoForImageClassification",
    "import paco_hf, timm; assert timm.create_model('cifar_resnet20', num_classes=0).num_features == 64",
]


def test_configuration_alone_loads_no_model_and_then_the_models_are_known(with_torch: FreshProcesses) -> None:
    """Where this package is imported before transformers and timm."""
    code = f"import paco_hf; from transformers import AutoConfig; AutoConfig.from_pretrained({str(CHECKPOINT)!r})"
    with_torch.run(f"{code}\nimport sys; assert 'paco_hf.models.modeling_paco' not in sys.modules{KNOWN}")


def test_import_is_light_and_loads_the_heavy_parts_on_first_use(with_torch: FreshProcesses) -> None:
    """Where transformers and timm were there before."""
    code = """
import sys, time
import transformers, timm
from transformers import PreTrainedModel, AutoModelForImageClassification
loaded, before = set(sys.modules), time.process_time()
import paco_hf
took = time.process_time() - before
new = set(sys.modules) - loaded
heavy = ("transformers.trainer", "datasets", "evaluate", "matplotlib", "torchvision.transforms.v2")
heavy += ("paco_hf.trainer.paco_trainer", "paco_hf.data.loading")
assert not new.intersection(heavy), new.intersection(heavy)
print(took)
"""
    first_use = """
paco_hf.PaCoTrainer, paco_hf.metrics.long_tailed_accuracy, paco_hf.data.long_tailed_counts
paco_hf.conversion.load_reference_checkpoint
"""
    assert float(with_torch.run(code + KNOWN + first_use)[0].splitlines()[0]) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("first", ORDERS)
def test_every_order_of_import_registers_the_models(first: str) -> None:
    """In processes that have not imported torch either."""
    python(first + KNOWN)


def test_pipeline_after_the_import_alone(with_torch: FreshProcesses) -> None:
    picture = str(CHECKPOINT / "class_counts.png")
    code = "import paco_hf; from transformers import pipeline"
    made = f"pipeline('image-classification', model={str(CHECKPOINT)!r})"
    assert "score" in with_torch.run(f"{code}; print({made}({picture!r}))")[0]


@pytest.mark.slow
def test_spawned_worker_unpickles_configuration_class_and_model() -> None:
    config = paco_hf.PaCoConfig(backbone="cifar_resnet20", num_labels=3)
    model = paco_hf.PaCoModel(config)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(spawned_worker.describe, (config, paco_hf.PaCoModel, model))
    assert found == ("PaCoConfig", True, sum(p.numel() for p in model.parameters()))


def test_module_answers_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paco_hf", "--help"], capture_output=True, text=True, cwd=ROOT.parent, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "estimate-prior" in done.stdout


@pytest.mark.slow
def test_type_checkers_see_the_lazy_names(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text("import paco_hf\nreveal_type(paco_hf.PaCoTrainer)\nreveal_type(paco_hf.paco_loss)\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(snippet)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    trainer, loss, _ = done.stdout.splitlines()
    assert trainer.endswith('-> paco_hf.trainer.paco_trainer.PaCoTrainer"'), done.stdout
    assert '"def (features: ' in loss, done.stdout

"""What the package takes for granted of libraries: methods that they call, and names that it imports.

A release without one of them fails here, and not, perhaps without a word, in somebody's training.
"""

import argparse
import ast
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import evaluate
import pytest
import torch
import transformers
import yaml
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

import paco_hf
from paco_hf.utils.signals import worker_context

ROOT = Path(paco_hf.__file__).parent
WORKER = worker_context().Process
# The methods that classes of the package override, by the class of a library that has them.
OVERRIDES: dict[type, str] = {
    ExportableState: "state",
    TrainerCallback: "on_train_begin on_train_end on_epoch_begin on_step_begin on_pre_optimizer_step "
    "on_optimizer_step on_step_end on_epoch_end on_prediction_step on_evaluate on_log on_save",
    WORKER.__base__: "_Popen _bootstrap",
    argparse.ArgumentParser: "error parse_known_args print_help",
    evaluate.Metric: "_compute _info",
    nn.Module: "forward",
    torch.autograd.Function: "backward forward",
    transformers.BitImageProcessor: "_preprocess save_pretrained",
    transformers.ImageClassificationPipeline: "postprocess",
    transformers.HfArgumentParser: "add_argument error",
    transformers.PreTrainedConfig: "_get_generation_parameters from_dict",
    transformers.PreTrainedModel: "_init_weights _set_gradient_checkpointing forward from_pretrained save_pretrained",
    transformers.Trainer: "_get_grad_norm _get_output_dir _load_from_checkpoint _load_optimizer_and_scheduler "
    "_load_rng_state _save_checkpoint call_model_init compute_loss create_accelerator_and_postprocess "
    "create_scheduler evaluation_loop get_decay_parameter_names get_eval_dataloader get_optimizer_cls_and_kwargs "
    "get_test_dataloader get_train_dataloader init_hf_repo log push_to_hub save_model set_initial_training_values "
    "train training_step",
    transformers.TrainingArguments: "device",
    yaml.SafeLoader: "compose_mapping_node",
}
NAMES = {(base, name) for base, names in OVERRIDES.items() for name in names.split()}


def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "paco_hf"


@cache
def trees() -> dict[str, ast.Module]:
    """Every module by its name, save those that start something."""
    files = [file for file in sorted(ROOT.rglob("*.py")) if file.stem not in ("__main__", "app")]
    return {".".join(f.relative_to(ROOT.parent).with_suffix("").parts): ast.parse(f.read_text("utf-8")) for f in files}


@cache
def overrides() -> dict[tuple[type, str], list[type]]:
    """Where the package overrides a method: `{(nearest class of a library, name): classes}`."""
    members = [member for name in trees() for member in vars(importlib.import_module(name)).values()]
    ours = [cls for cls in dict.fromkeys(filter(inspect.isclass, members)) if is_ours(cls)]
    result: dict[tuple[type, str], list[type]] = {}
    for cls in (*ours, WORKER):
        methods = {
            n for n, m in vars(cls).items() if isinstance(m, FunctionType | staticmethod | classmethod | property)
        }
        for name in (name for name in methods if not name.startswith("__")):
            bases = [base for base in cls.__mro__ if not is_ours(base) and hasattr(base, name)]
            listed = [base for base in bases if (base, name) in NAMES]
            for base in listed[:1] or bases[:1]:
                result.setdefault((base, name), []).append(cls)
    return result


def refusals(ours: Any, theirs: Any) -> Iterator[str]:
    """What a caller of the library's method may pass that ours does not take, and what ours needs beyond that."""
    mine, base = (inspect.signature(method).parameters for method in (ours, theirs))
    variable = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    names = [name for name, parameter in base.items() if parameter.kind not in variable]
    is_open = inspect.Parameter.VAR_POSITIONAL in {parameter.kind for parameter in base.values()}
    try:
        inspect.signature(ours).bind_partial(**dict.fromkeys(names))
        if not is_open:  # else more of them may come
            inspect.signature(ours).bind(**dict.fromkeys(names))
    except TypeError as error:
        yield str(error)
    kept = [name for name, parameter in mine.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    yield from (f"{a!r} stands in the place of {b!r}" for a, b in zip(kept, names, strict=False) if a != b)


def test_overridden_methods_are_those_of_the_libraries() -> None:
    gone = [f"{base.__name__}.{name}" for base, name in NAMES if not hasattr(base, name)]
    assert not gone, f"no library calls ours any more: {gone}"
    unlisted = [f"{base.__name__}.{name}" for base, name in overrides().keys() - NAMES]
    assert not unlisted, f"list in OVERRIDES, or rename, what has a name of a library's method: {unlisted}"
    assert not NAMES - overrides().keys(), "no longer overridden"


def test_overriding_methods_take_what_libraries_pass() -> None:
    wrong = [
        f"{cls.__name__}.{name}: {refusal}"
        for (base, name), classes in overrides().items()
        for cls in classes
        if not isinstance(vars(cls)[name], property)
        for refusal in refusals(getattr(cls, name), getattr(base, name))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("ours", "refused"),
    [
        (lambda self, model, trial: 0, False),
        (lambda self, model, trial, more=0: 0, False),
        (lambda self, *args, **kwargs: 0, False),
        (lambda self, model, **kwargs: 0, False),
        (lambda self, model, more, trial=0: 0, True),
        (lambda self, model: 0, True),
        (lambda self, model, trials: 0, True),
        (lambda self, trial, model: 0, True),
    ],
)
def test_a_signature_that_differs_is_noticed(ours: Any, refused: bool) -> None:
    assert bool([*refusals(ours, lambda self, model, trial: 0)]) is refused


def imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Those of libraries, also in functions, save what may be absent."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node
        elif not (isinstance(node, ast.Try) and "ImportError" in ast.unparse(node.handlers)):
            yield from imports(node)


def test_what_is_imported_of_libraries_is_there() -> None:
    """Also in functions, which import what is optional or heavy once it is needed."""
    missing = []
    for place, tree in trees().items():
        for node in imports(tree):
            if importlib.util.find_spec(node.module.partition(".")[0]):
                try:
                    exec(ast.unparse(node), {})
                except ImportError as error:
                    missing.append(f"{place}: {error}")
    assert not missing, missing

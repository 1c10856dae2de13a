"""Low-rank adapters (LoRA, Hu et al., ICLR 2022) on a backbone whose own weights stay as they are. Needs `peft`."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.files import readable
from ..utils.optional import optional_package
from ..utils.tensors import first_difference, read_tensors, save_tensors, tensors_digest
from .backbones import BATCH_NORMS
from .configuration_paco import PaCoConfig
from .modeling_paco import PaCoForImageClassification

ADAPTER_FOLDER = "adapter"
ADAPTER_NAME = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_NAME, "adapter_config.json", "config.json")

# What peft calls the one adapter of a model, and puts before the names of a model that it wraps.
_ADAPTER, _PREFIX = "default", "base_model.model."
_BACKBONE, _CLASSIFIER = f"{_PREFIX}paco.backbone.", f"{_PREFIX}classifier."


def has_adapter(model: nn.Module) -> bool:
    """Whether [`add_adapter`] was called on the model, or on one that it shares its backbone with."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def check_targets(
    backbone: str, backbone_kwargs: dict[str, Any], image_size: int, names: Sequence[str] | None = None
) -> None:
    """As [`choose_targets`], of a backbone that is not built yet: before its weights and the images are read.

    A backbone that cannot be tried without weights passes here.

    Args:
        backbone (`str`): name of the architecture.
        backbone_kwargs (`dict`): keyword arguments of `timm.create_model`.
        image_size (`int`): side of an image that it takes.
        names (sequence of `str`, *optional*): as those of [`choose_targets`].

    Raises:
        ValueError: as [`choose_targets`].
        ImportError: `peft` is not installed.
    """
    optional_package("peft", "--lora_rank", "lora")
    config = PaCoConfig(backbone=backbone, backbone_kwargs=backbone_kwargs, image_size=image_size, num_labels=2)
    try:
        with torch.device("meta"):
            model = PaCoForImageClassification(config)
        layers = _called_layers(model)
    except Exception:  # timm's models raise whatever they run into
        return
    _select_targets(model, layers, names)


def choose_targets(model: PaCoForImageClassification, names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The linear layers of the backbone that are adapted, by the last part of their names.

    Args:
        model (`PaCoForImageClassification`): tried with one image, as some backbones (BEiT's `qkv`, PyTorch's
            `MultiheadAttention`) read the weights of a layer without calling it, where an adapter would have no part.
        names (sequence of `str`, *optional*): last parts of names, such as `qkv`; default: every such layer.

    Raises:
        ValueError: there is no linear layer, or none of a name.
    """
    return _select_targets(model, _called_layers(model), names)


@torch.no_grad()
def _called_layers(model: PaCoForImageClassification) -> list[str]:
    """Names of the backbone's linear layers that are called for an image."""
    backbone, size = model.paco.backbone, model.config.image_size
    layers = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    called: set[nn.Module] = set()
    training = model.training
    with ExitStack() as hooks:
        for module in layers.values():
            hooks.enter_context(module.register_forward_hook(lambda module, *_: called.add(module)))
        model.eval()(torch.zeros(1, 3, size, size, device=model.device, dtype=model.dtype))
    model.train(training)
    return [name for name, module in layers.items() if module in called]


def _select_targets(
    model: PaCoForImageClassification, layers: Sequence[str], names: Sequence[str] | None
) -> dict[str, list[str]]:
    targets: dict[str, list[str]] = {}
    for name in layers:
        targets.setdefault(name.rpartition(".")[-1], []).append(name)
    if not targets:
        raise ValueError(
            f"--lora_rank adapts linear layers, and {model.config.backbone!r} has none: {_alternatives(model)}"
        )
    for name in names or ():
        if name not in targets:
            raise ValueError(
                f"--lora_targets: {name!r} is not a linear layer that can be adapted: choose from {', '.join(targets)}"
            )
    return {name: targets[name] for name in (names or targets)}


def _alternatives(model: PaCoForImageClassification) -> str:
    """What to do where there is nothing to adapt."""
    ways = ["--freeze_backbone true trains only classifier and projector", "a ViT as --backbone has linear layers"]
    names = [name for name, module in model.paco.backbone.named_modules() if isinstance(module, nn.Conv2d)]
    prefixes = list(accumulate(names[-1].split("."), "{}.{}".format)) if names else []
    # The last stage: the largest module with the last convolution and fewer than half of all.
    stage = next((p for p in prefixes if 2 * sum(f"{name}.".startswith(f"{p}.") for name in names) < len(names)), None)
    if stage:
        ways.insert(0, f"--trainable_convolutions {stage} trains its last convolutions")
    return ", ".join(ways[:-1]) + f", and {ways[-1]}"


def add_adapter(
    model: PaCoForImageClassification, rank: int, alpha: float | None = None, targets: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Freeze the backbone and put trainable low-rank factors beside its linear layers: `W x + alpha / rank B A x`.

    `B` starts at zero, so the model's outputs are as before. The classifier stays trainable.

    Args:
        model (`PaCoForImageClassification`): changed in place.
        rank (`int`): of the factors.
        alpha (`float`, *optional*): their scale (default: twice the rank).
        targets (sequence of `str`, *optional*): as `names` of [`choose_targets`].

    Returns:
        what is adapted, as [`choose_targets`].

    Raises:
        ValueError: rank below 1, an alpha that is not positive, or no such layers.
        ImportError: `peft` is not installed.
    """
    if rank < 1 or (alpha is not None and not alpha > 0):
        raise ValueError(f"lora_rank must be at least 1 and lora_alpha positive, got {rank} and {alpha}")
    peft = optional_package("peft", "--lora_rank", "lora")
    chosen = choose_targets(model, targets)
    model.paco.requires_grad_(False)
    layers = [name for names in chosen.values() for name in names]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=layers)
    peft.inject_adapter_in_model(config, model.paco.backbone, adapter_name=_ADAPTER)
    return chosen


def adapter_config(model: PaCoForImageClassification) -> Any:
    """peft's configuration of the adapter."""
    return model.paco.backbone.peft_config[_ADAPTER]


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that are adapted. peft's configuration shortens them where there are many."""
    return [n for n, m in model.named_modules() if hasattr(m, "lora_A") and not n.startswith("key_encoder.")]


def keep_statistics(backbone: nn.Module) -> None:
    """Put the backbone's BatchNorm in evaluation mode: its running statistics are weights of the base."""
    for module in backbone.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()


def _without_adapter(module: nn.Module) -> dict[str, Tensor]:
    return {k.replace(".base_layer.", "."): t for k, t in module.state_dict().items() if ".lora_" not in k}


def base_digest(model: PaCoForImageClassification) -> str:
    """SHA-256 of the backbone's weights, adapters left out: of names, shapes and values of its tensors."""
    return tensors_digest(_without_adapter(model.paco))


def adapter_tensors(model: PaCoForImageClassification) -> dict[str, Tensor]:
    """What is trained of the inference model: the factors and the classifier, under the model's own names."""
    return {k: t for k, t in model.state_dict().items() if ".lora_" in k or k.startswith("classifier.")}


def load_adapter_tensors(model: PaCoForImageClassification, tensors: dict[str, Tensor], source: str) -> None:
    """Put what [`adapter_tensors`] gave back into the model.

    Args:
        model (`PaCoForImageClassification`): with such an adapter.
        tensors (`dict`): the factors and the classifier.
        source (`str`): where they are from, for the error.

    Raises:
        ValueError: it is of another adapter.
    """
    _check_fit(adapter_tensors(model), tensors, source)
    model.load_state_dict(tensors, strict=False)


def _check_fit(expected: dict[str, Tensor], tensors: dict[str, Tensor], source: str) -> None:
    if difference := first_difference(expected, tensors):
        raise ValueError(
            f"{source} does not match the model, the first difference is {difference}: use the --backbone, "
            "--lora_rank and --lora_targets that it was trained with"
        )


def _peft_tensors(model: PaCoForImageClassification) -> dict[str, Tensor]:
    """As [`adapter_tensors`], under the names that peft gives them in a file."""
    from peft import get_peft_model_state_dict

    factors = get_peft_model_state_dict(model.paco.backbone, adapter_name=_ADAPTER, save_embedding_layers=False)
    classifier = model.classifier.state_dict()
    return {_BACKBONE + k: t for k, t in factors.items()} | {_CLASSIFIER + k: t for k, t in classifier.items()}


def save_adapter(model: PaCoForImageClassification, folder: str | Path) -> None:
    """Write the adapter in peft's format, for `PeftModel.from_pretrained(base, folder)`, where `base` is a
    `PaCoForImageClassification` on the base weights; the SHA-256 of these is in the file's metadata, they are not."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"backbone": model.config.backbone, "base": base_digest(model)}
    save_tensors(_peft_tensors(model), folder / ADAPTER_NAME, metadata)
    config: Any = copy.copy(adapter_config(model))
    config.target_modules = adapted_layers(model)
    config.inference_mode, config.modules_to_save = True, ["classifier"]
    config.base_model_name_or_path = model.config.backbone
    config.save_pretrained(folder)
    model.config.save_pretrained(folder)


def load_adapter(model: PaCoForImageClassification, folder: str | Path) -> None:
    """Read what [`save_adapter`] wrote into a model with such an adapter.

    Raises:
        ValueError: the adapter is another one, or was trained on other base weights.
    """
    from peft import set_peft_model_state_dict

    path, digest = Path(folder) / ADAPTER_NAME, base_digest(model)
    with readable(path):
        tensors, metadata = read_tensors(path)
        trained_on = metadata["base"]
    if trained_on != digest:
        raise ValueError(
            f"{path} was trained with different backbone weights (SHA-256 {trained_on[:12]}, here {digest[:12]}): "
            "use the --pretrained, --pretrained_file or --seed that it was started with"
        )
    _check_fit(_peft_tensors(model), tensors, str(path))
    factors, classifier = (
        {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        for prefix in (_BACKBONE, _CLASSIFIER)
    )
    set_peft_model_state_dict(model.paco.backbone, factors, adapter_name=_ADAPTER)
    model.classifier.load_state_dict(classifier)


@torch.no_grad()
def merged_tensors(model: PaCoForImageClassification) -> dict[str, Tensor]:
    """The state of an ordinary classifier with the factors multiplied into its weights; the model stays as it is."""
    merged = _without_adapter(model)
    for name in adapted_layers(model):
        layer: Any = model.get_submodule(name)
        key = f"{name}.weight"
        merged[key] = merged[key] + layer.get_delta_weight(_ADAPTER).to(merged[key].dtype)
    return merged


def save_merged(model: PaCoForImageClassification, folder: str | Path) -> None:
    """Write an ordinary checkpoint, which needs neither `peft` nor the base weights, and the adapter in `adapter/`."""
    plain = PaCoForImageClassification(model.config)
    plain.load_state_dict(merged_tensors(model))
    plain.to(model.dtype).save_pretrained(folder)
    save_adapter(model, Path(folder) / ADAPTER_FOLDER)


def describe_training(model: PaCoForImageClassification, optimizer_slots: int = 1) -> str:
    """What is adapted, how many parameters are trained, and what that needs in memory, for the user to read.

    Args:
        model (`PaCoForImageClassification`): the model in training.
        optimizer_slots (`int`, *optional*, defaults to `1`): numbers that the optimizer keeps for each parameter.
    """
    config = adapter_config(model)
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith("key_encoder.")}
    everything = sum(p.numel() for p in parameters.values())
    sizes = dict.fromkeys(("adapter", "classifier", "projector"), 0)
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            sizes["adapter" if ".lora_" in name else name.split(".")[0]] += parameter.numel()
    trained = sum(sizes.values())
    parts = ", ".join(f"{part} {count:,}" for part, count in sizes.items() if count)
    layers = adapted_layers(model)
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[-1] for name in layers))
    slots = [4 * count * (1 + optimizer_slots) / 2**20 for count in (trained, everything)]
    return (
        f"LoRA of rank {config.r} (alpha {config.lora_alpha:g}) on {len(layers)} linear layers ({kinds}): trains "
        f"{trained:,} of {everything:,} parameters ({trained / everything:.1%}: {parts}); gradients and optimizer "
        f"take {slots[0]:,.1f} MB, {slots[1]:,.1f} MB when training all"
    )

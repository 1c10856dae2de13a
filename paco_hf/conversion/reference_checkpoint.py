"""Checkpoints of the reference implementation as paco_hf models. No key is passed over in silence."""

import argparse
import logging
import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.configuration_paco import PaCoConfig
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification

logger = logging.getLogger(__name__)

_RESNETS = {
    ((3, 4, 6, 3), 1, 64): "resnet50",
    ((3, 4, 23, 3), 1, 64): "resnet101",
    ((3, 8, 36, 3), 1, 64): "resnet152",
    ((3, 24, 36, 3), 1, 64): "resnet200",
    ((3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    ((3, 4, 23, 3), 32, 4): "resnext101_32x4d",
}

# (embed_dim, depth, patch size): shapes cannot tell the number of heads, so the standard sizes stand for theirs.
_VITS = {
    (192, 12, 16): "vit_tiny_patch16_224",
    (384, 12, 16): "vit_small_patch16_224",
    (768, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}

# Names of the reference and of this package: prefixes that end in a dot, and whole names. The first that fits holds.
_QUEUE = [("queue_l", "queue.labels"), ("queue_ptr", "queue.pointer"), ("queue", "queue.features")]

_RESNET_PREFIXES = [
    *_QUEUE,
    ("encoder_q.fc.", "projector."),
    ("encoder_q.", "paco.backbone."),
    ("encoder_k.fc.", "key_encoder.projector."),
    ("encoder_k.", "key_encoder.paco.backbone."),
    ("linear.", "classifier."),
]

_VIT_PREFIXES = [*_QUEUE, ("head.", "classifier."), ("mlp.", "projector."), ("", "paco.backbone.")]
_UNUSED = "the reference implementation updates it but never uses it"

_BESIDE = {
    "optimizer": "optimizer state, which only matches the parameters of the reference implementation",
    "scaler": "mixed precision state",
    "args": "the command line of the reference implementation",
}


def load_reference_checkpoint(
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    *,
    backbone: str | None = None,
    backbone_kwargs: dict[str, Any] | None = None,
) -> PaCoForContrastiveTraining:
    """Load a PaCo or GPaCo checkpoint of the reference implementation, its training state included.

    The architecture, the number of classes, the projector and the queue are recognized from keys and shapes. GPaCo and
    multi-task files look alike and load as `gpaco`. A file without any key encoder (stripped for inference) loads
    with a copy of the model as its key encoder, and says so.

    Args:
        path_or_state_dict: a `.pth`/`.pth.tar` file, read weights-only, or the dictionary that it holds (or its state
            dict).
        backbone (`str`, *optional*): timm name; must agree with the file. For a ViT of unusual size it is needed,
            since shapes do not tell the number of heads.
        backbone_kwargs (`dict`, *optional*): timm's keyword arguments for custom widths: `layers`, `channels`,
            `cardinality`, `base_width`; `img_size`, `patch_size`, `embed_dim`, `depth`, `num_heads`.

    Returns:
        [`PaCoForContrastiveTraining`] in float32 (float64 where a state dict in float64 was given), on the CPU, in
        train mode; its `dropped_keys` maps each key that was left out to the reason; `dropped_entries` does the
        same for entries of the file other than the state dict.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is no such checkpoint, lacks a key, has one that is not known, or a shape does not fit; the
            message names the key.
    """
    from_file = not isinstance(path_or_state_dict, Mapping)
    if from_file and not isinstance(path_or_state_dict, str | os.PathLike):
        raise ValueError(f"expected a path or a state dict, got {type(path_or_state_dict).__name__}")
    if backbone is not None and not isinstance(backbone, str):
        raise ValueError(f"backbone must be the name of a timm model, got {backbone!r}")
    if backbone_kwargs is not None and not isinstance(backbone_kwargs, Mapping):
        raise ValueError(f"backbone_kwargs must be a dictionary, got {backbone_kwargs!r}")
    source = str(path_or_state_dict) if from_file else "the state dict"
    content = _read(Path(path_or_state_dict)) if from_file else path_or_state_dict  # type: ignore[arg-type]
    flat, beside = _state_dict(content, source)
    reference = _Reference(flat, source)
    custom = dict(backbone_kwargs or {})
    if "patch_embed.proj.weight" in reference:
        name, kwargs = _recognize_vit(reference, backbone, custom)
        prefixes, head, loss = _VIT_PREFIXES, "head.weight", "gpaco"
    elif any(key.startswith("encoder_q.") for key in reference):
        name, kwargs = (backbone, custom) if backbone is not None else _recognize_resnet(reference, custom)
        paco = any(key.startswith(("encoder_q.fc.1.", "encoder_k.")) for key in reference)
        prefixes, head, loss = _RESNET_PREFIXES, "linear.weight", "paco" if paco else "gpaco"
    else:
        raise ValueError(
            f"{source} is not a checkpoint of the reference code, which has encoder_q.* or patch_embed.* keys: "
            "pass one that is"
        )

    tensors, names, dropped = _rename(reference, prefixes)
    num_classes = reference.shape(head, 2)[0]
    queue_size, projection_dim = reference.shape("queue", 2)
    if num_classes < 1 or projection_dim < 1:
        raise ValueError(f"{source}: {head} or queue is empty, so the checkpoint is damaged: pass another one")
    size = kwargs.get("img_size", 32 if name.startswith("cifar_") else 224)
    config = PaCoConfig(backbone=name, backbone_kwargs=kwargs, num_labels=num_classes, image_size=size)
    model = PaCoForContrastiveTraining.from_classifier(
        PaCoForImageClassification(config), variant=loss, projection_dim=projection_dim, queue_size=queue_size
    )
    if not from_file and any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model.double()
    _load(model, tensors, names, prefixes, source)
    if dropped:
        logger.info(f"{source}: dropped {', '.join(f'{key} ({why})' for key, why in dropped.items())}")
    model.dropped_keys, model.dropped_entries = dropped, beside
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise OSError(f"{path} does not exist or is not a file: pass a PyTorch checkpoint")
    with path.open("rb") as file:
        if file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise ValueError(
                f"{path} is a web page, not a checkpoint (Google Drive returns one for large files): download it "
                "with a browser"
            )
    try:
        # The ViT files keep their command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"(?i)unsupported (?:global:? (?:GLOBAL )?|class )(\S+)", str(error))
        if foreign is None:
            raise ValueError(f"{path} is damaged or not a PyTorch checkpoint: download it again") from error
        raise ValueError(
            f"{path} contains more than weights ({foreign[1]}), which could run code, and is not loaded: if you "
            "trust it, save only its state dict"
        ) from error
    except Exception as error:  # old and new formats fail in a dozen ways when cut
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise OSError(f"{path} cannot be read as a PyTorch file ({reason}): download it again") from error


def _state_dict(content: Any, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The flat state dict inside a checkpoint, without the `module.` of DistributedDataParallel, and what lies beside
    it, with the reason to leave it out."""
    beside = {}
    if isinstance(content, Mapping):
        for name in ("state_dict", "model"):
            if isinstance(content.get(name), Mapping):
                beside = {str(key): _reason(str(key), content[key], source) for key in content if key != name}
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{source} contains no state dict (expected a dictionary, or one under 'state_dict' or 'model')"
        )
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{source} must contain only tensors, got a {type(value).__name__} under {key!r}")
        if value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{source}: {key} must be a dense tensor with data, got {value.layout} on {value.device}")
        plain = key.removeprefix("module.")
        if plain in flat:
            raise ValueError(f"{source} has {plain} twice, with and without the prefix 'module.': remove one of them")
        flat[plain] = value
    return flat, beside


def _reason(key: str, value: Any, source: str) -> str:
    if key in _BESIDE:
        return _BESIDE[key]
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(number, str | int | float | None):
        raise ValueError(f"{source} has an unknown entry besides its weights: {key}, a {type(value).__name__}")
    return f"a record ({number!r:.40}), no weight"


class _Reference(dict[str, Tensor]):
    """The tensors of a checkpoint of the reference by its names; messages name their `source`."""

    def __init__(self, tensors: dict[str, Tensor], source: str) -> None:
        super().__init__(tensors)
        self.source = source

    def shape(self, key: str, ndim: int) -> tuple[int, ...]:
        if key not in self:
            raise ValueError(f"{self.source} has no key {key}")
        shape = tuple(self[key].shape)
        if len(shape) != ndim:
            raise ValueError(f"{self.source}: {key} should have {ndim} dimensions, but has shape {shape}")
        return shape

    def blocks(self, prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in self if key.startswith(prefix)})


def _recognize_resnet(reference: _Reference, custom: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    source = reference.source
    stem = reference.shape("encoder_q.conv1.weight", 4)
    layers = tuple(n for stage in range(1, 5) if (n := reference.blocks(f"encoder_q.layer{stage}.")))
    if stem[0] == 16 and len(layers) == 3 and len(set(layers)) == 1:
        return f"cifar_resnet{6 * layers[0] + 2}", custom
    if stem[2:] == (3, 3) and layers == (3, 4, 6, 3):
        return "cifar_resnet50", custom
    if stem[2:] != (7, 7) or len(layers) != 4:
        raise ValueError(
            f"{source}: no known ResNet has an encoder_q.conv1.weight of {stem} and stages of {layers} blocks"
        )
    inner, *_ = (reference.shape(f"encoder_q.layer{s}.0.conv2.weight", 4) for s in range(1, 5))
    planes = tuple(reference.shape(f"encoder_q.layer{s}.0.conv3.weight", 4)[0] // 4 for s in range(1, 5))
    groups = inner[0] // max(inner[1], 1)
    if min(planes) < 1 or groups < 1:
        raise ValueError(f"{source}: encoder_q.layer1.0.conv2.weight of {inner} does not match a bottleneck ResNet")
    # Inner width = int(planes * base_width / 64) * groups.
    base_width = max(round(inner[0] / groups * 64 / planes[0]), 1)
    if planes == (64, 128, 256, 512) and (name := _RESNETS.get((layers, groups, base_width))):
        return name, custom
    recognized = {"layers": list(layers), "channels": list(planes), "cardinality": groups, "base_width": base_width}
    return "resnet50", {**recognized, **custom}


def _recognize_vit(reference: _Reference, backbone: str | None, custom: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    embed_dim, _, patch, _ = reference.shape("patch_embed.proj.weight", 4)
    size = math.isqrt(max(reference.shape("pos_embed", 3)[1] - 1, 0)) * patch
    depth = reference.blocks("blocks.")
    backbone = backbone or _VITS.get((embed_dim, depth, patch))
    if backbone is None:
        raise ValueError(
            f"{reference.source}: a ViT of width {embed_dim}, depth {depth} and patch {patch} is not a standard "
            "one, and its number of heads cannot be read from its weights: pass backbone='vit_base_patch16_224' "
            "and backbone_kwargs with img_size, patch_size, embed_dim, depth and num_heads"
        )
    recognized: dict[str, Any] = {"global_pool": "avg"} if "fc_norm.weight" in reference else {}
    if size != 224:
        recognized["img_size"] = size
    return backbone, {**recognized, **custom}


def _rename(
    reference: _Reference, prefixes: list[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Tensors under this package's names, the reference's name of each, and the dropped keys with their reasons."""
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, tensor in reference.items():
        if key.startswith("linear_k."):
            dropped[key] = _UNUSED
            continue
        target = _translate(key.replace(".shortcut.", ".downsample."), prefixes)
        if target is None:
            raise ValueError(f"{reference.source} has an unknown key: {key}")
        if target in tensors:
            raise ValueError(f"{reference.source} has two keys for one weight: {names[target]} and {key}")
        tensors[target], names[target] = tensor, key
    return tensors, names, dropped


def _translate(key: str, prefixes: list[tuple[str, str]]) -> str | None:
    for before, after in prefixes:
        whole = bool(before) and not before.endswith(".")
        if key == before if whole else key.startswith(before):
            return after + key[len(before) :]
    return None


def _load(
    model: PaCoForContrastiveTraining,
    tensors: dict[str, Tensor],
    names: dict[str, str],
    prefixes: list[tuple[str, str]],
    source: str,
) -> None:
    expected = model.state_dict()
    unknown = next((key for key in tensors if key not in expected), None)
    if unknown is not None:
        which = f"the backbone {model.config.backbone!r} with {model.config.backbone_kwargs}"
        which = which if "backbone." in unknown else f"a {model.spec.name} model"
        raise ValueError(f"{source} has a key that {which} does not have: {names[unknown]}")
    stripped = not any(key.startswith("key_encoder.") for key in tensors)
    missing = [key for key in expected if key not in tensors and not (stripped and key.startswith("key_encoder."))]
    if missing:
        first = _translate(missing[0], [(after, before) for before, after in prefixes])
        if model.config.backbone == "cifar_resnet50":
            first = str(first).replace(".downsample.", ".shortcut.")
        raise ValueError(f"{source} is missing {len(missing)} keys, the first is {first}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{source}: {names[key]} has shape {tuple(tensor.shape)}, but the backbone {model.config.backbone!r} "
                f"with {model.config.backbone_kwargs} expects {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{source}: {names[key]} has values that are not finite: its training diverged")
        if tensor.is_floating_point() != expected[key].is_floating_point() or tensor.is_complex():
            raise ValueError(
                f"{source}: {names[key]} has dtype {tensor.dtype}, expected one like {expected[key].dtype}"
            )
    pointer, size = int(tensors["queue.pointer"]), len(tensors["queue.labels"])
    if not 0 <= pointer < max(size, 1):
        raise ValueError(f"{source}: queue_ptr is {pointer}, outside the queue of {size} rows")
    model.load_state_dict(tensors, strict=False)
    if stripped and model.key_encoder is not None:
        model.key_encoder["paco"].load_state_dict(model.paco.state_dict())
        model.key_encoder["projector"].load_state_dict(model.projector.state_dict())
        logger.warning(f"{source} has no key encoder: it starts as a copy of the model")

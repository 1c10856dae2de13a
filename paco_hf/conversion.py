"""Checkpoints of the reference implementation -> paco_hf models. No key is passed over in silence."""

import argparse
import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from .configuration_paco import PaCoConfig
from .modeling_paco import PaCoForImageClassification
from .modeling_training import PaCoForContrastiveTraining

logger = logging.get_logger(__name__)

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
_DROPPED = {"linear_k.": "the reference moves it along but never uses it"}


def load_reference_checkpoint(
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    *,
    backbone: str | None = None,
    backbone_kwargs: dict[str, Any] | None = None,
) -> PaCoForContrastiveTraining:
    """Load a PaCo or GPaCo checkpoint of the reference implementation, its training state included.

    The architecture, the number of classes, the projector and the queue are recognised from keys and shapes. GPaCo and
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
        train mode; its `dropped_keys` maps each key that was left out to the reason.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is no such checkpoint, lacks a key, has one that is not known, or a shape does not fit; the
            message names the key.
    """
    given_as_file = not isinstance(path_or_state_dict, Mapping)
    source = str(path_or_state_dict) if given_as_file else "the state dict"
    content = _read(Path(path_or_state_dict)) if given_as_file else path_or_state_dict  # type: ignore[arg-type]
    reference = _state_dict(content, source)

    if "patch_embed.proj.weight" in reference:
        name, kwargs = _recognise_vit(reference, source, backbone, backbone_kwargs)
        mapped = {key: _vit_key(key) for key in reference}
        head, variant = "head.weight", "gpaco"
    elif any(key.startswith("encoder_q.") for key in reference):
        name, kwargs = _recognise_resnet(reference, source, backbone, backbone_kwargs)
        mapped = {key: _resnet_key(key) for key in reference}
        head, variant = "linear.weight", "paco" if "encoder_q.fc.1.running_mean" in reference else "gpaco"
    else:
        raise ValueError(
            f"{source} is no checkpoint of the reference: it has neither encoder_q.* nor patch_embed.* keys"
        )

    dropped: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for key, target in mapped.items():
        reason = next((why for prefix, why in _DROPPED.items() if key.startswith(prefix)), None)
        if reason is not None:
            dropped[key] = reason
        elif target is None:
            raise ValueError(f"{source} has a key that is not known: {key}")
        else:
            tensors[target] = reference[key]

    num_classes = _shape(reference, head, source, 2)[0]
    queue_size, projection_dim = _shape(reference, "queue", source, 2)
    config = PaCoConfig(
        backbone=name,
        backbone_kwargs=kwargs,
        num_labels=num_classes,
        image_size=kwargs.get("img_size", 32 if name.startswith("cifar_") else 224),
    )
    model = PaCoForContrastiveTraining.from_classifier(
        PaCoForImageClassification(config), variant=variant, projection_dim=projection_dim, queue_size=queue_size
    )
    if not given_as_file and any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model.double()
    _load(model, tensors, mapped, source)
    if dropped:
        logger.info(f"{source}: dropped {', '.join(f'{key} ({why})' for key, why in dropped.items())}")
    model.dropped_keys = dropped
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise OSError(f"{path} does not exist, or is not a file")
    try:
        # The ViT files keep their command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights, or is no PyTorch file; it is not loaded: {_first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError) as error:
        raise OSError(f"{path} cannot be read as a PyTorch file (truncated?): {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    """The flat state dict inside a checkpoint, without the `module.` of DistributedDataParallel."""
    if isinstance(content, Mapping):
        for name in ("state_dict", "model"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source} holds no state dict (expected a dictionary, or one under 'state_dict' or 'model')")
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{source} holds something else than a tensor under {key!r}: {type(value).__name__}")
        flat[key.removeprefix("module.")] = value
    return flat


def _shape(reference: dict[str, Tensor], key: str, source: str, ndim: int) -> tuple[int, ...]:
    if key not in reference:
        raise ValueError(f"{source} lacks the key {key}")
    shape = tuple(reference[key].shape)
    if len(shape) != ndim:
        raise ValueError(f"{source}: {key} should have {ndim} dimensions, but has shape {shape}")
    return shape


def _blocks(reference: dict[str, Tensor], pattern: str) -> int:
    return len({match.group(1) for key in reference if (match := re.match(pattern, key))})


def _recognise_resnet(
    reference: dict[str, Tensor], source: str, backbone: str | None, backbone_kwargs: dict[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    if backbone is not None:
        return backbone, dict(backbone_kwargs or {})
    stem = _shape(reference, "encoder_q.conv1.weight", source, 4)
    layers = tuple(n for stage in range(1, 5) if (n := _blocks(reference, rf"encoder_q\.layer{stage}\.(\d+)\.")))
    if stem[0] == 16 and len(layers) == 3 and len(set(layers)) == 1:
        return f"cifar_resnet{6 * layers[0] + 2}", dict(backbone_kwargs or {})
    if stem[2:] == (3, 3) and layers == (3, 4, 6, 3):
        return "cifar_resnet50", dict(backbone_kwargs or {})
    if stem[2:] != (7, 7) or len(layers) != 4:
        raise ValueError(
            f"{source}: no known ResNet has an encoder_q.conv1.weight of {stem} and stages of {layers} blocks"
        )
    inner = [_shape(reference, f"encoder_q.layer{s}.0.conv2.weight", source, 4) for s in range(1, 5)]
    outer = [_shape(reference, f"encoder_q.layer{s}.0.conv3.weight", source, 4)[0] for s in range(1, 5)]
    planes = tuple(width // 4 for width in outer)
    if min(planes) < 1 or min(inner[0]) < 1:
        raise ValueError(f"{source}: encoder_q.layer1.0.conv3.weight has too few channels for a bottleneck ResNet")
    groups = inner[0][0] // inner[0][1]
    # Inner width = int(planes * base_width / 64) * groups.
    base_width = max(round(inner[0][0] / groups * 64 / planes[0]), 1)
    name = _RESNETS.get((layers, groups, base_width)) if planes == (64, 128, 256, 512) else None
    if name is not None:
        return name, dict(backbone_kwargs or {})
    recognised = {"layers": list(layers), "channels": list(planes), "cardinality": groups, "base_width": base_width}
    return "resnet50", {**recognised, **(backbone_kwargs or {})}


def _recognise_vit(
    reference: dict[str, Tensor], source: str, backbone: str | None, backbone_kwargs: dict[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    embed_dim, _, patch, _ = _shape(reference, "patch_embed.proj.weight", source, 4)
    tokens = _shape(reference, "pos_embed", source, 3)[1]
    depth = _blocks(reference, r"blocks\.(\d+)\.")
    size = math.isqrt(max(tokens - 1, 0)) * patch
    if backbone is None:
        backbone = _VITS.get((embed_dim, depth, patch))
        if backbone is None:
            raise ValueError(
                f"{source}: a ViT of width {embed_dim}, depth {depth} and patch {patch} is no standard one, and "
                "shapes do not "
                "tell its number of heads: give backbone='vit_base_patch16_224' and backbone_kwargs with img_size, "
                "patch_size, embed_dim, depth and num_heads"
            )
    recognised: dict[str, Any] = {"global_pool": "avg"} if "fc_norm.weight" in reference else {}
    if size != 224:
        recognised["img_size"] = size
    return backbone, {**recognised, **(backbone_kwargs or {})}


_QUEUE_KEYS = {"queue": "queue.features", "queue_l": "queue.labels", "queue_ptr": "queue.pointer"}


def _resnet_key(key: str) -> str | None:
    if key in _QUEUE_KEYS:
        return _QUEUE_KEYS[key]
    key = key.replace(".shortcut.", ".downsample.")
    for prefix, backbone, projector in (
        ("encoder_q.", "paco.backbone.", "projector."),
        ("encoder_k.", "key_encoder.paco.backbone.", "key_encoder.projector."),
    ):
        if key.startswith(prefix + "fc."):
            return projector + key.removeprefix(prefix + "fc.")
        if key.startswith(prefix):
            return backbone + key.removeprefix(prefix)
    return "classifier." + key.removeprefix("linear.") if key.startswith("linear.") else None


def _vit_key(key: str) -> str | None:
    if key in _QUEUE_KEYS:
        return _QUEUE_KEYS[key]
    if key.startswith("head."):
        return "classifier." + key.removeprefix("head.")
    return "projector." + key.removeprefix("mlp.") if key.startswith("mlp.") else "paco.backbone." + key


def _load(
    model: PaCoForContrastiveTraining, tensors: dict[str, Tensor], mapped: dict[str, str | None], source: str
) -> None:
    names = {target: key for key, target in mapped.items() if target is not None}
    own = model.state_dict()
    unknown = next((key for key in tensors if key not in own), None)
    if unknown is not None:
        raise ValueError(
            f"{source} has a key that the backbone {model.config.backbone!r} does not: {names[unknown]}; another "
            "backbone?"
        )
    stripped = not any(key.startswith("key_encoder.") for key in tensors)
    missing = [key for key in own if key not in tensors and not (stripped and key.startswith("key_encoder."))]
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} keys, the first being the one for {missing[0]}")
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise ValueError(
                f"{source}: {names[key]} has shape {tuple(tensor.shape)}, but the backbone {model.config.backbone!r} "
                "with "
                f"{model.config.backbone_kwargs} wants {tuple(own[key].shape)}"
            )
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise ValueError(f"{source}: {names[key]} has dtype {tensor.dtype}, expected one like {own[key].dtype}")
    model.load_state_dict(tensors, strict=False)
    if stripped and model.key_encoder is not None:
        model.key_encoder["paco"].load_state_dict(model.paco.state_dict())
        model.key_encoder["projector"].load_state_dict(model.projector.state_dict())
        logger.warning(f"{source} has no key encoder: it starts as a copy of the model")

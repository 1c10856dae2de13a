"""What a backbone sees of an image: its size, how it becomes a square, and its statistics."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timm.data import resolve_data_config
from timm.models import PretrainedCfg

from ..data.images import ImageData
from ..models.image_processing import FITS, SMALL_IMAGE, build_processor
from ..models.pretrained_backbones import BackboneSource
from .run_arguments import RunArguments

LEAST_SIDE, _STEP = 96, 32  # pixels, of an input that is chosen; convolutional backbones halve it five times


@dataclass(frozen=True)
class InputChoice:
    """What the backbone may see of an image.

    Args:
        size (`int`): side in pixels.
        fit (`str`): `crop` or `pad`.
        interpolation (`str`): how images are resized.
        processor (image processor): of these.
    """

    size: int
    fit: str
    interpolation: str
    processor: Any

    def apply(self, run: RunArguments) -> RunArguments:
        """The arguments with this input."""
        changes: dict[str, Any] = {"image_size": self.size, "image_fit": self.fit}
        return dataclasses.replace(run, eval_interpolation=cast(Any, self.interpolation), **changes)

    def __str__(self) -> str:
        return f"{self.size} x {self.size} pixels, {'padded' if self.fit == 'pad' else 'cropped'}"


def is_pretrained(run: RunArguments, backbone: BackboneSource | None) -> bool:
    """Whether the backbone starts from weights: timm's, a file's, or those that lie beside its configuration."""
    return run.pretrained or bool(run.pretrained_file or (backbone and backbone.weights))


def possible_inputs(
    run: RunArguments, data: ImageData, backbone: BackboneSource, backbone_kwargs: dict[str, Any]
) -> tuple[InputChoice, ...]:
    """What cross-validation chooses among, the cheapest first; one where the user chose, or nothing is chosen by it.

    The sizes go from the images' own, 96 pixels at least, to the backbone's.

    Args:
        run (`RunArguments`): with the size that the backbone is made for, or that the user chose.
        data (`ImageData`): the images.
        backbone (`BackboneSource`): what the backbone is built of.
        backbone_kwargs (`dict`): keyword arguments of `timm.create_model`.
    """
    size, config = int(run.image_size or 0), backbone.config or {}
    chosen = run.cross_validation not in (None, "none") and is_pretrained(run, backbone)
    sizes: list[int] = [size]
    fits: list[str] = [run.image_fit]
    if chosen and "image_size" in run.automatic and not config.get("fixed_input_size"):
        whole = -(-data.native_size() // _STEP) * _STEP
        least = min(max(whole, LEAST_SIDE), size)
        sizes = sorted({least, size} | ({(least + size) // 2 // _STEP * _STEP} if size >= 2 * least else set()))
    if chosen and "image_fit" in run.automatic and size > SMALL_IMAGE:
        fits = list(FITS)
    inputs = [_input(run, data, backbone, backbone_kwargs, s, f) for s in sizes for f in fits]
    return tuple(inputs)


def _input(
    run: RunArguments, data: ImageData, backbone: BackboneSource, options: dict[str, Any], size: int, fit: str
) -> InputChoice:
    """How images are made ready for evaluation: on one's own data as the backbone's weights were, unless images are
    small or the user says otherwise."""
    config = backbone.config or {}
    if not backbone.weights:
        config = config | options.get("pretrained_cfg_overlay", {})
    # timm takes the configuration of a model that has none for these values.
    statistics = resolve_data_config({}, pretrained_cfg=config or PretrainedCfg().to_dict())
    as_backbone = data.user_data and size > SMALL_IMAGE
    smooth = as_backbone and statistics["interpolation"] != "bilinear"
    interpolation = run.eval_interpolation or ("bicubic" if smooth else "bilinear")
    mean, std = data.mean or statistics["mean"], data.std or statistics["std"]
    crop_pct = statistics["crop_pct"] if as_backbone else None
    return InputChoice(size, fit, interpolation, build_processor(size, mean, std, interpolation, crop_pct, fit))


def describe_input(run: RunArguments, backbone: BackboneSource, processor: Any) -> str:
    """Backbone, weights and input, in words.

    Args:
        run (`RunArguments`): with all that was chosen.
        backbone (`BackboneSource`): what the backbone is built of.
        processor (image processor): of the input.
    """
    weights = "randomly initialized"
    if file := run.pretrained_file or backbone.weights:
        weights = f"weights from {Path(file).name}"
    elif run.pretrained:
        weights = "timm's pretrained weights"
    side, cut = processor.size["shortest_edge"], processor.crop_size["height"]
    mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (processor.image_mean, processor.image_std))
    source = "whole images, padded" if run.image_fit == "pad" else f"images resized to a shorter side of {side}"
    return (
        f"backbone {run.backbone}, {weights}; input {cut} x {cut} pixels from {source} "
        f"({run.eval_interpolation}); mean {mean}, std {std}"
    )

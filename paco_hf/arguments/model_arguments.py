"""The backbone of a run, its weights, and the images that it takes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .fields import arg, require


@dataclass
class ModelArguments:
    """The flags that choose backbone, classifier, input and views; a field's help says what it does."""

    backbone: str | None = arg(
        None,
        "any timm model, a folder that timm saved, or hf://user/name (default: cifar_resnet32 for small images, else "
        "resnet50)",
    )
    backbone_kwargs: str | None = arg(None, "JSON object of keyword arguments of timm.create_model")
    pretrained: bool = arg(False, "start from timm's pretrained weights")
    pretrained_file: str | None = arg(
        None, "start from a local file of the backbone's weights: safetensors or PyTorch's"
    )
    freeze_backbone: bool = arg(False, "train classifier and projector on the backbone as it is")
    lora_rank: int | None = arg(
        None, "train low-rank adapters of this rank beside the backbone's linear layers, not its weights (peft)"
    )
    lora_alpha: float | None = arg(None, "scale of the adapters, times 1 / rank (default: twice the rank)")
    lora_targets: str | None = arg(None, "linear layers to adapt, such as qkv,proj (default: all; they are printed)")
    class_centers: str = arg(
        "random",
        "what the class centers start as: random; means: of the training images' features; or a file of `paco-hf "
        "embed`, whose class means, or rows (one a class), are taken",
    )
    classifier_init_std: float | None = arg(
        None, "standard deviation of the new classifier's weights (default: PyTorch's uniform)"
    )
    image_size: int | None = arg(None, "side in pixels (default: the data set's or the backbone's)")
    eval_interpolation: Literal["bilinear", "bicubic"] | None = arg(
        None, "how evaluation images are resized (default: bilinear; on your own data the backbone's)"
    )
    query_view: str | None = arg(
        None, "augmentation of the query view (default: cifar_reg for small images, else regular)"
    )
    key_view: str | None = arg(None, "augmentation of the key view (default: cifar_sim for small images, else sim)")
    augment_backend: Literal["auto", "pil", "tensor"] = arg(
        "auto",
        "pil: views an image at a time, in the data loader; tensor: a batch at a time, on the device, for images of "
        "one size that are kept in memory; auto: tensor for small images where it can be",
    )

    def __post_init__(self) -> None:
        size, deviation, rank = self.image_size, self.classifier_init_std, self.lora_rank
        require(size is None or size >= 1, f"image_size must be at least 1, got {size}")
        require(
            self.augment_backend in ("auto", "pil", "tensor"),
            f"augment_backend must be auto, pil or tensor, got {self.augment_backend!r}",
        )
        require(deviation is None or deviation > 0, f"classifier_init_std must be positive, got {deviation}")
        require(
            rank is not None or (self.lora_alpha is None and not self.lora_targets),
            "--lora_alpha and --lora_targets are of adapters: give --lora_rank too, such as 8",
        )
        require(
            rank is None or (rank >= 1 and (self.lora_alpha or 1) > 0),
            f"lora_rank must be at least 1 and lora_alpha positive, got {rank} and {self.lora_alpha}",
        )
        require(
            rank is None or not self.freeze_backbone,
            "--lora_rank trains adapters of the backbone, --freeze_backbone nothing of it: give one",
        )
        require(
            self.class_centers == "random" or deviation is None,
            "--class_centers and --classifier_init_std both set the classifier: give one",
        )
        require(
            self.class_centers in ("random", "means") or Path(self.class_centers).is_file(),
            f"class_centers must be random, means or a file of embeddings, got {self.class_centers!r}, no file",
        )
        require(
            self.eval_interpolation in (None, "bilinear", "bicubic"),
            f"eval_interpolation must be bilinear or bicubic, got {self.eval_interpolation!r}",
        )
        require(
            self.pretrained_file is None or Path(self.pretrained_file).is_file(),
            f"pretrained_file {self.pretrained_file!r} does not exist, or is no file",
        )
        json_object(self.backbone_kwargs)

    @property
    def backbone_options(self) -> dict[str, Any]:
        """`backbone_kwargs` as a dictionary."""
        return dict(json_object(self.backbone_kwargs))


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object, or its text, as a dictionary (`None`: an empty one).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r} ({error})") from error
    require(value is None or isinstance(value, dict), f"backbone_kwargs must be a JSON object, got {value!r}")
    return value or {}

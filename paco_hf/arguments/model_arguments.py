"""The backbone of a run, its weights, and the images that it takes."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from .fields import AT_LEAST_1, POSITIVE, argument_table


@argument_table
class ModelArguments:
    """The flags that choose backbone, classifier, input and views.

    Args:
        backbone (`str`, *optional*): any timm model, a folder that timm saved, or hf://user/name (default:
            cifar_resnet32 for small images, else resnet50)
        backbone_kwargs (`str`, *optional*): JSON object of keyword arguments of timm.create_model
        pretrained (`bool`, *optional*, defaults to `False`): start from timm's pretrained weights
        pretrained_file (`str`, *optional*): start from a local file of the backbone's weights: safetensors or
            PyTorch's
        freeze_backbone (`bool`, *optional*, defaults to `False`): train classifier and projector on the backbone as it
            is
        lora_rank (`int`, *optional*): train low-rank adapters of this rank beside the backbone's linear layers, not
            its weights (peft)
        lora_alpha (`float`, *optional*): scale of the adapters, times 1 / rank (default: twice the rank)
        lora_targets (`str`, *optional*): linear layers to adapt, such as qkv,proj (default: all; they are printed)
        class_centers (`str`, *optional*, defaults to `"random"`): what the class centers start as: random; means: of
            the training images' features; or a file of `paco-hf embed`, whose class means, or rows (one a class), are
            taken
        classifier_init_std (`float`, *optional*): standard deviation of the new classifier's weights (default:
            PyTorch's uniform)
        image_size (`int`, *optional*): side in pixels (default: the data set's or the backbone's)
        eval_interpolation (`str`, *optional*): how evaluation images are resized (default: bilinear; on your own data
            the backbone's)
        query_view (`str`, *optional*): augmentation of the query view (default: cifar_reg for small images, else
            regular)
        key_view (`str`, *optional*): augmentation of the key view (default: cifar_sim for small images, else sim)
        augment_backend (`str`, *optional*, defaults to `"auto"`): pil: views an image at a time, in the data loader;
            tensor: a batch at a time, on the device, for images of one size that are kept in memory; auto: tensor for
            small images where it can be
    """

    backbone: str | None = None
    backbone_kwargs: str | None = None
    pretrained: bool = False
    pretrained_file: str | None = None
    freeze_backbone: bool = False
    lora_rank: Annotated[int | None, AT_LEAST_1] = None
    lora_alpha: Annotated[float | None, POSITIVE] = None
    lora_targets: str | None = None
    class_centers: str = "random"
    classifier_init_std: Annotated[float | None, POSITIVE] = None
    image_size: Annotated[int | None, AT_LEAST_1] = None
    eval_interpolation: Literal["bilinear", "bicubic"] | None = None
    query_view: str | None = None
    key_view: str | None = None
    augment_backend: Literal["auto", "pil", "tensor"] = "auto"

    def __post_init__(self) -> None:
        adapters, centers, file = self.lora_rank is not None, self.class_centers, self.pretrained_file
        if not adapters and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError("--lora_alpha and --lora_targets are of adapters: give --lora_rank too, such as 8")
        if adapters and self.freeze_backbone:
            raise ValueError("--lora_rank trains adapters of the backbone, --freeze_backbone nothing of it: give one")
        if centers != "random" and self.classifier_init_std is not None:
            raise ValueError("--class_centers and --classifier_init_std both set the classifier: give one")
        if centers not in ("random", "means") and not Path(centers).is_file():
            raise ValueError(f"class_centers must be random, means or a file of embeddings, got {centers!r}, no file")
        if file is not None and not Path(file).is_file():
            raise ValueError(f"pretrained_file {file!r} does not exist, or is no file")
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
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r}")
    return value or {}

"""What a run is besides its training arguments, and how flags, recipe and defaults become one whole."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass
class RunArguments:
    """Data, backbone and views of a run, and how to treat its folder."""

    recipe: str | None = field(
        default=None,
        metadata={
            "help": "name of a recipe of the package, or a YAML file; flags win over it (on builtin a default one)"
        },
    )
    dataset: str = field(
        default="builtin",
        metadata={
            "help": "builtin; imagenet, imagenet-lt, inat2018, places-lt, cifar100-lt, cifar10-lt, cifar100; a folder "
            "of class folders, parquet or tables; a CSV, TSV, JSON or parquet file; or the id of a data set on the Hub"
        },
    )
    dataset_path: str | None = field(
        default=None,
        metadata={
            "help": "where a named data set lies: a folder of `paco-hf data prepare`, the official folders, parquet"
        },
    )
    train_list: str | None = field(
        default=None, metadata={"help": "list of the training images (default: its official name in --dataset_path)"}
    )
    validation_list: str | None = field(default=None, metadata={"help": "likewise of the validation images"})
    test_list: str | None = field(default=None, metadata={"help": "likewise of the test images"})
    streaming: bool = field(
        default=False,
        metadata={"help": "read a prepared folder, or its address, shard by shard, shuffled in a buffer"},
    )
    shuffle_buffer: int = field(
        default=4096, metadata={"help": "encoded images of a process to shuffle among one another when streaming"}
    )
    image_column: str | None = field(default=None, metadata={"help": "column of the images (default: recognised)"})
    label_column: str | None = field(default=None, metadata={"help": "column of the classes (default: recognised)"})
    train_split: str | None = field(
        default=None, metadata={"help": "what your own data calls the split to train on (default: recognised)"}
    )
    validation_split: str | None = field(default=None, metadata={"help": "likewise the validation split"})
    test_split: str | None = field(default=None, metadata={"help": "likewise the test split"})
    inspect: bool | None = field(
        default=None,
        metadata={"help": "decode every image before training and look for duplicates, once (default: your own data)"},
    )
    skip_undecodable: bool = field(
        default=False, metadata={"help": "leave out images of your own data that cannot be decoded"}
    )
    imbalance_factor: float = field(
        default=100, metadata={"help": "images of the most : least frequent class, for cifar*-lt"}
    )
    imbalance_kind: Literal["exp", "step", "pareto"] = field(
        default="exp", metadata={"help": "shape of the tail, for cifar*-lt"}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "share of the training images carved to select the model; 0: train on all, report the last epoch"
        },
    )
    test_fraction: float | None = field(
        default=None,
        metadata={
            "help": "share of each class carved for the test where your own data has none (default: 0.2; 0: none)"
        },
    )
    split_seed: int = field(
        default=0,
        metadata={"help": "of the test carve, which does not follow --seed"},
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "any timm model, a folder that timm saved, or hf://user/name (default: cifar_resnet32 for small "
            "images, else resnet50)"
        },
    )
    backbone_kwargs: str | None = field(
        default=None, metadata={"help": "JSON object of keyword arguments of timm.create_model"}
    )
    pretrained: bool = field(default=False, metadata={"help": "start from timm's pretrained weights"})
    pretrained_file: str | None = field(
        default=None, metadata={"help": "start from a local file of the backbone's weights: safetensors or PyTorch's"}
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "train classifier and projector on the backbone as it is"}
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "train low-rank adapters of this rank beside the backbone's linear layers, not its weights (peft)"
        },
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "scale of the adapters, times 1 / rank (default: twice the rank)"}
    )
    lora_targets: str | None = field(
        default=None,
        metadata={"help": "linear layers to adapt, such as qkv,proj (default: all; they are printed)"},
    )
    class_centers: str = field(
        default="random",
        metadata={
            "help": "what the class centres start as: random; means: of the training images' features; or a file of "
            "`paco-hf embed`, whose class means, or rows (one a class), are taken"
        },
    )
    classifier_init_std: float | None = field(
        default=None,
        metadata={"help": "standard deviation of the new classifier's weights (default: PyTorch's uniform)"},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "side in pixels (default: the data set's or the backbone's)"}
    )
    eval_interpolation: Literal["bilinear", "bicubic"] | None = field(
        default=None,
        metadata={"help": "how evaluation images are resized (default: bilinear; on your own data the backbone's)"},
    )
    query_view: str | None = field(
        default=None,
        metadata={"help": ("augmentation of the query view (default: cifar_reg for small images, else regular)")},
    )
    key_view: str | None = field(
        default=None, metadata={"help": "augmentation of the key view (default: cifar_sim for small images, else sim)"}
    )
    augment_backend: Literal["auto", "pil", "tensor"] = field(
        default="auto",
        metadata={
            "help": "pil: views an image at a time, in the data loader; tensor: a batch at a time, on the device, for "
            "images of one size that are kept in memory; auto: tensor for small images where it can be"
        },
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "training images of an optimizer step, over all processes: what --learning_rate is for; sets "
            "--per_device_train_batch_size where that is not given"
        },
    )
    scale_learning_rate: bool = field(
        default=True,
        metadata={"help": "where the batch is not the recipe's, scale the recipe's learning rate in proportion"},
    )
    calibrate: bool | None = field(
        default=None,
        metadata={
            "help": "store a temperature fitted on the validation split (default: for own data with at least 100 "
            "images there)"
        },
    )
    report: bool = field(
        default=True,
        metadata={"help": "in the end write the model card and, on the test split, evaluation/report.html"},
    )
    resume: bool = field(
        default=False, metadata={"help": "go on from the last complete checkpoint in --output_dir (or start, if none)"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace an earlier run in --output_dir"})
    dry_run: bool = field(default=False, metadata={"help": "check everything, print what would be done, and stop"})

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be at least 0 and below 1, got {self.validation_fraction}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {self.shuffle_buffer}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if self.augment_backend not in ("auto", "pil", "tensor"):
            raise ValueError(f"augment_backend must be auto, pil or tensor, got {self.augment_backend!r}")
        if self.global_batch_size is not None and self.global_batch_size < 1:
            raise ValueError(f"global_batch_size must be at least 1, got {self.global_batch_size}")
        if self.classifier_init_std is not None and not self.classifier_init_std > 0:
            raise ValueError(f"classifier_init_std must be positive, got {self.classifier_init_std}")
        if self.lora_rank is None and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError("--lora_alpha and --lora_targets are of adapters: give --lora_rank too, such as 8")
        if self.lora_rank is not None and (self.lora_rank < 1 or not (self.lora_alpha or 1) > 0):
            raise ValueError(
                f"lora_rank must be at least 1 and lora_alpha positive, got {self.lora_rank} and {self.lora_alpha}"
            )
        if self.lora_rank is not None and self.freeze_backbone:
            raise ValueError("--lora_rank trains adapters of the backbone, --freeze_backbone nothing of it: give one")
        if self.class_centers != "random" and self.classifier_init_std is not None:
            raise ValueError("--class_centers and --classifier_init_std both set the classifier: give one")
        if self.class_centers not in ("random", "means") and not Path(self.class_centers).is_file():
            raise ValueError(
                f"class_centers must be random, means or a file of embeddings, got {self.class_centers!r}, no file"
            )
        if self.split_seed < 0:
            raise ValueError(f"split_seed must not be negative, got {self.split_seed}")
        if self.skip_undecodable and self.inspect is False:
            raise ValueError("--skip_undecodable leaves out what --inspect finds: leave out --inspect false")
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}")
        if self.eval_interpolation not in (None, "bilinear", "bicubic"):
            raise ValueError(f"eval_interpolation must be bilinear or bicubic, got {self.eval_interpolation!r}")
        if self.pretrained_file is not None and not Path(self.pretrained_file).is_file():
            raise ValueError(f"pretrained_file {self.pretrained_file!r} does not exist, or is no file")
        # Filled up once the images are known; `backbone_kwargs` stays as it was given.
        self.backbone_options: dict[str, Any] = dict(json_object(self.backbone_kwargs))
        # What [`parse_run`] did to the learning rate, for the user to read.
        self.batch_note: str | None = None
        # Settings that are to be chosen from the size of the data.
        self.undecided: set[str] = set()

    @property
    def lists(self) -> dict[str, str]:
        """The list files that were given, by split."""
        given = {"train": self.train_list, "validation": self.validation_list, "test": self.test_list}
        return {split: source for split, source in given.items() if source}

    @property
    def splits(self) -> dict[str, str]:
        """The names of splits that were given, by role."""
        given = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
        return {role: name for role, name in given.items() if name}


def json_object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r} ({error})") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"backbone_kwargs must be a JSON object, got {value!r}")
    return value or {}

"""What a run is besides its training arguments: data, model, and how to treat its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..utils.hub_names import take_revision
from .fields import AT_LEAST_0, AT_LEAST_1, AT_LEAST_2, FRACTION, POSITIVE, argument_table, check_ranges


@argument_table
class RecipeArguments:
    """Recipe: settings that the flags change.

    Args:
        recipe (`str`, *optional*): name of a recipe of the package, or a YAML file; flags win over it (on builtin a
            default one)
    """

    recipe: str | None = None


@argument_table
class DataArguments:
    """Data: which images, and how they are split.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): builtin; imagenet, imagenet-lt, inat2018, places-lt,
            cifar100-lt, cifar10-lt, cifar100; a folder of class folders, parquet or tables; a CSV, TSV, JSON or
            parquet file; or the id of a data set on the Hub, user/name[@revision]
        dataset_revision (`str`, *optional*): branch, tag or commit of a data set on the Hub
        dataset_path (`str`, *optional*): where a named data set lies: a folder of `paco-hf data prepare`, the official
            folders, parquet
        train_list (`str`, *optional*): list of the training images (default: its official name in --dataset_path)
        validation_list (`str`, *optional*): likewise of the validation images
        test_list (`str`, *optional*): likewise of the test images
        streaming (`bool`, *optional*, defaults to `False`): read a prepared folder, or its address, shard by shard,
            shuffled in a buffer
        shuffle_buffer (`int`, *optional*, defaults to `4096`): encoded images of a process to shuffle among one
            another when streaming
        image_column (`str`, *optional*): column of the images (default: recognized)
        label_column (`str`, *optional*): column of the classes (default: recognized)
        label_source (`str`, *optional*): what gives the classes where a folder has class folders and a table beside
            them (default: the folders; where the table has other classes there is none)
        train_split (`str`, *optional*): what your own data calls the split to train on (default: recognized)
        validation_split (`str`, *optional*): likewise the validation split
        test_split (`str`, *optional*): likewise the test split; none: not to score on it, as where it has no labels
        inspect (`str`, *optional*): look at all images before training, once, and for duplicates: full (true) decodes
            them; headers decodes those to score on; none (false) (default: your own data, full up to 50,000 images of
            2 GB, else headers)
        skip_undecodable (`bool`, *optional*, defaults to `False`): leave out damaged images that --inspect finds
        strict (`bool`, *optional*, defaults to `False`): stop at an image that is damaged (default: in training one of
            its class replaces it)
        exclude_list (`str`, *optional*): images to leave out of train and validation: a CSV of `paco-hf data
            suspects`, or a text file of their names, one a line
        max_image_pixels (`int`, *optional*): pixels of the largest image that is decoded, such as 1000000000 for large
            scans (default: 179 million, against files that are made to fill the memory)
        imbalance_factor (`float`, *optional*, defaults to `100`): images of the most : least frequent class, for
            cifar*-lt
        imbalance_kind (`str`, *optional*, defaults to `"exp"`): shape of the tail, for cifar*-lt
        validation_fraction (`float`, *optional*, defaults to `0.1`): share of the training images carved to select the
            model; 0: train on all, report the last epoch
        cross_validation (`str`, *optional*): folds, where the backbone is frozen: settings and temperature are chosen
            on images held out once, then all are trained on; none: a validation split (default: 5 on your own data
            without a validation split)
        test_fraction (`float`, *optional*): share of each class carved for the test where your own data has none
            (default: 0.2, of classes of 5 images or more, where at least half of the classes are such; 0: none)
        test_min_images (`int`, *optional*): classes of fewer images give none to the test (default: 5; where
            --test_fraction is given, 2)
        split_seed (`int`, *optional*, defaults to `0`): of the test carve, which does not follow --seed
        validation_seed (`str`, *optional*): of the validation split: a number, or seed (default: --seed; with
            --seeds the first of them)
    """

    dataset: str = "builtin"
    dataset_revision: str | None = None
    dataset_path: str | None = None
    train_list: str | None = None
    validation_list: str | None = None
    test_list: str | None = None
    streaming: bool = False
    shuffle_buffer: Annotated[int, AT_LEAST_1] = 4096
    image_column: str | None = None
    label_column: str | None = None
    label_source: Literal["folders", "table"] | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    inspect: Literal["full", "headers", "none", "true", "false"] | None = None
    skip_undecodable: bool = False
    strict: bool = False
    exclude_list: str | None = None
    max_image_pixels: Annotated[int | None, AT_LEAST_1] = None
    imbalance_factor: float = 100
    imbalance_kind: Literal["exp", "step", "pareto"] = "exp"
    validation_fraction: Annotated[float, FRACTION] = 0.1
    cross_validation: str | None = None
    test_fraction: Annotated[float | None, FRACTION] = None
    test_min_images: Annotated[int | None, AT_LEAST_1] = None
    split_seed: Annotated[int, AT_LEAST_0] = 0
    validation_seed: str | None = None


@argument_table
class ModelArguments:
    """Model: backbone, classifier, input and views.

    Args:
        backbone (`str`, *optional*): any timm model, a folder that timm saved, or hf://user/name (default:
            cifar_resnet32 for small images, else resnet50)
        backbone_revision (`str`, *optional*): branch, tag or commit of weights on the Hub
        backbone_kwargs (`str`, *optional*): JSON object of keyword arguments of timm.create_model
        pretrained (`bool`, *optional*, defaults to `False`): start from timm's pretrained weights
        pretrained_file (`str`, *optional*): start from a local file of the backbone's weights: safetensors or
            PyTorch's
        freeze_backbone (`bool`, *optional*, defaults to `False`): train classifier and projector on the features of
            the backbone as it is, which are computed once (on your own data the default for a pretrained backbone on a
            CPU, and for up to 5,000 images)
        feature_views (`int`, *optional*, defaults to `0`): augmented views of each image whose features the epochs
            take in turn where the backbone is frozen; 0: those of the image as it is
        lora_rank (`int`, *optional*): train low-rank adapters of this rank beside the backbone's linear layers, not
            its weights (peft)
        lora_alpha (`float`, *optional*): scale of the adapters, times 1 / rank (default: twice the rank)
        lora_targets (`str`, *optional*): linear layers to adapt, such as qkv,proj (default: all; they are printed)
        classifier (`str`, *optional*, defaults to `"linear"`): linear, or cosine: the logits are cosines of features
            and class centers, times --classifier_scale (on your own data the default on a pretrained backbone
            without adapters, with --class_centers means and --loss balanced_softmax)
        classifier_scale (`float`, *optional*, defaults to `25`): what the cosines are multiplied by (chosen by
            --cross_validation where that is)
        learn_classifier_scale (`bool`, *optional*, defaults to `False`): train the scale too, from --classifier_scale
            on
        class_centers (`str`, *optional*, defaults to `"random"`): what the class centers start as: random; means: of
            the training images' features; or a file of `paco-hf embed`, whose class means, or rows (one a class), are
            taken
        classifier_init_std (`float`, *optional*): standard deviation of the new classifier's weights (default:
            PyTorch's uniform)
        image_size (`int`, *optional*): side in pixels (default: the data set's or the backbone's; where a pretrained
            backbone is frozen, chosen by --cross_validation)
        image_fit (`str`, *optional*, defaults to `"crop"`): how evaluation images become squares: crop: the middle;
            pad: the whole image, on a ground of the color of its border (chosen likewise)
        eval_interpolation (`str`, *optional*): how evaluation images are resized (default: bilinear; on your own data
            the backbone's)
        query_view (`str`, *optional*): augmentation of the query view (default: cifar_reg for small images, else
            regular)
        key_view (`str`, *optional*): augmentation of the key view (default: cifar_sim for small images, else sim)
        augment_backend (`str`, *optional*, defaults to `"auto"`): pil: views an image at a time, in the data loader;
            tensor: a batch at a time, on the device, for images of one size that are kept in memory; auto: tensor for
            small images where it can be
        view_draws (`str`, *optional*): what views made by tensor depend on: image: seed, epoch and image alone,
            whatever the batch and the number of processes; batch: the other images of the batch, too (default: image;
            a run resumes with its own)
    """

    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_kwargs: str | None = None
    pretrained: bool = False
    pretrained_file: str | None = None
    freeze_backbone: bool = False
    feature_views: Annotated[int, AT_LEAST_0] = 0
    lora_rank: Annotated[int | None, AT_LEAST_1] = None
    lora_alpha: Annotated[float | None, POSITIVE] = None
    lora_targets: str | None = None
    classifier: Literal["linear", "cosine"] = "linear"
    classifier_scale: Annotated[float, POSITIVE] = 25.0
    learn_classifier_scale: bool = False
    class_centers: str = "random"
    classifier_init_std: Annotated[float | None, POSITIVE] = None
    image_size: Annotated[int | None, AT_LEAST_2] = None
    image_fit: Literal["crop", "pad"] = "crop"
    eval_interpolation: Literal["bilinear", "bicubic"] | None = None
    query_view: str | None = None
    key_view: str | None = None
    augment_backend: Literal["auto", "pil", "tensor"] = "auto"
    view_draws: Literal["image", "batch"] | None = None

    @property
    def backbone_options(self) -> dict[str, Any]:
        """`backbone_kwargs` as a dictionary."""
        return dict(json_object(self.backbone_kwargs))

    @property
    def adapted_names(self) -> list[str] | None:
        """`lora_targets` as a list."""
        return self.lora_targets.split(",") if self.lora_targets else None


@argument_table
class WorkflowArguments:
    """Run: what is done around the training.

    Args:
        global_batch_size (`int`, *optional*): training images of an optimizer step, over all processes: what
            --learning_rate is for; sets --per_device_train_batch_size where that is not given
        scale_learning_rate (`bool`, *optional*, defaults to `True`): where the batch is not the recipe's, scale the
            recipe's learning rate in proportion
        calibrate (`bool`, *optional*): store a temperature fitted on the validation split (default: for own data with
            at least 100 images there)
        report (`bool`, *optional*, defaults to `True`): in the end write the model card and, on the test split,
            evaluation/report.html
        resume (`bool`, *optional*, defaults to `False`): go on from the last complete checkpoint in --output_dir (or
            start, if none)
        overwrite (`bool`, *optional*, defaults to `False`): replace an earlier run in --output_dir
        dry_run (`bool`, *optional*, defaults to `False`): check everything, print what would be done, and stop
    """

    global_batch_size: Annotated[int | None, AT_LEAST_1] = None
    scale_learning_rate: bool = True
    calibrate: bool | None = None
    report: bool = True
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


# In the order of the help.
RUN_TABLES = (RecipeArguments, DataArguments, ModelArguments, WorkflowArguments)


@dataclass
class RunArguments(WorkflowArguments, ModelArguments, DataArguments, RecipeArguments):
    """Data, backbone and views of a run, and how to treat its folder: the flags of [`RUN_TABLES`].

    Args:
        automatic (`frozenset` of `str`, *optional*): training settings to choose from the size of the data. This and
            `notes` are no flags: [`paco_hf.arguments.parser.parse_run`] sets them.
        notes (`tuple` of `str`, *optional*): what the parser made of the training settings, for the user to read.

    Raises:
        ValueError: a value out of range, or two that contradict each other.
    """

    automatic: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def validation_draw(self, seed: int) -> int:
        """What the validation split is drawn with, in a run of this `--seed`."""
        return seed if self.validation_seed in (None, "seed") else int(str(self.validation_seed))

    @property
    def on_features(self) -> bool:
        """Whether the backbone is frozen, so that its features are computed once; a stream is read but once."""
        return self.freeze_backbone and not self.streaming

    def __post_init__(self) -> None:
        former: dict[Any, Any] = {True: "full", "true": "full", False: "none", "false": "none"}  # recipes have it
        self.inspect = former.get(self.inspect, self.inspect)
        check_ranges(self)
        self.dataset, self.dataset_revision = take_revision(self.dataset, self.dataset_revision, "dataset")
        if self.backbone:
            self.backbone, self.backbone_revision = take_revision(self.backbone, self.backbone_revision, "backbone")
        drawn = self.validation_seed
        if drawn not in (None, "seed") and not str(drawn).isdecimal():
            raise ValueError(f"--validation_seed must be a whole number, at least 0, or seed, got {drawn!r}")
        if self.skip_undecodable and self.inspect == "none":
            raise ValueError("--skip_undecodable leaves out what --inspect finds: leave out --inspect none")
        folds = self.cross_validation
        if folds not in (None, "none") and not (str(folds).isdecimal() and int(str(folds)) >= 2):
            raise ValueError(f"--cross_validation must be none or a number of folds, at least 2, got {folds!r}")
        adapters, centers, file = self.lora_rank is not None, self.class_centers, self.pretrained_file
        if not adapters and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError(
                "--lora_alpha and --lora_targets have no effect without --lora_rank: give it too, such as 8, or "
                "leave them out"
            )
        if adapters and self.freeze_backbone:
            raise ValueError(
                "--lora_rank trains adapters in the backbone, and --freeze_backbone trains nothing of it: give only "
                "one"
            )
        scale = {"classifier_scale": self.classifier_scale, "learn_classifier_scale": self.learn_classifier_scale}
        for name, value in scale.items() if self.classifier == "linear" else ():
            if value != getattr(type(self), name):
                raise ValueError(
                    f"--{name} {str(value).lower()} has no effect on a linear classifier, which has no scale: give "
                    "--classifier cosine, or leave it out"
                )
        if centers != "random" and self.classifier_init_std is not None:
            raise ValueError("--class_centers and --classifier_init_std both initialize the classifier: give only one")
        if centers not in ("random", "means") and not Path(centers).is_file():
            raise ValueError(
                "--class_centers must be random, means or a file of embeddings (`paco-hf embed` writes one), got "
                f"{centers!r}"
            )
        if file is not None and not Path(file).is_file():
            raise ValueError(f"--pretrained_file {file!r} is not a file: give a file of weights")
        json_object(self.backbone_kwargs)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        if self.streaming and self.class_centers == "means":
            raise ValueError(
                "--class_centers means reads all images before training, and --streaming reads them only once: give "
                "a file of embeddings, as `paco-hf embed` writes"
            )


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object, or its text, as a dictionary (`None`: an empty one).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"backbone_kwargs must be a JSON object, such as '{{\"img_size\": 224}}', got {value!r} ({error})"
            ) from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"backbone_kwargs must be a JSON object, such as '{{\"img_size\": 224}}', got {value!r}")
    return value or {}

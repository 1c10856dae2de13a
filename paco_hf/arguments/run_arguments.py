"""The arguments of a run other than its training arguments: data, model, and how to use its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..utils.hub_names import take_revision
from .fields import AT_LEAST_0, AT_LEAST_1, AT_LEAST_2, FRACTION, POSITIVE, argument_table, check_ranges


@argument_table
class RecipeArguments:
    """Recipe: a file of settings, which flags override.

    Args:
        recipe (`str`, *optional*): a built-in recipe or a YAML file; flags override its settings (default on builtin:
            the loss's recipe)
    """

    recipe: str | None = None


@argument_table
class DataArguments:
    """Data: the images and their splits.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): builtin; imagenet, imagenet-lt, inat2018, places-lt,
            cifar100-lt, cifar10-lt, cifar100; a folder of class folders, parquet files or tables; a CSV, TSV, JSON or
            parquet file; or a dataset on the Hub, user/name[@revision]
        dataset_revision (`str`, *optional*): branch, tag or commit of a dataset on the Hub
        dataset_path (`str`, *optional*): folder of a benchmark dataset, as prepared by `paco-hf data prepare`, in its
            official layout, or in parquet
        train_list (`str`, *optional*): list of training images (default: the official list in --dataset_path)
        validation_list (`str`, *optional*): list of validation images (default: as above)
        test_list (`str`, *optional*): list of test images (default: as above)
        streaming (`bool`, *optional*, defaults to `False`): stream a prepared folder or URL shard by shard, with a
            shuffle buffer
        shuffle_buffer (`int`, *optional*, defaults to `4096`): number of encoded images in the shuffle buffer of each
            process, with --streaming
        image_column (`str`, *optional*): column with the images (default: detected)
        label_column (`str`, *optional*): column with the classes (default: detected)
        label_source (`str`, *optional*): source of the labels if a folder has both class folders and a table (default:
            folders; if the table disagrees with them, you must choose)
        train_split (`str`, *optional*): name of your training split (default: detected)
        validation_split (`str`, *optional*): name of the validation split (default: detected)
        test_split (`str`, *optional*): name of the test split (default: detected); none: no evaluation on it, for
            example without labels
        inspect (`str`, *optional*): check images and find duplicates once, before training: full (true) decodes all
            images; headers decodes only the evaluation images; none (false) skips the check (default on your own data:
            full up to 50,000 images and 2 GB, else headers)
        skip_undecodable (`bool`, *optional*, defaults to `False`): exclude the damaged images that --inspect finds
        strict (`bool`, *optional*, defaults to `False`): stop at a damaged image (default: during training, replace it
            with another image of its class)
        exclude_list (`str`, *optional*): images to exclude from training and validation: a CSV from `paco-hf data
            suspects`, or a text file with one name per line
        max_image_pixels (`int`, *optional*): maximum number of pixels in an image, such as 1000000000 for large scans
            (default: 179 million, as a guard against decompression bombs)
        imbalance_factor (`float`, *optional*, defaults to `100`): size of the largest class divided by that of the
            smallest, for cifar*-lt
        imbalance_kind (`str`, *optional*, defaults to `"exp"`): shape of the class distribution, for cifar*-lt
        validation_fraction (`float`, *optional*, defaults to `0.1`): fraction of training images to split off for
            model selection; 0: train on all, keep the last epoch
        cross_validation (`str`, *optional*): folds for a frozen backbone: choose settings and temperature on held-out
            images, then train on all images; none: use a validation split (default: 5 on your own data without a
            validation split)
        test_fraction (`float`, *optional*): fraction of each class to split off for testing, if your data has no test
            split; 0: none (default: 0.2 of each class with 5 or more images, if at least half of the classes have that
            many)
        test_min_images (`int`, *optional*): minimum size of a class to split test images off (default: 5; with
            --test_fraction: 2)
        split_seed (`int`, *optional*, defaults to `0`): seed of the test split; independent of --seed
        validation_seed (`str`, *optional*): seed of the validation split: a number, or seed (default: --seed; with
            --seeds, the first one)
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
        backbone (`str`, *optional*): a timm model, a folder saved by timm, or hf://user/name (default: cifar_resnet32
            for small images, else resnet50)
        backbone_revision (`str`, *optional*): branch, tag or commit of backbone weights on the Hub
        backbone_kwargs (`str`, *optional*): JSON object of arguments of timm.create_model
        pretrained (`bool`, *optional*, defaults to `False`): start from timm's pretrained weights
        pretrained_file (`str`, *optional*): start from backbone weights in a local safetensors or PyTorch file
        freeze_backbone (`bool`, *optional*, defaults to `False`): freeze the backbone: compute its features once, and
            train the classifier and projector on them (default on your own data: true for a pretrained backbone on a
            CPU, or with up to 5,000 images)
        feature_views (`int`, *optional*, defaults to `0`): number of augmented views per image to compute features of,
            for a frozen backbone; epochs cycle through them; 0: use the images without augmentation
        lora_rank (`int`, *optional*): rank of LoRA adapters to train instead of the weights of the backbone's linear
            layers (needs peft)
        lora_alpha (`float`, *optional*): LoRA scaling, multiplied by 1 / rank (default: twice the rank)
        lora_targets (`str`, *optional*): linear layers to adapt, such as qkv,proj (default: all; the run prints them)
        classifier (`str`, *optional*, defaults to `"linear"`): linear; cosine: cosine similarities of features and
            class centers, times --classifier_scale (default on your own data with a pretrained backbone and no
            adapters: cosine, with --class_centers means and --loss balanced_softmax)
        classifier_scale (`float`, *optional*, defaults to `25`): scale of the cosine classifier's logits (with
            --cross_validation, chosen by it)
        learn_classifier_scale (`bool`, *optional*, defaults to `False`): train the scale, starting from
            --classifier_scale
        class_centers (`str`, *optional*, defaults to `"random"`): initial class centers: random; means: class means of
            the training features; or a file from `paco-hf embed`, of which class means or rows (one per class) are
            used
        classifier_init_std (`float`, *optional*): standard deviation of the classifier's initial weights (default:
            PyTorch's uniform initialization)
        image_size (`int`, *optional*): side of the input in pixels (default: that of the dataset or backbone; for a
            frozen pretrained backbone, chosen by --cross_validation)
        image_fit (`str`, *optional*, defaults to `"crop"`): make evaluation images square: crop the center, or pad
            with the border's color (or chosen by --cross_validation)
        eval_interpolation (`str`, *optional*): interpolation for resizing evaluation images (default: bilinear; on
            your own data, the backbone's)
        query_view (`str`, *optional*): augmentation of the query view (default: cifar_reg for small images, else
            regular)
        key_view (`str`, *optional*): augmentation of the key view (default: cifar_sim for small images, else sim)
        augment_backend (`str`, *optional*, defaults to `"auto"`): pil: augment image by image in the data loader;
            tensor: augment whole batches on the device, for images of one size that are kept in memory; auto: tensor
            for small images if possible
        view_draws (`str`, *optional*): randomness of views with tensor: image: depends only on seed, epoch and image,
            not on batch size or number of processes; batch: also depends on the batch (default: image; a resumed run
            keeps its own)
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
    """Run: steps before and after training.

    Args:
        global_batch_size (`int`, *optional*): training images per optimizer step over all processes, to which
            --learning_rate refers; sets --per_device_train_batch_size
        scale_learning_rate (`bool`, *optional*, defaults to `True`): scale the recipe's learning rate linearly if the
            batch size differs from the recipe's
        calibrate (`bool`, *optional*): fit a temperature on the validation split and store it (default: if your data
            has 100 or more images there)
        report (`bool`, *optional*, defaults to `True`): after training, write the model card and, for the test split,
            evaluation/report.html
        resume (`bool`, *optional*, defaults to `False`): resume from the last complete checkpoint in --output_dir;
            start a new run if there is none
        overwrite (`bool`, *optional*, defaults to `False`): replace an earlier run in --output_dir
        dry_run (`bool`, *optional*, defaults to `False`): check everything, print what the run would do and how long
            it would take, and exit
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
            raise ValueError(f"--validation_seed must be an integer of at least 0, or seed, got {drawn!r}")
        if self.skip_undecodable and self.inspect == "none":
            raise ValueError(
                "--skip_undecodable excludes the images that --inspect finds, but --inspect is "
                "none: remove one of the two flags"
            )
        folds = self.cross_validation
        if folds not in (None, "none") and not (str(folds).isdecimal() and int(str(folds)) >= 2):
            raise ValueError(f"--cross_validation must be none or a number of folds, at least 2, got {folds!r}")
        adapters, centers, file = self.lora_rank is not None, self.class_centers, self.pretrained_file
        if not adapters and (self.lora_alpha is not None or self.lora_targets):
            raise ValueError(
                "--lora_alpha and --lora_targets have no effect without --lora_rank: add it, such as --lora_rank "
                "8, or remove them"
            )
        if adapters and self.freeze_backbone:
            raise ValueError(
                "--lora_rank trains adapters in the backbone, but --freeze_backbone freezes it: use only one of them"
            )
        scale = {"classifier_scale": self.classifier_scale, "learn_classifier_scale": self.learn_classifier_scale}
        for name, value in scale.items() if self.classifier == "linear" else ():
            if value != getattr(type(self), name):
                raise ValueError(
                    f"--{name} {str(value).lower()} has no effect on a linear classifier, which has no scale: use "
                    "--classifier cosine, or remove the flag"
                )
        if centers != "random" and self.classifier_init_std is not None:
            raise ValueError(
                "--class_centers and --classifier_init_std both initialize the classifier: use only one of them"
            )
        if centers not in ("random", "means") and not Path(centers).is_file():
            raise ValueError(f"--class_centers must be random, means or a file from `paco-hf embed`, got {centers!r}")
        if file is not None and not Path(file).is_file():
            raise ValueError(f"--pretrained_file {file!r} is not a file: pass a file of weights")
        json_object(self.backbone_kwargs)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: use only one of them")
        if self.streaming and self.class_centers == "means":
            raise ValueError(
                "--class_centers means reads all images before training, but --streaming reads them only once: "
                "pass a file from `paco-hf embed` instead"
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

"""From the arguments of a run and its data to its plan: everything that was left open, decided."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

from ..data.augmentation.batched_transforms import batched_obstacle
from ..data.images import ImageData, Images
from ..data.splitting import Division
from ..data.streaming.manifest import LANES
from ..evaluation.temperature import FEW_IMAGES
from ..models.image_processing import SMALL_IMAGE
from ..models.pretrained_backbones import BackboneSource, find_backbone, one_side
from ..utils.hardware import available_cores
from ..utils.workers import fitting_workers
from .auto_settings import suggested_settings
from .fine_tuning import choose_fine_tuning
from .input_choice import InputChoice, describe_input, is_pretrained, possible_inputs
from .method_choice import MANY_IMAGES
from .run_arguments import RunArguments
from .settings import run_settings
from .training_args import PaCoTrainingArguments


@dataclass(frozen=True)
class RunPlan:
    """What a run will do. It never changes; [`resolve_loading`] gives the one that leaves nothing open.

    Args:
        run (`RunArguments`): the arguments of the run, with a value where there was none.
        args (`PaCoTrainingArguments`): likewise those of the training; a copy, which the trainer may change.
        backbone (`BackboneSource`): what the backbone is built of.
        backbone_kwargs (`dict`): keyword arguments of `timm.create_model`.
        views (tuple of `str`): the augmentations of an image, one for each view that the loss needs.
        processor (image processor): what evaluation images go through.
        notes (tuple of `str`): what was decided, for the user to read.
        automatic (`frozenset` of `str`): settings that the user left open.
        inputs (tuple of [`InputChoice`]): what cross-validation chooses among, the cheapest first.
    """

    run: RunArguments
    args: PaCoTrainingArguments
    backbone: BackboneSource
    backbone_kwargs: dict[str, Any]
    views: tuple[str, ...]
    processor: Any
    notes: tuple[str, ...]
    automatic: frozenset[str] = frozenset()
    inputs: tuple[InputChoice, ...] = ()

    @property
    def folds(self) -> int:
        """Of cross-validation; 0: there is none."""
        return 0 if self.run.cross_validation in (None, "none") else int(self.run.cross_validation)

    @property
    def on_features(self) -> bool:
        """As that of the run's arguments."""
        return self.run.on_features

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe that the run saves."""
        return run_settings(self.run, self.args)

    def with_input(self, choice: InputChoice) -> "RunPlan":
        """The plan with an input, and nothing left to choose."""
        return dataclasses.replace(self, run=choice.apply(self.run), processor=choice.processor, inputs=(choice,))


def resolve(
    run: RunArguments, args: PaCoTrainingArguments, division: Division, backbone: BackboneSource | None
) -> RunPlan:
    """Decide what the arguments leave open, before an image is decoded; [`resolve_loading`] then decides the rest. The
    arguments stay as they are.

    Args:
        run (`RunArguments`): data, backbone and views.
        args (`PaCoTrainingArguments`): the method and the training.
        division (`Division`): the data, split.
        backbone (`BackboneSource`, *optional*): that of `run.backbone`, where the user named one.

    Raises:
        ValueError: settings that contradict one another or the data.
    """
    data, automatic = division.data, run.automatic
    calibrate, calibration_notes = _choose_calibration(run, division)
    run, backbone, backbone_kwargs = _choose_backbone(run, data, backbone)
    chosen, automatic_notes = _choose_automatic(run, args, division, backbone)
    inputs = possible_inputs(run, data, backbone, backbone_kwargs)
    run = inputs[0].apply(run)
    views = (str(run.query_view), str(run.key_view))[: args.spec.views]
    args = args.changed(**chosen)
    run = dataclasses.replace(run, automatic=frozenset(), calibrate=calibrate)
    notes = [*calibration_notes, *automatic_notes]
    if data.user_data and len(inputs) == 1:
        notes.append(describe_input(run, backbone, inputs[0].processor))
    elif data.user_data:
        notes.append(f"input: to be chosen from {'; '.join(map(str, inputs))}")
    if (run.freeze_backbone or run.lora_rank) and not is_pretrained(run, backbone):
        notes.append("note: the frozen backbone is randomly initialized: --pretrained true loads pretrained weights")
    elif _better_pretrained(run, args, data, backbone):
        notes.append(
            "training from random weights: with few images, `--backbone NAME --pretrained` is usually faster and "
            "better"
        )
    return RunPlan(run, args, backbone, backbone_kwargs, views, inputs[0].processor, tuple(notes), automatic, inputs)


def resolve_loading(plan: RunPlan, images: Images, begun: str | None = None) -> RunPlan:
    """Decide how the training images (`Images`) become batches, which their sizes and their number tell.

    Args:
        plan (`RunPlan`): of the run.
        images (`Images`): that are trained on.
        begun (`str`, *optional*): `view_draws` of the run that is resumed.

    Returns:
        the plan with what makes the views and in how many processes; its note says so.

    Raises:
        ValueError: views that cannot be made a batch at a time, or workers among which a stream cannot be divided.
    """
    if plan.on_features:  # what trains reads memory; the recipe names no views where none are drawn
        unseen: dict[str, Any] = {} if plan.run.feature_views else {"query_view": None, "key_view": None}
        unseen["view_draws"] = _choose_draws(plan.run, "pil", None)
        run = dataclasses.replace(plan.run, augment_backend="pil", **unseen)
        notes = [f"views: {', '.join(plan.views)}"] if plan.run.feature_views else []
        if plan.args.torch_compile is True:
            notes.append(
                "torch_compile: off, because the features of the frozen backbone are computed once before training"
            )
        args = plan.args.changed(dataloader_num_workers=0, torch_compile=False)
        return dataclasses.replace(plan, run=run, args=args, notes=tuple(notes))
    backend = _choose_augment_backend(plan.run, plan.views, images)
    workers, fewer = _choose_workers(plan, images)
    draws = _choose_draws(plan.run, backend, begun)
    run = dataclasses.replace(plan.run, augment_backend=cast(Any, backend), view_draws=cast(Any, draws))
    args = plan.args.changed(dataloader_num_workers=workers)
    processes = f" in {workers} worker processes" if workers else ""
    drawn = " with random numbers drawn per batch" if draws == "batch" else ""
    note = f"views: {', '.join(plan.views)}, backend {backend}{drawn}{processes}"
    return dataclasses.replace(plan, run=run, args=args, notes=(*filter(None, [fewer]), note))


def _better_pretrained(
    run: RunArguments, args: PaCoTrainingArguments, data: ImageData, backbone: BackboneSource
) -> bool:
    few = args.device.type == "cpu" or len(data.train.labels) <= MANY_IMAGES
    return few and data.user_data and not run.recipe and not is_pretrained(run, backbone)


def _choose_calibration(run: RunArguments, division: Division) -> tuple[bool, list[str]]:
    held_out = len(division.validation.labels) if division.validation else 0
    folds = run.cross_validation not in (None, "none")
    if folds:
        counts = [count for count in division.data.class_counts if count > 1]
        held_out = sum(counts)
    if run.calibrate and not held_out:
        advice = (
            "remove the flag, as none could be split off" if run.validation_fraction else "set --validation_fraction"
        )
        raise ValueError(f"--calibrate needs a validation split, and there is none: {advice}")
    if run.calibrate is not None or not division.data.user_data:
        return bool(run.calibrate), []
    kind = "held-out images" if folds else "validation images"
    few = [f"no temperature calibration after training: {held_out} {kind}, fewer than {FEW_IMAGES}"]
    return (True, []) if held_out >= FEW_IMAGES else (False, few)


def _choose_backbone(
    run: RunArguments, data: ImageData, backbone: BackboneSource | None
) -> tuple[RunArguments, BackboneSource, dict[str, Any]]:
    """Backbone, its input size and views that fit the size of the images, where the user named none."""
    size = run.image_size or data.image_size
    # Weights see what they were trained on: images of their own size.
    sized = is_pretrained(run, backbone) and (backbone is None or "input_size" in (backbone.config or {}))
    if size is None and not sized and (typical := data.native_size()) <= SMALL_IMAGE:
        size = typical
    name = run.backbone or ("cifar_resnet32" if size and size <= SMALL_IMAGE else "resnet50")
    backbone = backbone or find_backbone(name, run.backbone_revision)
    config, options = backbone.config or {}, run.backbone_options
    native = config.get("input_size", (3, 224, 224))[-1]
    if "img_size" in options:
        options["img_size"] = one_side(options["img_size"], name)
    size = size or (backbone.options | options).get("img_size") or native
    if config.get("fixed_input_size") and size != native:
        options.setdefault("img_size", size)
    query, key = ("cifar_reg", "cifar_sim") if size <= SMALL_IMAGE else ("regular", "sim")
    changes: dict[str, Any] = {"query_view": run.query_view or query, "key_view": run.key_view or key}
    run = dataclasses.replace(run, backbone=name, image_size=size, **changes)
    return run, backbone, backbone.options | options


def _choose_automatic(
    run: RunArguments, args: PaCoTrainingArguments, division: Division, backbone: BackboneSource
) -> tuple[dict[str, Any], list[str]]:
    """What the user left open and the size of the data decides."""
    if not run.automatic:
        return {}, []
    images, parts = len(division.trained.labels), args.world_size * args.gradient_accumulation_steps
    size, pretrained = int(run.image_size or 0), is_pretrained(run, backbone)
    batch = None if "per_device_train_batch_size" in run.automatic else args.per_device_train_batch_size * parts
    epochs = None if "num_train_epochs" in run.automatic else args.num_train_epochs
    features: dict[str, Any] = {"on_features": run.on_features, "cosine": run.classifier == "cosine"}
    fine_tuning, optimizer = None, None if "optim" in run.automatic else args.optimizer_name
    if pretrained and not run.freeze_backbone and run.lora_rank is None:
        fine_tuning = choose_fine_tuning(backbone, optimizer)
    if optimizer not in (None, "sgd") and fine_tuning is None and "learning_rate" in run.automatic:
        raise ValueError(
            f"--optim {optimizer} with {run.backbone} has no default learning rate: set --learning_rate, such as "
            "1e-3 for Adam, or remove --optim"
        )
    known: dict[str, Any] = {"batch": batch, "epochs": epochs, "max_steps": args.max_steps, "fine_tuning": fine_tuning}
    known["rate"] = None if "learning_rate" in run.automatic else args.learning_rate
    suggested = suggested_settings(images, size, pretrained, loss=args.loss, **known, **features)
    suggested["per_device_train_batch_size"] = max(suggested.pop("batch") // parts, 1)
    chosen = {name: value for name, value in suggested.items() if name in run.automatic}
    shown = {name: str(value) for name, value in chosen.items()}
    if run.cross_validation not in (None, "none") and "learning_rate" in shown:
        shown["learning_rate"] += " (cross-validation may change it)"
    listed = ", ".join(f"{name} {value}" for name, value in shown.items())
    amount = f"{images:,} training images of {len(division.data.class_names):,} classes"
    source = (
        f"; {fine_tuning.source}"
        if fine_tuning and chosen.keys() & {"optim", "layer_decay", "head_learning_rate"}
        else ""
    )
    return chosen, [f"settings for {amount}: {listed} (flags override them){source}"]


def _choose_augment_backend(run: RunArguments, views: tuple[str, ...], images: Images) -> str:
    if run.augment_backend == "pil":
        return "pil"
    size = int(run.image_size or 0)
    obstacle = batched_obstacle(views, size, images.pixels())
    if run.augment_backend == "tensor" and obstacle:
        raise ValueError(f"--augment_backend tensor cannot be used: {obstacle}; use pil or auto")
    # On larger images PIL is the faster one on a CPU.
    return "pil" if run.augment_backend == "auto" and (obstacle or size > SMALL_IMAGE) else "tensor"


def _choose_draws(run: RunArguments, backend: str, begun: str | None) -> str | None:
    if backend == "tensor":
        return run.view_draws or begun or "image"
    if run.view_draws:
        raise ValueError(
            f"--view_draws {run.view_draws} has no effect on views of the pil backend, which depend only on the "
            "image: remove the flag"
        )
    return None


def _choose_workers(plan: RunPlan, images: Images) -> tuple[int, str]:
    """How many there is room for, and a note where these are fewer than asked for."""
    run, args, workers = plan.run, plan.args, plan.args.dataloader_num_workers
    if workers < 0:
        workers = 0 if images.decoded is not None else available_cores()
    if run.streaming and workers not in (0, 1, 2, 4, LANES):
        raise ValueError(
            f"--dataloader_num_workers {workers} would make each worker read every shard of a stream: use 0, 1, "
            f"2, 4 or {LANES}"
        )
    # Batches of views wait while the validation images are scored.
    batches = len(plan.views) * args.per_device_train_batch_size + args.per_device_eval_batch_size
    image_bytes = 3 * int(run.image_size or 0) ** 2 * 4
    prefetch = args.dataloader_prefetch_factor
    fitting, note = fitting_workers(workers, batches * image_bytes, prefetch, " (--dataloader_num_workers)")
    if run.streaming and fitting:  # which so many divide
        fitting = 1 << (fitting.bit_length() - 1)
    return fitting, note

"""From the arguments of a run to its finished folder."""

import gc
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..arguments.method_choice import choose_method
from ..arguments.resolve import RunPlan, is_pretrained, resolve, resolve_loading
from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..arguments.unsupported import check_views
from ..data.augmentation.transforms import build_view
from ..data.exclusion import read_exclusion
from ..data.manifest_file import write_manifest
from ..data.spec import SPLITS_NAME
from ..data.split_manifest import check_data, check_source, describe_data
from ..models.lora import describe_training
from ..models.modeling_paco import PaCoForImageClassification
from ..models.pretrained_backbones import BackboneSource, find_backbone
from ..runs.folder import RunFolder
from ..runs.layout import DATA_NAME, RECIPE_NAME
from ..runs.output_folder import changed_settings, clear_run, clear_unfinished, open_folder
from ..runs.record import summary
from ..runs.resume_points import first_complete, lies_in, resume_points, set_aside_later
from ..trainer.callbacks import StopCallback
from ..trainer.cross_validation import HeldOut
from ..trainer.paco_trainer import PaCoTrainer
from ..trainer.validation import SCORES, check_metric, check_packages, check_rates, check_training
from ..utils.console import say
from ..utils.distributed import check_agreement, entered_once, in_all, leave_together
from ..utils.files import as_yaml, check_space, write_json, write_text
from ..utils.hardware import one_thread
from ..utils.interrupts import raise_interrupts
from ..utils.locks import sole_owner
from ..utils.memory import keep_freed_memory
from ..utils.signals import Stopped, Termination
from ..utils.versions import versions
from .build import (
    RunParts,
    build,
    build_model,
    build_trainer,
    check_adapters,
    new_model,
    placeholder,
    start_from_means,
)
from .choices import choose_input, choose_settings
from .compilation import compiled_as_begun, settle_compilation
from .cost import announce_cost, rehearse
from .finish import finish, publish
from .pins import pin_run, pin_weights
from .prepare_data import RunData, load_checked, split_data
from .processes import Before, check_alike, check_shared, describe_change, first_processes, keep_batch, trained_before


def train(
    run: RunArguments, args: PaCoTrainingArguments, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, Any] | None:
    """Train, select on the validation split, score the test split once, and leave a complete run folder.

    The arguments stay as they are: a second call with them gives the same run.

    Args:
        run (`RunArguments`): data, backbone, views, and how to treat the folder.
        args (`PaCoTrainingArguments`): the method and the training; `args.output_dir` becomes the run folder.
        callbacks (sequence of `transformers.TrainerCallback`, *optional*): for the trainer.

    Returns:
        what `metrics.json` holds (`{"test": ..., "validation": ...}`), `None` for a dry run.

    Raises:
        ValueError, OSError: bad settings or data, found before training starts.
        FloatingPointError: a loss that is not finite.
        Stopped: SIGTERM came; the run can be resumed from the step that it came in.
    """
    folder, advice = Path(args.output_dir), "use another --output_dir"
    check_agreement(versions=versions())
    with entered_once(sole_owner(folder, "a training", advice)):
        check_shared(folder, args)
        others = args.should_save and args.process_index > 0  # that write a folder of their own
        with entered_once(sole_owner(folder, "a training", advice), others):
            return _train(run, args, callbacks)


def _train(
    run: RunArguments, args: PaCoTrainingArguments, callbacks: Sequence[TrainerCallback]
) -> dict[str, Any] | None:
    main, folder = args.process_index == 0, Path(args.output_dir)
    run = pin_run(run, args)
    metrics = in_all(lambda: open_folder(folder, run, args))
    # Before anything that the processes do together; what is in it is compared before the first step.
    points = [point.name for point in resume_points(folder, run, args)[:1]]
    check_agreement(
        run_folder="finished" if metrics is not None else "not finished",
        checkpoint_to_resume_from="".join(points) or "none",
    )
    if metrics is not None:
        say(main, f"{folder} is already finished: nothing to resume\n{summary(metrics, str(folder))}")
    else:
        before = in_all(lambda: trained_before(run, args))
        backbone = check_settings(run, args)
        checks = load_checked(run, args)
        run, args, notes = choose_method(run, args, checks.data, backbone)
        data = split_data(run, args, checks)
        say(main, describe_method(args), *notes)
        # What the images decide depends on their number in a step, which they may decide as well.
        resumed, args = keep_batch(data.run, args, before)
        plan = resolve(resumed, args, data.division, backbone)
        run, args = keep_batch(plan.run, plan.args, before)
        # Of a backbone that follows from the data; one that was named is pinned by now.
        plan = replace(plan, run=run if data.run.backbone else pin_weights(run, args), args=args)
        say(main, *plan.notes)
        if args.device.type == "cpu":
            keep_freed_memory()
        model = build_model(plan, data)
        begun = [RunFolder(point).recipe.get("view_draws") for point in resume_points(folder, run, args)[:1]]
        plan = resolve_loading(plan, data.images["train"], *begun)
        say(main, *plan.notes)
        plan, parts, held_out = prepare_features(plan, data, model)
        trainer = fit(plan, data, parts, callbacks, before)
        plan = replace(plan, args=plan.args.changed(torch_compile=trainer.args.torch_compile))  # as it was settled
        if run.dry_run:
            done = trainer.resumed_step
            del trainer
            gc.collect()  # its memory would be counted twice
            say(main, as_yaml(plan.settings), *rehearse(plan, data, parts, done))
        else:
            metrics = finish(plan, data, parts, trainer, held_out)
    if run.dry_run:
        return None
    publish(folder, args)
    return metrics


def check_settings(run: RunArguments, args: PaCoTrainingArguments) -> BackboneSource | None:
    """Refuse, before the images are looked at, names that are mistyped, weights that are missing, and settings that
    contradict each other; say what the run is trained on.

    Returns:
        the backbone, where the user named one.
    """
    if (run.freeze_backbone or run.lora_rank) and args.trainable_convolutions:
        kept = "--freeze_backbone" if run.freeze_backbone else "--lora_rank"
        raise ValueError(
            f"{kept} trains no weights of the backbone, but --trainable_convolutions trains some: use only one of them"
        )
    check_rates(args, not run.freeze_backbone)
    check_packages(args)
    check_metric(args.metric_for_best_model, SCORES)
    if run.exclude_list:
        read_exclusion(run.exclude_list)
    if args.push_to_hub and args.process_index == 0:
        from ..hub.upload import check_login

        check_login(args.hub_model_id or Path(args.output_dir).resolve().name, args.hub_token)
    if run.recipe is None:  # which may be of another loss, or of a backbone that was trained
        check_views(run, args, {name: getattr(run, name) for name in ("query_view", "key_view")})
    say(args.process_index == 0, *run.notes)
    for name in filter(None, (run.query_view, run.key_view)[: args.spec.views]):
        build_view(name, run.image_size or 224)
    backbone = find_backbone(run.backbone, run.backbone_revision) if run.backbone else None
    if run.lora_rank:
        check_adapters(run, backbone)
    if backbone and is_pretrained(run, backbone):
        new_model(run, backbone, backbone.options | run.backbone_options, num_labels=2)
    return backbone


def prepare_features(
    plan: RunPlan, data: RunData, model: PaCoForImageClassification
) -> tuple[RunPlan, RunParts, HeldOut | None]:
    """What is trained; of a frozen backbone with its features (of a dry run with a placeholder for them), and what
    cross-validation on them chose.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        model (`PaCoForImageClassification`): of [`build_model`].

    Returns:
        the plan with nothing left open, the parts of a trainer, and what the folds told, where there were any.

    Raises:
        ValueError: settings that contradict the model or the data.
    """
    main = plan.args.process_index == 0
    if not plan.on_features:
        return plan, build(plan, data, model), None
    blank = placeholder(plan, data, model)
    check_training(model, plan.args, blank, None)
    if plan.run.dry_run:
        return plan, replace(build(plan, data, model), features=None, train_dataset=blank), None
    start = time.monotonic()
    plan, lines = choose_input(plan, data, model)
    say(main, *lines)
    parts, held_out = build(plan, data, model), None
    if parts.features:
        parts.features.views()
        for role in filter(data.images.__contains__, ("train", "validation") if plan.folds else ("validation",)):
            parts.features.plain(role)
        say(main, *parts.features.lines)
        parts.seconds["feature_seconds"] = time.monotonic() - start
        if plan.folds:
            start = time.monotonic()
            plan, held_out, lines = choose_settings(plan, parts.features)
            say(main, *lines)
            parts.seconds["cross_validation_seconds"] = time.monotonic() - start
    return plan, parts, held_out


def describe_method(args: PaCoTrainingArguments) -> str:
    """The loss and the hardware, for the user to read."""
    chosen = " (chosen for this hardware)" if args.precision == "auto" else ""
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    return (
        f"training with loss {args.loss} on {args.device.type}{processes}, precision {args.resolved_precision}{chosen}"
    )


def fit(
    plan: RunPlan,
    data: RunData,
    parts: RunParts,
    callbacks: Sequence[TrainerCallback],
    before: Before | None = None,
) -> PaCoTrainer:
    """Train from the start, or from the last complete checkpoint where the run is resumed; a dry run stops when all is
    ready for the first step, and has changed nothing on disk.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): its model and training data.
        callbacks (sequence of `transformers.TrainerCallback`): for the trainer.
        before ([`Before`], *optional*): how the run was trained that is resumed with another number of processes.

    Returns:
        the trainer, after its last step, or before its first.

    Raises:
        ValueError, OSError: a checkpoint that does not fit the settings or the data.
        FloatingPointError: a loss that is not finite.
        Stopped: SIGTERM came; there is a checkpoint of the step.
    """
    run, args, folder = plan.run, plan.args, Path(plan.args.output_dir)
    main = args.process_index == 0
    if run.dry_run:  # a trainer would make the repository
        plan = replace(plan, args=args.changed(push_to_hub=False))
    checkpoints, state = resume_points(folder, run, args), describe_data(data.division.data, data.pixels)
    manifest, processes = data.division.manifest, first_processes(checkpoints) or args.world_size
    state["processes"] = processes
    plan = compiled_as_begun(plan, checkpoints)
    if run.class_centers == "means" and not checkpoints and not run.dry_run:
        say(main, start_from_means(plan, data, parts))
    termination = Termination(args.process_index, args.world_size)
    # The first: others look at what it asks for.
    stop = StopCallback(termination)
    trainer = build_trainer(plan, data, parts, [stop, *callbacks], processes)
    if run.lora_rank:
        moments = 2 if "adam" in args.optimizer_name else 1
        say(main, describe_training(trainer.model, moments))
    checkpoint, notes = in_all(lambda: _resumed_from(checkpoints, plan, state, manifest, trainer.weights_name))
    check_alike(plan, checkpoint, trainer.weights_name, state, manifest)
    say(main, *notes)
    if before:
        say(main, describe_change(plan, before, plan.on_features or trainer.frozen_backbone))
    if args.should_save:
        # The model in the end, and in a checkpoint beside what the optimizer keeps of each weight.
        weights = sum(tensor.numel() * tensor.element_size() for tensor in trainer.classifier.state_dict().values())
        check_space(folder, weights * (1 if args.save_strategy == "no" else 3), "a run with this model")
    plan = settle_compilation(plan, trainer, parts, len(data.images["train"]), checkpoint)
    if run.dry_run:  # the first of all, so that no other one writes or sends anything
        trainer.callback_handler.callbacks.insert(0, _Halt())
    elif args.should_save:
        # The last check has passed: only now is anything of an earlier run touched.
        if checkpoint and lies_in(checkpoint, folder):
            trainer.add_callback(_AsideCallback(checkpoint))
            clear_unfinished(folder)
        else:
            clear_run(folder)
    announce_cost(plan, data, trainer)
    # Written when training really starts, so that a resume that fails leaves the recipe of the run as it was.
    trainer.add_callback(_RecipeCallback(plan.settings, state, manifest))
    with suppress(_ReadyError), raise_interrupts(), termination, one_thread() if plan.on_features else nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        termination.granted = stop.step > 0
        if stop.step:  # before signs of life end: another process may still be writing
            leave_together()
    if stop.step:
        raise Stopped(f"stopped by SIGTERM after step {stop.step}; resume from checkpoint-{stop.step} with --resume")
    return trainer


def _resumed_from(
    checkpoints: list[Path], plan: RunPlan, data: dict[str, Any], manifest: dict[str, Any] | None, weights: str
) -> tuple[Path | None, list[str]]:
    """The checkpoint that the run goes on from, the first that is complete and of the same data, and what to say."""
    if not checkpoints:
        return None, ["no complete checkpoint to resume from: starting a new run"] if plan.run.resume else []
    before = RunFolder(checkpoints[0])
    check_source(before.manifest, manifest)
    check_data(before.data, data)
    checkpoint, notes = first_complete(checkpoints, weights, plan.args)
    changed = changed_settings(before.home, plan.settings)
    line = f"resuming from {checkpoint}" + (f", with changed settings: {changed}" if changed else "")
    return checkpoint, [*notes, line]


class _ReadyError(Exception):
    """All is ready for the first step of a dry run, which takes none."""


class _Halt(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise _ReadyError


class _AsideCallback(TrainerCallback):
    """Sets later checkpoints aside once the run has taken its first step from an earlier one, or has none to take."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint: Path | None = checkpoint

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.checkpoint is not None:
            set_aside_later(self.checkpoint)
            self.checkpoint = None

    on_train_end = on_step_end


class _RecipeCallback(TrainerCallback):
    def __init__(self, settings: dict[str, Any], data: dict[str, Any], manifest: dict[str, Any] | None) -> None:
        self.settings, self.data, self.manifest = settings, data, manifest

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir)
            write_json(folder / DATA_NAME, self.data)
            if self.manifest:
                write_manifest(folder / SPLITS_NAME, self.manifest)
            # Last: it says that this is the folder of a run.
            write_text(folder / RECIPE_NAME, as_yaml(self.settings))

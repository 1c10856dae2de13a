"""From a trained model to a complete run folder: saved, calibrated, scored, recorded, and pushed to the Hub."""

from pathlib import Path
from typing import Any

import numpy as np

from ..arguments.resolve import RunPlan
from ..arguments.training_args import PaCoTrainingArguments
from ..data.images import Images
from ..data.spec import SPLITS_NAME
from ..inference.logits import balanced_logits
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..reports.model_card import write_card
from ..runs.layout import (
    EVALUATION_FILES,
    EVALUATION_FOLDER,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RUN_FILES,
    RUN_NAME,
    VALIDATION_FOLDER,
)
from ..runs.record import run_record, summary
from ..trainer.cross_validation import HeldOut
from ..trainer.paco_trainer import PaCoTrainer
from ..utils.console import say
from ..utils.files import replacing, write_json
from ..utils.main_process import computed_once
from ..utils.memory import peak_memory
from .abstain import keep_held_out
from .build import RunParts
from .calibrate import store_fitted
from .evaluate import examine, write_evaluation
from .prepare_data import RunData


def finish(
    plan: RunPlan, data: RunData, parts: RunParts, trainer: PaCoTrainer, held_out: HeldOut | None = None
) -> dict[str, Any]:
    """Save the selected model, calibrate it, score it once on the test split, and write what a run folder holds.

    Args:
        plan (`RunPlan`): of the run.
        data (`RunData`): its splits.
        parts (`RunParts`): what was trained on; the test's features are kept like those.
        trainer (`PaCoTrainer`): after training.
        held_out ([`HeldOut`], *optional*): of cross-validation, in place of a validation split.

    Returns:
        what `metrics.json` holds.
    """
    run, args, folder = plan.run, plan.args, Path(plan.args.output_dir)
    main = args.process_index == 0
    if run.lora_rank:
        say(main, f"peak memory of training: {peak_memory(args.device.type)}")
    steps = _save(plan, trainer, folder)
    test, validation = data.images.get("test"), data.images.get("validation")
    batch = args.per_device_eval_batch_size
    validated: dict[str, Any] | None = None
    folds: dict[str, Any] = {}
    if held_out:
        validated, folds = computed_once(lambda: _cross_validated(plan, data, held_out))
    elif validation:
        validated = _validated(plan, data, validation)
    if parts.features and test:
        parts.features.plain("test")
        say(main, parts.features.lines[-1])
    # What is scored is the saved folder, in full precision: what `pipeline` will give.
    tested = balanced_logits(str(folder), test, data.class_names, batch) if test else None
    metrics: dict[str, Any] = {
        "test": computed_once(lambda: headline(tested[0].argmax(axis=1), *tested[1:])) if tested else None,
        "validation": validated,
        **({"cross_validation": folds} if folds else {}),
        **steps,
    }
    say(main, *data.note_damaged())

    def written() -> None:
        notes, splits = data.division.data, {role: images.split for role, images in data.images.items()}
        seconds = trainer.training_time.seconds
        record = run_record(run, args, splits, seconds, [*notes.warnings, *notes.notes], parts.seconds)
        write_json(folder / RUN_NAME, record)
        say(True, summary(metrics, str(folder)))
        if run.report:
            if test and tested:
                page = write_evaluation(folder / EVALUATION_FOLDER, examine([str(folder)], test, *tested))
                say(True, f"report: {page}")
            say(True, f"model card: {write_card(folder, metrics=metrics)}")

    computed_once(written)
    if args.save_on_each_node:
        share_results(folder, args)
    if args.should_save:  # last: it says that the run is finished
        write_json(folder / METRICS_NAME, metrics)
    return metrics


def _validated(plan: RunPlan, data: RunData, validation: Images) -> dict[str, Any]:
    """Score the saved model on the validation split, where its temperature is fitted if that is asked for."""
    folder, batch = plan.args.output_dir, plan.args.per_device_eval_batch_size
    logits, labels, config = balanced_logits(folder, validation, data.class_names, batch)

    def validated() -> dict[str, Any]:
        if plan.run.calibrate:
            say(True, store_fitted(folder, logits, labels, f"images of {validation.split.name}"))
        return headline(logits.argmax(axis=1), labels, config)

    return computed_once(validated)


def _cross_validated(plan: RunPlan, data: RunData, held_out: HeldOut) -> tuple[dict[str, Any], dict[str, Any]]:
    """Calibrate the model by what the folds told of images that they held out, and score that; in one process.

    Returns:
        the scores, and what `metrics.json` says of the folds.
    """
    folder = Path(plan.args.output_dir)
    split = data.division.trained.select(held_out.rows.tolist(), role="validation")
    labels, alone = np.asarray(split.labels), len(set(data.division.trained.labels) - set(split.labels))
    if plan.run.calibrate:
        say(True, store_fitted(str(folder), held_out.logits, labels, "held-out training images"))
    if line := keep_held_out(folder, held_out.logits, labels):
        say(True, line)
    config = PaCoConfig.from_pretrained(folder)
    evaluation = examine([str(folder)], Images(split), held_out.logits, labels, config)
    interval = evaluation.results["metrics"]["balanced_accuracy"]
    folds = {
        "folds": plan.folds,
        "images": len(labels),
        "classes_of_one_image": alone,
        "balanced_accuracy_95": [interval["low"], interval["high"]],
    }
    evaluation.predictions.cross_validated = True
    if plan.run.report:
        evaluation.results["cross_validation"] = folds
        write_evaluation(folder / VALIDATION_FOLDER, evaluation)
    else:  # no command tells them again, as the classifiers of the folds are not kept
        evaluation.predictions.write(folder / VALIDATION_FOLDER / PREDICTIONS_NAME)
    return headline(held_out.logits.argmax(axis=1), labels, config), folds


def _save(plan: RunPlan, trainer: PaCoTrainer, folder: Path) -> dict[str, Any]:
    """Save the selected model; which step it is of, and the validation scores that selected it."""
    last_step, selected_step = trainer.state.global_step, trainer.load_selected()
    key = "eval_balanced_accuracy"
    history = {str(entry["step"]): entry[key] for entry in trainer.state.log_history if key in entry}
    if plan.args.should_save:
        trainer.save_classifier(folder)
        plan.processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return {"selected_step": selected_step, "last_step": last_step, "validation_balanced_accuracy_by_step": history}


def share_results(folder: Path, args: PaCoTrainingArguments) -> None:
    """Give the run folder of each node what the first process has written to its own beside checkpoints and weights.

    Args:
        folder (`Path`): of the run, by one name on each node.
        args (`PaCoTrainingArguments`): of the run.
    """
    names = [name for name in (*RUN_FILES, SPLITS_NAME) if not name.endswith(".safetensors")]
    names += [f"{part}/{name}" for part in (EVALUATION_FOLDER, VALIDATION_FOLDER) for name in EVALUATION_FILES]
    names.remove(METRICS_NAME)
    files = computed_once(lambda: {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()})
    for name, content in files.items() if args.should_save and args.process_index > 0 else ():
        (folder / name).parent.mkdir(exist_ok=True)
        with replacing(folder / name) as partial:
            partial.write_bytes(content)


def publish(folder: Path, args: PaCoTrainingArguments) -> None:
    """Push a finished run where that was asked for."""
    if not args.push_to_hub or args.process_index != 0:
        return
    from ..hub.upload import push

    private, repo_id = bool(args.hub_private_repo), args.hub_model_id or folder.resolve().name
    info = push(folder, repo_id, private=private, revision=args.hub_revision, token=args.hub_token)
    print(f"published: {info.repo_url}")

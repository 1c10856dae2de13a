"""From a trained model to a complete run folder: saved, calibrated, scored, recorded, and pushed to the Hub."""

from pathlib import Path
from typing import Any

import numpy as np

from ..arguments.resolve import RunPlan
from ..arguments.training_args import PaCoTrainingArguments
from ..data.images import Images
from ..inference.logits import balanced_logits, score
from ..metrics import headline
from ..models.configuration_paco import PaCoConfig
from ..reports.model_card import write_card
from ..runs.layout import EVALUATION_FOLDER, METRICS_NAME, PREDICTIONS_NAME, RUN_NAME, VALIDATION_FOLDER
from ..runs.record import run_record, summary
from ..trainer.cross_validation import HeldOut
from ..trainer.paco_trainer import PaCoTrainer
from ..utils.console import say
from ..utils.files import write_json
from ..utils.memory import peak_memory
from .abstain import keep_held_out
from .build import RunParts
from .calibrate import store_fitted, store_temperature
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
        validated, folds = _cross_validated(plan, data, held_out)
    elif run.calibrate and validation:
        say(main, store_temperature(str(folder), validation, data.class_names, batch_size=batch))
        trainer.accelerator.wait_for_everyone()
    if parts.features and test:
        parts.features.plain("test")
        say(main, parts.features.lines[-1])
    # What is scored is the saved folder, in full precision: what `pipeline` will give.
    tested = balanced_logits(str(folder), test, data.class_names, batch) if test else None
    metrics: dict[str, Any] = {
        "test": headline(tested[0].argmax(axis=1), tested[1], tested[2]) if tested else None,
        "validation": score(folder, validation, batch) if validation else validated,
        **({"cross_validation": folds} if folds else {}),
        **steps,
    }
    if main:
        notes, splits = data.division.data, {role: images.split for role, images in data.images.items()}
        seconds = trainer.training_time.seconds
        record = run_record(run, args, splits, seconds, [*notes.warnings, *notes.notes], parts.seconds)
        write_json(folder / RUN_NAME, record)
    say(main, summary(metrics, str(folder)))
    if main and run.report:
        if test and tested:
            page = write_evaluation(folder / EVALUATION_FOLDER, examine([str(folder)], test, *tested))
            say(main, f"report: {page}")
        say(main, f"model card: {write_card(folder, metrics=metrics)}")
    if main:  # last: it says that the run is finished
        write_json(folder / METRICS_NAME, metrics)
    return metrics


def _cross_validated(plan: RunPlan, data: RunData, held_out: HeldOut) -> tuple[dict[str, Any], dict[str, Any]]:
    """Calibrate the model by what the folds told of images that they held out, and score that.

    Returns:
        the scores, and what `metrics.json` says of the folds.
    """
    folder, main = Path(plan.args.output_dir), plan.args.process_index == 0
    split = data.division.trained.select(held_out.rows.tolist(), role="validation")
    labels, alone = np.asarray(split.labels), len(set(data.division.trained.labels) - set(split.labels))
    if plan.run.calibrate:
        say(main, store_fitted(str(folder), held_out.logits, labels, "training images, each held out once"))
    if main and (line := keep_held_out(folder, held_out.logits, labels)):
        say(main, line)
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
    if main and plan.run.report:
        evaluation.results["cross_validation"] = folds
        write_evaluation(folder / VALIDATION_FOLDER, evaluation)
    elif main:  # no command tells them again, as the classifiers of the folds are not kept
        evaluation.predictions.write(folder / VALIDATION_FOLDER / PREDICTIONS_NAME)
    return headline(held_out.logits.argmax(axis=1), labels, config), folds


def _save(plan: RunPlan, trainer: PaCoTrainer, folder: Path) -> dict[str, Any]:
    """Save the selected model; which step it is of, and the validation scores that selected it."""
    last_step, selected_step = trainer.state.global_step, trainer.load_selected()
    key = "eval_balanced_accuracy"
    history = {str(entry["step"]): entry[key] for entry in trainer.state.log_history if key in entry}
    if plan.args.process_index == 0:
        trainer.save_classifier(folder)
        plan.processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return {"selected_step": selected_step, "last_step": last_step, "validation_balanced_accuracy_by_step": history}


def publish(folder: Path, args: PaCoTrainingArguments) -> None:
    """Push a finished run where that was asked for."""
    if not args.push_to_hub or args.process_index != 0:
        return
    from ..hub.upload import push

    private, repo_id = bool(args.hub_private_repo), args.hub_model_id or folder.resolve().name
    info = push(folder, repo_id, private=private, revision=args.hub_revision, token=args.hub_token)
    print(f"published: {info.repo_url}")

"""Model cards: rendered from what a folder holds (a run, a converted checkpoint) or from a recipe, never hand-written.

Figures come from `metrics.json`, which only an evaluation writes; those of others stand apart, with their source.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..arguments.recipes import read_recipe, recipe_names
from ..data.published import BENCHMARKS
from ..metrics import FEW_SHOT, HEADLINE, MANY_SHOT, TITLES, shots
from ..runs.layout import CARD_NAME, FIGURE_NAMES, RESULTS_NAME
from ..runs.redaction import public_settings
from ..utils.console import say
from ..utils.files import write_signed, write_text
from . import model_card_text as text
from .html_page import templates
from .plots import CAPTIONS, figures
from .run_summary import Subject, read_subject


def write_card(
    folder: str | Path,
    *,
    title: str | None = None,
    repo_id: str | None = None,
    recipe: str | None = None,
    baselines: Sequence[str | Path] = (),
    license: str = "unknown",
    into: str | Path | None = None,
    metrics: dict[str, Any] | None = None,
) -> Path:
    """Write `README.md` for a run folder or a converted checkpoint, with its figures and its results in
    the Hub's format.

    Args:
        folder (path): what `paco-hf train` or `convert` made.
        title (`str`, *optional*): heading (default: the name of `repo_id`, else of the folder).
        repo_id (`str`, *optional*): where it will be on the Hub, for the examples.
        recipe (`str`, *optional*): the package's recipe that the run follows, where it does not say so itself.
        baselines (sequence of paths, *optional*): run folders whose test scores are shown beside.
        license (`str`, *optional*, defaults to `"unknown"`): the Hub's identifier of the weights' license.
        into (path, *optional*): where to write it, instead of `folder`.
        metrics (`dict`, *optional*): what `metrics.json` will hold, where it is not written yet.

    Returns:
        path of the card.

    Raises:
        ValueError: a folder without a model, a recipe that it does not follow, a baseline without test scores or with
            those of other images.
    """
    folder, into = Path(folder), Path(into or folder)
    subject = read_subject(folder, recipe, baselines, metrics)
    subject.title = title or (repo_id or folder.resolve().name).split("/")[-1]
    subject.repo = repo_id or f"USER/{subject.title}"
    results = eval_results(subject)
    if results:
        (into / RESULTS_NAME).parent.mkdir(exist_ok=True)
        write_text(into / RESULTS_NAME, results)
    kept = write_signed(into / CARD_NAME, str(render(subject, license, _draw(subject, into))))
    say(kept is not None, f"the {CARD_NAME} that was there had been changed, and is kept as {kept}")
    return into / CARD_NAME


def recipe_card(name: str) -> ModelCard:
    """The card of a recipe that no measured weights go with."""
    from ..arguments.parser import resolved_recipe

    content = resolved_recipe(name)
    book = read_recipe(name)
    settings = {key: value for key, value in content.items() if key not in book.metadata}
    if book.ensemble:
        member = read_recipe(book.ensemble[0]).settings
        settings = {name: member[name] for name in ("dataset", "loss")}
    return render(Subject(name, public_settings(settings), book), license="mit")


def recipe_cards(root: str | Path) -> Iterator[tuple[Path, str]]:
    """Path and text of the card of every recipe, `<recipe>/README.md` below `root`.

    A folder that holds measured weights of a recipe, as a run leaves them, has them on its card.
    """
    for name in recipe_names():
        folder = Path(root) / name
        if (folder / "model.safetensors").is_file():
            subject = read_subject(folder, name)
            subject.title, subject.repo = name, f"USER/{name}"
            card = render(subject, "mit", [name for name in FIGURE_NAMES if (folder / name).is_file()])
        else:
            card = recipe_card(name)
        yield folder / CARD_NAME, str(card)


def render(subject: Subject, license: str = "unknown", drawn: Sequence[str] = ()) -> ModelCard:
    """The card, its metadata included.

    Args:
        subject ([`Subject`]): what it is about.
        license (`str`, *optional*, defaults to `"unknown"`): the Hub's identifier of the weights' license.
        drawn (sequence of `str`, *optional*): files of [`paco_hf.reports.plots`] that lie beside the card.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=license,
        datasets=_hub_dataset(subject.settings.get("dataset")),
        base_model=_base_model(subject),
        metrics=["accuracy"],
        tags=["paco", "long-tailed", "imbalanced-data", "image-classification", "timm"],
        model_name=subject.title,
        eval_results=_legacy_results(subject) or None,
    )
    counts, (scored, images) = text.training_counts(subject), text.scored_images(subject)
    content = (
        templates()
        .get_template("model_card.md")
        .render(
            card_data=data.to_yaml(),
            subject=subject,
            headline=HEADLINE,
            titles=TITLES,
            many_shot=MANY_SHOT,
            few_shot=FEW_SHOT,
            cosine_classifier=text.cosine_classifier(subject),
            path_flag=text.path_flag(subject.settings),
            scored=scored,
            scored_dataset=text.scored_dataset(subject),
            warning=text.guessing(subject.scores, images) if subject.scores else None,
            counts=counts,
            groups=shots(counts) if counts else None,
            figures={name: CAPTIONS[name] for name in drawn},
            changes=text.changes(subject),
            shown_settings=text.shown_settings(subject),
            limits=text.limits(subject, license),
        )
    )
    return ModelCard(content)


def eval_results(subject: Subject) -> str | None:
    """The Hub's `.eval_results` file: top-1 on the test split, where the dataset is on the Hub; else `None`."""
    hub_id, test = _hub_dataset(text.scored_dataset(subject)), subject.metrics.get("test")
    if not hub_id or not test:
        return None
    entry = EvalResultEntry(
        dataset_id=hub_id,
        task_id="image-classification",
        value=round(test["accuracy"], 6),
        date=subject.record.get("finished"),
        notes=f"top-1 on {text.scored_images(subject)[0]}; measured by paco_hf",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def _hub_dataset(dataset: str | None) -> str | None:
    """The Hub id of a dataset by its public name, if it is on the Hub."""
    if dataset in BENCHMARKS:
        return BENCHMARKS[dataset].hub_id
    return dataset.partition(":")[0] if dataset and dataset.count("/") == 1 else None


def _base_model(subject: Subject) -> str | None:
    """The Hub id of the pretrained weights that training started from."""
    name = str(subject.settings.get("backbone") or "")
    if "base_model" in subject.record:
        return subject.record["base_model"]
    if not subject.settings.get("pretrained") or not name:
        return None
    from ..models.pretrained_backbones import weights_id  # loads timm: runs of before say nothing of it

    return weights_id(name)


def _legacy_results(subject: Subject) -> list[EvalResult]:
    """For `model-index`: what was measured, as fractions."""
    dataset = text.scored_dataset(subject) or "images"
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=_hub_dataset(dataset) or dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=TITLES[key].long,
            metric_value=round(scores[key], 6),
        )
        for split in ("test", "validation")
        if (scores := subject.metrics.get(split))
        for key in HEADLINE
        if scores[key] is not None
    ]


def _draw(subject: Subject, into: Path) -> list[str]:
    """Draw what there are data for, and say what that was."""
    counts = subject.config.group_counts if subject.config else None
    drawn = figures(counts, (subject.scores or {}).get("per_class"), subject.evaluation, subject.log)
    for name, (plot, data) in drawn.items():
        plot(*data, into / name)
    # The order in which a card has them.
    return [name for name in FIGURE_NAMES if name in drawn]

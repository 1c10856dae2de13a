"""The page in the browser that shows what a model makes of an image. Needs `gradio`."""

import atexit
import html
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from ..inference.image_index import INDEX_FOLDER, NearestImages
from ..inference.prediction import image_files, read_prior
from ..metrics import GROUPS
from ..reports.html_page import picture, templates
from ..utils.images import open_image
from .classifier import ALL_EQUAL, AS_TRAINED, EDITABLE, OWN, Classifier, custom_frequencies

SHOWN = 10  # classes in the table
NEIGHBOURS = 6
EXAMPLES = 8
_COLUMNS = ["class", "frequency"]


def build_demo(
    model: str | Path,
    index: str | Path | None = None,
    examples: Sequence[str | Path] | None = None,
    title: str | None = None,
) -> Any:
    """The page, as `gradio.Blocks`; [`launch`] serves it.

    Args:
        model (path or `str`): run folder, checkpoint or Hub id.
        index (path, *optional*): folder of `paco-hf index` (default: `index/` in the model's folder, if there is one).
        examples (sequence of paths, *optional*): image files or folders to offer (default: some of the index).
        title (`str`, *optional*): of the page (default: the model's name).

    Raises:
        ImportError: `gradio` is not installed.
        OSError, ValueError: a model, index or example that cannot be had.
    """
    # Nothing that is done here is told to anybody.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs gradio, which is not installed: pip install 'paco-hf[demo]'") from error

    classifier = Classifier(model)
    names, counts, groups = classifier.names, classifier.counts, classifier.groups
    where = Path(index) if index is not None else Path(model) / INDEX_FOLDER
    nearest = NearestImages.load(where, classifier.model) if index is not None or where.is_dir() else None
    offered = [str(file) for file in image_files(examples)] if examples else _from_index(nearest)
    title = title or (Path(model).resolve().name if Path(model).is_dir() else str(model))
    environment = templates()
    table = environment.get_template("demo_classes.html")
    editable = classifier.adjustable and len(names) <= EDITABLE
    least = ALL_EQUAL if classifier.adjustable and classifier.training is None else AS_TRAINED

    def shown(seen: Any, place: float, own: list[float] | None) -> str:
        if seen is None:
            return ""
        probabilities = classifier.probabilities(np.asarray(seen), place, own)
        best = np.argsort(-probabilities, kind="stable")[:SHOWN]
        rows = [
            {
                "name": names[c],
                "probability": probabilities[c],
                "images": counts[c] if counts else None,
                "group": GROUPS[groups[c]] if groups is not None else "",
            }
            for c in best.tolist()
        ]
        rest = len(names) - len(rows)
        return table.render(
            rows=rows,
            counts=bool(counts),
            caption=f"{rows[0]['name']}, where {_place_in_words(place, own)}",
            rest=rest,
            rest_probability=max(1 - float(probabilities[best].sum()), 0.0),
        )

    def told(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any) -> Any:
            try:
                return function(*values)
            except (ValueError, OSError) as error:
                # Where things lie on this computer is nobody's business.
                said = re.sub(r"(?:/[^/\s'\"]+)+/([^/\s'\"]+)", r"\1", str(error))
                raise gr.Error(html.escape(said), duration=None, print_exception=False) from error

        run.__name__ = function.__name__
        return run

    @told
    def classify(file: str | None, place: float, own: list[float] | None) -> tuple[Any, str, str]:
        if file is None:
            return None, "", ""
        logits, features = classifier.look(open_image(file, "this file"))
        return logits.tolist(), shown(logits, place, own), neighbours(features)

    def neighbours(features: np.ndarray) -> str:
        if nearest is None:
            return ""
        found = [
            {
                "source": picture(neighbour.picture),
                "name": names[neighbour.label],
                "images": counts[neighbour.label] if counts else None,
                "similarity": neighbour.similarity,
            }
            for neighbour in nearest.search(features, NEIGHBOURS)
        ]
        return environment.get_template("demo_nearest.html").render(neighbours=found, data=nearest.about["data"])

    @told
    def rank(seen: Any, place: float, own: list[float] | None) -> str:
        return shown(seen, place, own)

    @told
    def take_table(rows: Any, seen: Any, place: float) -> tuple[list[float], str]:
        own = custom_frequencies(rows, names)
        return own, shown(seen, place, own)

    @told
    def take_file(file: str | None, seen: Any, place: float) -> tuple[Any, Any, str]:
        own = classifier.own if file is None else read_prior(file, classifier.folder, classifier.model.config)
        return own, _rows(names, own), shown(seen, place, own)

    with gr.Blocks(title=f"paco_hf: {title}", analytics_enabled=False) as page:
        gr.HTML(environment.get_template("demo_about.html").render(title=title, **classifier.described()))
        seen, own = gr.State(None), gr.State(classifier.own)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                image = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Image",
                    elem_id="image",
                    height=300,
                )
                # The file as it is: the page decodes it as `predict` does, and says what is wrong with it. (Gradio
                # writes a stub beside the source of a subclass.)
                image.preprocess = _file_of  # type: ignore[method-assign]
                if offered:
                    gr.Examples([[file] for file in offered], [image], label="Examples")
                place = gr.Slider(
                    least,
                    OWN,
                    classifier.start,
                    step=0.05,
                    label="How frequent the classes are where you use it",
                    visible=classifier.adjustable,
                    interactive=True,
                    elem_id="place",
                )
                if classifier.adjustable:
                    stops = ["as in training"] * (least == AS_TRAINED) + ["all equal", "your own"]
                    gr.HTML(f'<p class="places">{"".join(f"<span>{stop}</span>" for stop in stops)}</p>')
                with gr.Accordion("Your own frequencies", open=False, visible=classifier.adjustable):
                    gr.Markdown(
                        "Of each class, in any unit: counts, shares. Or the file that "
                        "`paco-hf estimate-prior --output` writes. They count on the right half of the slider."
                    )
                    file = gr.File(label="Estimated frequencies", file_types=[".json"], height=110, elem_id="file")
                    frequencies = gr.Dataframe(
                        _rows(names, classifier.own) if editable else None,
                        headers=_COLUMNS,
                        datatype=["str", "number"],
                        type="array",
                        interactive=True,
                        visible=editable,
                        static_columns=[0],
                        column_count=2,
                        max_height=300,
                        label="Frequencies",
                        elem_id="frequencies",
                    )
            with gr.Column(scale=2, min_width=320):
                result = gr.HTML(label="Classes", elem_id="classes")
                found = gr.HTML(elem_id="nearest")
                if nearest is None:
                    gr.Markdown(
                        "Nearest training images are not shown: `paco-hf index` makes an index of them for this page."
                    )
        image.change(
            classify, [image, place, own], [seen, result, found], api_name="classify", show_progress="minimal"
        )
        place.change(rank, [seen, place, own], result, api_visibility="private", show_progress="hidden")
        file.change(take_file, [file, seen, place], [own, frequencies, result], api_visibility="private")
        frequencies.input(
            take_table, [frequencies, seen, place], [own, result], api_visibility="private", show_progress="hidden"
        )
    page.queue(default_concurrency_limit=2)
    return page


def _file_of(payload: Any) -> str | None:
    return None if payload is None else payload.path


def _place_in_words(place: float, own: Sequence[float] | None) -> str:
    if place == ALL_EQUAL or (place > ALL_EQUAL and own is None):
        return "all classes are equally frequent"
    if place in (AS_TRAINED, OWN):
        return "classes are as frequent as " + ("in training" if place == AS_TRAINED else "you say")
    towards = "in training" if place < ALL_EQUAL else "you say"
    share = abs(ALL_EQUAL - place)
    return f"classes are between equally frequent and as {towards} (by {share:.0%} of the logarithm)"


def _rows(names: Sequence[str], own: Sequence[float] | None) -> list[list[Any]]:
    return [[name, value] for name, value in zip(names, own or [1.0] * len(names), strict=True)]


def _from_index(nearest: NearestImages | None) -> list[str]:
    """Some pictures of the index as files, evenly spread over the classes."""
    if nearest is None:
        return []
    order = sorted(range(len(nearest.labels)), key=lambda row: (nearest.labels[row], row))
    folder, files = Path(mkdtemp(prefix="paco-hf-examples-")), []
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for i, place in enumerate(np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)):
        file = folder / f"example-{i + 1}.png"
        nearest.picture(order[place]).save(file)
        files.append(str(file))
    return files


def launch(page: Any, host: str | None = None, port: int | None = None, share: bool = False) -> None:
    """Serve the page of [`build_demo`] until it is stopped; without a `host` for this computer alone, or where
    GRADIO_SERVER_NAME says, as Spaces do.

    Raises:
        OSError: the port is taken.
    """
    import gradio as gr

    css = Path(__file__).parents[1] / "templates" / "demo.css"
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=[css],
        footer_links=[],
        quiet=False,
    )

"""The page in the browser that shows what a model makes of an image. Needs `gradio`."""

import atexit
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from ..inference.image_index import NearestImages
from ..inference.index_folder import INDEX_FOLDER
from ..utils.folder_contents import list_image_files
from ..utils.optional import optional_package
from .classifier import ALL_EQUAL, AS_TRAINED, CUSTOM, MOST_EDITABLE, Classifier
from .handlers import Handlers

EXAMPLES = 8
_NO_INDEX = "Nearest training images are not shown: create an index for this page with `paco-hf index`."
_FREQUENCIES = (
    "Frequency of each class in any unit, such as counts or shares, or a file from `paco-hf estimate-prior "
    "--output`. The right half of the slider uses them."
)


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
    gr = optional_package("gradio", "the page", "demo")

    classifier = Classifier(model)
    folder = Path(index) if index is not None else Path(model) / INDEX_FOLDER
    nearest = NearestImages.load(folder, classifier.model) if index is not None or folder.is_dir() else None
    handlers = Handlers(classifier, nearest)
    offered = [str(file) for file in list_image_files(examples)] if examples else _from_index(nearest)
    title = title or (Path(model).resolve().name if Path(model).is_dir() else str(model))

    with gr.Blocks(title=f"paco_hf: {title}", analytics_enabled=False) as page:
        about = handlers.templates.get_template("demo_about.html")
        gr.HTML(about.render(title=title, **classifier.described()))
        logits, custom = gr.State(None), gr.State(classifier.stored_prior)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                image = _image_input(gr, offered)
                place = _slider(gr, classifier)
                file, frequencies = _frequency_inputs(gr, classifier, handlers)
            with gr.Column(scale=2, min_width=320):
                classes = gr.HTML(label="Classes", elem_id="classes")
                neighbors = gr.HTML(elem_id="nearest")
                if nearest is None:
                    gr.Markdown(_NO_INDEX)
        inputs, outputs = [image, place, custom], [logits, classes, neighbors]
        image.change(handlers.classify, inputs, outputs, api_name="classify", show_progress="minimal")
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        place.change(handlers.rank, [logits, place, custom], classes, **hidden)
        frequencies.input(handlers.use_table, [frequencies, logits, place], [custom, classes], **hidden)
        changed = [custom, frequencies, classes]
        file.change(handlers.use_file, [file, logits, place], changed, api_visibility="private")
    page.queue(default_concurrency_limit=2)
    return page


def _image_input(gr: Any, examples: list[str]) -> Any:
    image = gr.Image(
        type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", elem_id="image", height=300
    )
    # The file as it is: the page decodes it as `predict` does, and says what is wrong with it. (Gradio writes a stub
    # beside the source of a subclass.)
    image.preprocess = lambda payload: None if payload is None else payload.path
    if examples:
        gr.Examples([[file] for file in examples], [image], label="Examples")
    return image


def _slider(gr: Any, classifier: Classifier) -> Any:
    """From the frequencies of training, where they are known, over equal ones to the user's."""
    least = ALL_EQUAL if classifier.adjustable and classifier.training is None else AS_TRAINED
    shown = {"visible": classifier.adjustable, "interactive": True, "elem_id": "place"}
    label = "How frequent the classes are where you use it"
    place = gr.Slider(least, CUSTOM, classifier.start, step=0.05, label=label, **shown)
    if classifier.adjustable:
        stops = ["as in training"] * (least == AS_TRAINED) + ["all equal", "your own"]
        gr.HTML(f'<p class="places">{"".join(f"<span>{stop}</span>" for stop in stops)}</p>')
    return place


def _frequency_inputs(gr: Any, classifier: Classifier, handlers: Handlers) -> tuple[Any, Any]:
    """A file and a table for the user's class frequencies; the table where there are few enough classes."""
    editable = classifier.adjustable and len(classifier.names) <= MOST_EDITABLE
    with gr.Accordion("Your own frequencies", open=False, visible=classifier.adjustable):
        gr.Markdown(_FREQUENCIES)
        file = gr.File(label="Estimated frequencies", file_types=[".json"], height=110, elem_id="file")
        columns: Any = {"headers": ["class", "frequency"], "datatype": ["str", "number"], "static_columns": [0]}
        shown: Any = {"visible": editable, "interactive": True, "max_height": 300, "elem_id": "frequencies"}
        rows = handlers.frequency_rows(classifier.stored_prior) if editable else None
        table = gr.Dataframe(rows, type="array", column_count=2, label="Frequencies", **columns, **shown)
    return file, table


def _from_index(nearest: NearestImages | None) -> list[str]:
    """Some pictures of the index as files, evenly spread over the classes."""
    if nearest is None:
        return []
    order = sorted(range(len(nearest.labels)), key=lambda row: (nearest.labels[row], row))
    folder = Path(mkdtemp(prefix="paco-hf-examples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for i, place in enumerate(np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int), 1):
        nearest.picture(order[place]).save(folder / f"example-{i}.png")
    return sorted(map(str, folder.iterdir()))  # at most eight: their numbers have one digit


def launch(page: Any, host: str | None = None, port: int | None = None, share: bool = False) -> None:
    """Serve the page of [`build_demo`] until it is stopped.

    Args:
        page (`gradio.Blocks`): the page.
        host (`str`, *optional*): address to listen at (default: this computer alone, or where GRADIO_SERVER_NAME
            says, as Spaces do).
        port (`int`, *optional*): (default: the first free one from 7860).
        share (`bool`, *optional*, defaults to `False`): also a public address, through a tunnel of Gradio's.

    Raises:
        OSError: the port is taken.
    """
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    css = Path(__file__).parents[1] / "templates" / "demo.css"
    looks: Any = {"theme": theme, "css_paths": [css], "footer_links": []}
    page.launch(server_name=host, server_port=port, share=share, quiet=False, **looks)

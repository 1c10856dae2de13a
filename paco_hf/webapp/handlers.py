"""What the page answers: an image classified, classes ranked again, frequencies applied."""

import contextlib
import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..inference.image_index import NearestImages
from ..inference.prediction import read_prior
from ..reports.html_page import picture, templates
from ..utils.images import open_image
from .classifier import ALL_EQUAL, AS_TRAINED, CUSTOM, Classifier, custom_frequencies

CLASSES_SHOWN = 10
NEIGHBORS_SHOWN = 6


@contextlib.contextmanager
def _errors_on_page() -> Iterator[None]:
    """Bad input becomes a message on the page."""
    try:
        yield
    except (ValueError, OSError) as error:
        import gradio as gr

        # Where things lie on this computer is nobody's business.
        message = re.sub(r"(?:/[^/\s'\"]+)+/([^/\s'\"]+)", r"\1", str(error))
        raise gr.Error(html.escape(message), duration=None, print_exception=False) from error


class Handlers:
    """The functions behind the page of one model.

    Everywhere `place` is the slider's (see [`prior_at`]), and `custom` the user's class frequencies, `C` positive
    numbers or `None`.

    Args:
        classifier (`Classifier`): the model.
        nearest (`NearestImages`, *optional*): the index of training images; without it none are shown.
    """

    def __init__(self, classifier: Classifier, nearest: NearestImages | None) -> None:
        self.classifier, self.nearest = classifier, nearest
        self.templates = templates()

    @_errors_on_page()
    def classify(self, file: str | None, place: float, custom: list[float] | None) -> tuple[Any, str, str]:
        """The logits of an image file, and as HTML its classes and the nearest training images.

        Args:
            file (`str`, *optional*): the image; without one everything is empty.
            place (`float`): of the slider.
            custom (`C` numbers, *optional*): the user's class frequencies.
        """
        if file is None:
            return None, "", ""
        logits, features = self.classifier.forward(open_image(file, "this file"))
        return logits.tolist(), self._classes(logits, place, custom), self._neighbors(features)

    @_errors_on_page()
    def rank(self, logits: Any, place: float, custom: list[float] | None) -> str:
        """The classes of an image, whose logits are known, as HTML.

        Args:
            logits (`C` numbers, *optional*): what [`Handlers.classify`] returned.
            place (`float`): of the slider.
            custom (`C` numbers, *optional*): the user's class frequencies.
        """
        return self._classes(logits, place, custom)

    @_errors_on_page()
    def use_table(self, rows: Any, logits: Any, place: float) -> tuple[list[float], str]:
        """The frequencies in the table, and the classes with them.

        Args:
            rows (list): name and frequency of each class.
            logits (`C` numbers, *optional*): of the image.
            place (`float`): of the slider.
        """
        custom = custom_frequencies(rows, self.classifier.names)
        return custom, self._classes(logits, place, custom)

    @_errors_on_page()
    def use_file(self, file: str | None, logits: Any, place: float) -> tuple[Any, Any, str]:
        """The frequencies in a file of `paco-hf estimate-prior`, also as rows of the table, and the classes.

        Args:
            file (`str`, *optional*): the file; without one the model's stored frequencies hold.
            logits (`C` numbers, *optional*): of the image.
            place (`float`): of the slider.
        """
        model = self.classifier
        custom = model.stored_prior if file is None else read_prior(file, model.folder, model.model.config)
        return custom, self.frequency_rows(custom), self._classes(logits, place, custom)

    def frequency_rows(self, custom: Sequence[float] | None) -> list[list[Any]]:
        """Name and frequency of each class, for the table."""
        names = self.classifier.names
        return [[name, value] for name, value in zip(names, custom or [1.0] * len(names), strict=True)]

    def _classes(self, logits: Any, place: float, custom: list[float] | None) -> str:
        if logits is None:
            return ""
        probabilities = self.classifier.probabilities(np.asarray(logits), place, custom)
        best = np.argsort(-probabilities, kind="stable")[:CLASSES_SHOWN]
        rows = [self.classifier.about(c) | {"probability": probabilities[c]} for c in best.tolist()]
        return self.templates.get_template("demo_classes.html").render(
            rows=rows,
            counts=bool(self.classifier.counts),
            caption=f"{rows[0]['name']}, where {_place_in_words(place, custom)}",
            doubt=self.classifier.doubt(np.asarray(logits), place, custom),
            rest=len(probabilities) - len(rows),
            rest_probability=max(1 - float(probabilities[best].sum()), 0.0),
        )

    def _neighbors(self, features: np.ndarray) -> str:
        if self.nearest is None:
            return ""
        neighbors = [
            self.classifier.about(near.label) | {"source": picture(near.picture), "similarity": near.similarity}
            for near in self.nearest.search(features, NEIGHBORS_SHOWN)
        ]
        template = self.templates.get_template("demo_nearest.html")
        return template.render(neighbors=neighbors, data=self.nearest.about["data"])


def _place_in_words(place: float, custom: Sequence[float] | None) -> str:
    if place == ALL_EQUAL or (place > ALL_EQUAL and custom is None):
        return "all classes are equally frequent"
    if place in (AS_TRAINED, CUSTOM):
        return "classes are as frequent as " + ("in training" if place == AS_TRAINED else "you say")
    end = "in training" if place < ALL_EQUAL else "you say"
    share = abs(ALL_EQUAL - place)
    return f"classes are between equally frequent and as {end} (by {share:.0%} of the logarithm)"

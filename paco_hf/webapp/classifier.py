"""A model with adjustable class frequencies, for the page."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.priors import softmax
from ..inference.forward import inference_device
from ..inference.load_model import load_classifier, load_processor
from ..metrics import GROUPS, shot_group
from ..models.abstention import abstains, prior_shift
from ..reports.model_card_text import limits
from ..reports.run_summary import Subject, read_subject

AS_TRAINED, ALL_EQUAL, CUSTOM = 0.0, 1.0, 2.0  # places on the slider
MOST_EDITABLE = 1000  # classes; for more the user's frequencies come from a file


def prior_at(place: float, training: Sequence[float] | None, custom: Sequence[float] | None) -> np.ndarray | None:
    """The class frequencies at a place of the slider.

    From 0, as in training, to 1, all equal, the logarithms go to 0 in proportion; from 1 to 2 the user's
    come in: `p ~ training ** (1 - place)`, then `p ~ custom ** (place - 1)`.

    Args:
        place (`float`): 0 to 2.
        training (`C` numbers, *optional*): frequencies in training; a class without images counts half a one.
        custom (`C` positive numbers, *optional*): the user's frequencies; `None`: all equal.

    Returns:
        `(C,)`, summing to 1; `None` where all are equal.

    Raises:
        ValueError: the place is not on the slider, or there are no frequencies of training to go by.
    """
    if not AS_TRAINED <= place <= CUSTOM:
        raise ValueError(f"the slider must be between 0 and 2, got {place}")
    if place < ALL_EQUAL:
        if training is None:
            raise ValueError("this model stores no class frequencies of the training data: use a value from 1 to 2")
        logs = (ALL_EQUAL - place) * np.log(np.maximum(np.asarray(training, dtype=np.float64), 0.5))
    elif place == ALL_EQUAL or custom is None:
        return None
    else:
        logs = (place - ALL_EQUAL) * np.log(np.asarray(custom, dtype=np.float64))
    return softmax(logs)


class Classifier:
    """A model that is loaded once and asked image by image; its answers may be asked for by several threads.

    Args:
        model (path or `str`): run folder, checkpoint or Hub id.
    """

    def __init__(self, model: str | Path) -> None:
        self.folder = str(model)
        self.model = load_classifier(model).eval().to(inference_device())
        self.processor = load_processor(model)
        config = self.model.config
        if config.num_labels < 2:
            raise ValueError(f"{model} has only one class: pass a model with two or more")
        self.names = [config.id2label[c] for c in range(config.num_labels)]
        self.counts = config.group_counts
        self.groups = shot_group(np.asarray(self.counts)).tolist() if self.counts else []
        # The slider goes by the images that were trained on, which the loss knew.
        self.training = config.class_counts
        self.stored_prior: list[float] | None = config.inference_prior
        # Where `pipeline` answers from.
        self.start = CUSTOM if self.stored_prior else ALL_EQUAL if config.balanced_logits else AS_TRAINED
        # Logits that carry frequencies of training that nobody knows are shown as they are.
        self.adjustable = config.balanced_logits or self.training is not None
        # Of the configuration as it is stored, before it is changed for the slider.
        self.stored = copy.copy(config)
        if self.adjustable:
            self.model.set_prior([1] * config.num_labels)

    @torch.no_grad()
    def forward(self, image: Any) -> tuple[np.ndarray, np.ndarray]:
        """The logits `(C,)` of a PIL image where all classes are alike, and its features `(F,)`."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"].to(self.model.device, self.model.dtype)
        features = self.model.paco(pixels, return_dict=True).pooler_output
        logits = self.model.adjust_logits(self.model.classifier(features))
        return logits[0].cpu().double().numpy(), features[0].float().cpu().numpy()

    def probabilities(self, logits: np.ndarray, place: float, custom: Sequence[float] | None = None) -> np.ndarray:
        """`(C,)` probabilities.

        Args:
            logits (`ndarray` of shape `(C,)`): of [`Classifier.forward`].
            place (`float`): of the slider, see [`prior_at`].
            custom (`C` positive numbers, *optional*): the user's class frequencies.
        """
        prior = prior_at(place, self.training, custom) if self.adjustable else None
        with np.errstate(divide="ignore"):  # a share that no number holds leaves no probability
            scores = logits if prior is None else logits + np.log(prior)
        return softmax(scores)

    def doubt(self, logits: np.ndarray, place: float, custom: Sequence[float] | None = None) -> str:
        """Why the model abstains, by its stored rule; empty if it answers.

        Args:
            logits (`ndarray` of shape `(C,)`): of [`Classifier.forward`].
            place (`float`), custom (`C` positive numbers, *optional*): as those of [`Classifier.probabilities`].
        """
        rule = self.stored.abstention or {}
        if not rule:
            return ""
        # The logits as the stored configuration would have them: back from those where all classes are alike.
        shift = prior_shift(self.model.config)
        plain = torch.from_numpy(logits) - (0 if shift is None else shift)
        stored = plain if (stored_shift := prior_shift(self.stored)) is None else plain + stored_shift
        unsure, unlike = abstains(stored[None], self.stored)
        if bool(unlike):
            return "None of these: the image is unlike the images of all known classes."
        if not rule.get("thresholds"):
            return ""
        as_stored = self.probabilities(logits, self.start, self.stored_prior)
        if not np.allclose(as_stored, self.probabilities(logits, place, custom)):
            return "The confidence thresholds only apply to the class frequencies stored in the model."
        return f"Not sure: the confidence is below the threshold for {rule['target']}." if bool(unsure) else ""

    def about(self, c: int) -> dict[str, Any]:
        """Name, training images and shot group of the class `c`, as far as they are known."""
        images, group = (self.counts[c], GROUPS[self.groups[c]]) if self.counts else (None, "")
        return {"name": self.names[c], "images": images, "group": group}

    def described(self) -> dict[str, Any]:
        """What it is, and in `limits` what it cannot do."""
        config, folder = self.model.config, Path(self.folder)
        subject = read_subject(folder) if folder.is_dir() else Subject(self.folder, config=config)
        return {
            "classes": len(self.names),
            "size": config.image_size,
            "backbone": config.backbone,
            "rare": self.groups.count(GROUPS.index("few")),
            "limits": limits(subject, license="given"),
        }


def custom_frequencies(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> list[float]:
    """The frequencies in the table; `ValueError` names the class whose entry is none."""
    frequencies = dict.fromkeys(names, 1.0)
    for name, value in rows:
        try:
            frequencies[name] = float(value)
        except (TypeError, ValueError):
            frequencies[name] = -1.0
        if not 0 < frequencies[name] < float("inf"):
            raise ValueError(
                f"the frequency of {name!r} must be a positive number, got {value!r}; for a class that does not "
                "occur, use a tiny one"
            )
    return [frequencies[name] for name in names]

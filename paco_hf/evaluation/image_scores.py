"""What logits say of each image: all that scores are computed from, in a pass over blocks of rows, so that nothing as
large as the logits is made beside them. Numpy only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from tqdm.auto import tqdm

from .priors import log_frequencies, softmax

_BLOCK = 1_000_000  # logits at a time: what a core keeps close
_MANY = 50_000_000  # logits, from which on a pass takes seconds


def row_blocks(logits: np.ndarray, description: str = "") -> Iterator[slice]:
    """The rows of logits, a block at a time.

    Args:
        logits (`(N, C)`): of images.
        description (`str`, *optional*): of what is done with them, for a progress bar where that takes seconds.
    """
    rows, classes = logits.shape
    step = max(_BLOCK // max(classes, 1), 1)
    hidden = None if description and logits.size > _MANY else True
    with tqdm(total=rows, desc=description, unit=" images", disable=hidden, leave=False) as progress:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield slice(start, stop)
            progress.update(stop - start)


class Answers(NamedTuple):
    """The answers that probabilities give.

    Args:
        predicted (`(N,)`): class id of the highest probability.
        confidence (`(N,)`): that probability.
        classes (`int`): `C`.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    classes: int

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray) -> Self:
        """Those of probabilities `(N, C)`."""
        return cls(probabilities.argmax(axis=1), probabilities.max(axis=1), probabilities.shape[1])

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> Self:
        """Those of the images of one block after the other."""
        predicted, confidence, classes = zip(*parts, strict=True)
        return cls(np.concatenate(predicted), np.concatenate(confidence), classes[0])


@dataclass(frozen=True)
class ImageScores:
    """What is known of each image once the logits have been gone through.

    Args:
        predicted (`(N,)`): class id of the largest logit.
        answers ([`Answers`]): of the probabilities at the temperature.
        uncalibrated ([`Answers`], *optional*): of those without it; `None` where there is no temperature.
        true_probability (`(N,)`): of the label, at the temperature, in float64.
        squares (`(N,)`): sum of the squared probabilities, in float64.
        adapted (`(P, N)`): class id of the largest logit with the log of each prior added to balanced logits.
    """

    predicted: np.ndarray
    answers: Answers
    uncalibrated: Answers | None
    true_probability: np.ndarray
    squares: np.ndarray
    adapted: np.ndarray

    @classmethod
    def from_logits(
        cls,
        logits: np.ndarray,
        true: np.ndarray,
        temperature: float | None = None,
        logit_counts: Sequence[int] | None = None,
        priors: Sequence[np.ndarray] = (),
    ) -> Self:
        """Go through logits.

        Args:
            logits (`(N, C)`): neither divided by a temperature nor shifted by a prior.
            true (`(N,)`): class ids.
            temperature (`float`, *optional*): that divides them.
            logit_counts (`(C,)`, *optional*): the class frequencies that they are for; `None`: equal ones.
            priors (sequence of `(C,)`, *optional*): class frequencies of other worlds, above 0.
        """
        shifts = [np.log(prior).astype(logits.dtype) for prior in priors]
        frequencies = None if logit_counts is None else log_frequencies(logit_counts)
        images, plain, scaled = len(true), list[Answers](), list[Answers]()
        predicted, adapted = np.empty(images, dtype=np.int64), np.empty((len(shifts), images), dtype=np.int64)
        true_probability, squares = np.empty(images), np.empty(images)
        for rows in row_blocks(logits, "evaluating logits"):
            block = logits[rows]
            predicted[rows] = block.argmax(axis=1)
            if temperature is not None:
                plain.append(Answers.from_probabilities(softmax(block)))
            block = block / (temperature or 1.0)
            probabilities = softmax(block)
            scaled.append(Answers.from_probabilities(probabilities))
            true_probability[rows] = np.take_along_axis(probabilities, true[rows, None], axis=1)[:, 0]
            # sum_c (p_c - y_c)^2 without the one-hot matrix.
            squares[rows] = np.einsum("nc,nc->n", probabilities, probabilities, dtype=np.float64)
            if frequencies is not None:
                block -= frequencies
            for chosen, shift in zip(adapted, shifts, strict=True):
                chosen[rows] = np.add(block, shift, out=probabilities).argmax(axis=1)
        uncalibrated = Answers.joined(plain) if plain else None
        return cls(predicted, Answers.joined(scaled), uncalibrated, true_probability, squares, adapted)

"""`evaluate.load(path)`: calibration of probabilities, [`paco_hf.metrics.expected_calibration_error`]."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from paco_hf.metrics import expected_calibration_error

_DESCRIPTION = (
    "How far the confidence of the predicted class is from its accuracy, over equal-width bins of the confidence; "
    "overall and for classes with many, medium and few training images."
)
_CITATION = """\
@inproceedings{guo2017calibration,
  title     = {On Calibration of Modern Neural Networks},
  author    = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year      = {2017}
}
"""
_INPUTS = """
Args:
    predictions (`list` of `list` of `float`): the probability of each class, rows summing to 1.
    references (`list` of `int`): true class ids.
    class_counts (`list` of `int`, *optional*): training images of each class, for the groups.
    n_bins (`int`): the number of bins; 15 unless given.
    many (`int`): many-shot classes have more training images than this; 100 unless given.
    few (`int`): few-shot classes have fewer than this; 20 unless given.
Returns:
    expected_calibration_error and, with class_counts, many, medium, few (None where a group has no references);
    fractions in 0..1.
Examples:
    >>> metric = evaluate.load(path)
    >>> metric.compute(predictions=[[0.75, 0.25], [0.25, 0.75]], references=[0, 0])
    {'expected_calibration_error': 0.25}
"""


class ExpectedCalibrationError(evaluate.Metric):
    """[`paco_hf.metrics.expected_calibration_error`] as an `evaluate.Metric`; its predictions are probabilities.

    Args:
        class_counts (`(C,)`, *optional*): training images of each class; without them there are no groups.
        n_bins (`int`, *optional*, defaults to `15`): the number of bins.
        many (`int`, *optional*, defaults to `100`): many-shot classes have more training images than this.
        few (`int`, *optional*, defaults to `20`): few-shot classes have fewer.

    What `compute` is given wins. Further arguments are those of `evaluate.Metric`.
    """

    def __init__(
        self,
        class_counts: Sequence[int] | None = None,
        n_bins: int = 15,
        many: int = 100,
        few: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.class_counts, self.n_bins, self.many, self.few = class_counts, n_bins, many, few

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int32")}
            ),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        class_counts: Sequence[int] | None = None,
        n_bins: int | None = None,
        many: int | None = None,
        few: int | None = None,
    ) -> dict[str, float | None]:
        return expected_calibration_error(
            [np.asarray(row, dtype=np.float32) for row in predictions],
            references,
            self.class_counts if class_counts is None else class_counts,
            n_bins=self.n_bins if n_bins is None else n_bins,
            many=self.many if many is None else many,
            few=self.few if few is None else few,
        )

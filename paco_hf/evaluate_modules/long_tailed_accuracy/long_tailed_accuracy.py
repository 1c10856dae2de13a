"""`evaluate.load(path_of_this_file)`: accuracy for long-tailed data, [`paco_hf.metrics.long_tailed_accuracy`]."""

from typing import Any

import datasets
import evaluate

from paco_hf.metrics import long_tailed_accuracy

_DESCRIPTION = (
    "Top-1 accuracy overall, macro-averaged, per class, and over classes with many, medium and few training images."
)
_INPUTS = """
Args:
    predictions (list of int): predicted class ids.
    references (list of int): true class ids.
    class_counts (list of int): training images of each class.
    many, few (int): bounds of the groups: more than `many`, fewer than `few`, and between.
Returns:
    accuracy, balanced_accuracy, many, medium, few (None where a group is empty), per_class, worst_class,
    harmonic_mean, geometric_mean; fractions in 0..1.
"""


class LongTailedAccuracy(evaluate.Metric):
    """See `_DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: Any, references: Any, class_counts: Any, many: int = 100, few: int = 20
    ) -> dict[str, Any]:
        return long_tailed_accuracy(predictions, references, class_counts, many=many, few=few)

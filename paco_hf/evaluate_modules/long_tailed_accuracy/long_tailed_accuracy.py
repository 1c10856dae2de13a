"""`evaluate.load(path)`: accuracy for long-tailed data, [`paco_hf.metrics.long_tailed_accuracy`].

Loading it also mends `evaluate.evaluator`: evaluate 0.4.6 looks up `transformers.TFPreTrainedModel`, which
transformers 5 no longer has, and fails before it has read an image. The evaluators, and nothing else, then see
`transformers` with that name. The package itself stays as it is, so that no other library takes TensorFlow for
present.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import transformers
from evaluate.evaluator import base as evaluators

from paco_hf.metrics import long_tailed_accuracy

_DESCRIPTION = (
    "Top-1 accuracy overall, macro-averaged, per class, and over classes with many, medium and few training images."
)
_CITATION = """\
@inproceedings{liu2019large,
  title     = {Large-Scale Long-Tailed Recognition in an Open World},
  author    = {Liu, Ziwei and Miao, Zhongqi and Zhan, Xiaohang and Wang, Jiayun and Gong, Boqing and Yu, Stella X.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019}
}
"""
_INPUTS = """
Args:
    predictions (`list` of `int`): predicted class ids.
    references (`list` of `int`): true class ids.
    class_counts (`list` of `int`): training images of each class; here or in `evaluate.load`.
    many (`int`): many-shot classes have more training images than this; 100 unless given.
    few (`int`): few-shot classes have fewer than this; 20 unless given.
Returns:
    accuracy, balanced_accuracy, many, medium, few (None where a group is empty), per_class, worst_class,
    harmonic_mean, geometric_mean; fractions in 0..1.
Examples:
    >>> metric = evaluate.load(path, class_counts=[500, 50, 5])
    >>> metric.compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, 2])["balanced_accuracy"]
    0.5
"""


class _Transformers:
    """`transformers` as evaluate's evaluators see it: they only ask whether a model is a `TFPreTrainedModel`."""

    class TFPreTrainedModel:
        """A placeholder that no model is an instance of."""

    def __getattr__(self, name: str) -> Any:
        return getattr(transformers, name)


if not hasattr(evaluators.transformers, "TFPreTrainedModel"):
    evaluators.transformers = _Transformers()


class LongTailedAccuracy(evaluate.Metric):
    """[`paco_hf.metrics.long_tailed_accuracy`] as an `evaluate.Metric`.

    Args:
        class_counts (`(C,)`, *optional*): training images of each class; needed here or in `compute`.
        many (`int`, *optional*, defaults to `100`): many-shot classes have more training images than this.
        few (`int`, *optional*, defaults to `20`): few-shot classes have fewer.

    What `compute` is given wins. Further arguments are those of `evaluate.Metric`.
    """

    def __init__(
        self, class_counts: Sequence[int] | None = None, many: int = 100, few: int = 20, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.class_counts, self.many, self.few = class_counts, many, few

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
            ),
            format="numpy",
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        class_counts: Sequence[int] | None = None,
        many: int | None = None,
        few: int | None = None,
    ) -> dict[str, Any]:
        counts = self.class_counts if class_counts is None else class_counts
        if counts is None:
            raise ValueError(
                "class_counts is missing: pass the training images of each class, "
                "evaluate.load(..., class_counts=[...]) or compute(..., class_counts=[...])"
            )
        return long_tailed_accuracy(
            predictions,
            references,
            counts,
            many=self.many if many is None else many,
            few=self.few if few is None else few,
        )

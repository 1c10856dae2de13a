"""`PaCoConfig`: what a PaCo classifier needs to be built and to be understood."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

from transformers import PretrainedConfig
from transformers.utils import logging
from transformers.utils.versions import require_version

# Of what travels with a checkpoint. Older ones lack what image processors and pipelines need.
require_version("transformers>=4.56")

logger = logging.get_logger(__name__)


class PaCoConfig(PretrainedConfig):
    """Configuration of a [`PaCoForImageClassification`]: a timm backbone and a classifier with PaCo's class centers.

    Args:
        backbone (`str`, *optional*, defaults to `"resnet50"`): any timm model, or a CIFAR ResNet of this package
            (`cifar_resnet20/32/44/56`, `cifar_resnet50`).
        backbone_kwargs (`dict`, *optional*): keyword arguments of `timm.create_model`, such as `{"zero_init_last":
            False}`.
        class_counts (sequence or tensor of `num_labels` integers, *optional*): training images of each class, the
            prior of the losses. Inference does not use it.
        selection_counts (as `class_counts`, *optional*): number of images of each class in the full training data,
            with a validation split. They define the many-, medium- and few-shot groups. `None`: `class_counts`.
        image_size (`int`, *optional*, defaults to `224`): side of the square input in pixels.
        inference_prior (sequence of `num_labels` numbers, *optional*): class frequencies in deployment. PaCo's
            logits are balanced; the log of these frequencies is added to them.
        balanced_logits (`bool`, *optional*, defaults to `True`): whether the logits assume equally frequent classes.
            Training without class prior (cross-entropy) gives logits that contain the log of `class_counts`.
        temperature (`float`, *optional*): calibration temperature that divides the logits before the prior is added.
        classifier (`str`, *optional*, defaults to `"linear"`): `linear`, or `cosine`: the logits are the cosines of
            features and class centers, times a scale.
        classifier_scale (`float`, *optional*, defaults to `25.0`): scale of the cosines, or its initial value if it is
            learned; not used by `linear`.
        learn_classifier_scale (`bool`, *optional*, defaults to `False`): whether training changes the scale.
        abstention (`dict`, *optional*): when the model should abstain: `thresholds` has the minimum probability for
            each predicted class, chosen for `target`, `temperature` and `inference_prior`; `unknown` has a `score`
            of the logits (`max_logit` or `energy`) and its minimum values (`thresholds`).
        kwargs: `num_labels` or `id2label`/`label2id`, and other arguments of `PretrainedConfig`.

    Raises:
        ValueError: a value is out of range, or the length of a sequence is not `num_labels`.

    Example:

    ```python
    from paco_hf import PaCoConfig, PaCoForImageClassification

    config = PaCoConfig(backbone="cifar_resnet20", num_labels=3, class_counts=[500, 50, 5], image_size=32)
    model = PaCoForImageClassification(config)
    ```
    """

    model_type = "paco"
    keys_to_ignore_at_inference: ClassVar = ["abstained"]  # a `Trainer` would take it for logits

    def __init__(
        self,
        backbone: str = "resnet50",
        backbone_kwargs: dict[str, Any] | None = None,
        class_counts: Any = None,
        selection_counts: Any = None,
        image_size: int = 224,
        inference_prior: Any = None,
        temperature: float | None = None,
        balanced_logits: bool = True,
        classifier: str = "linear",
        classifier_scale: float = 25.0,
        learn_classifier_scale: bool = False,
        abstention: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # After that, which in transformers 4 sets a `temperature` of text generation.
        self.backbone = backbone
        self.backbone_kwargs = backbone_kwargs if backbone_kwargs is not None else {}
        self.class_counts = as_numbers("class_counts", class_counts, int)
        self.selection_counts = as_numbers("selection_counts", selection_counts, int)
        self.image_size = image_size
        self.inference_prior = as_numbers("inference_prior", inference_prior, float)
        self.temperature = temperature
        self.balanced_logits = balanced_logits
        self.classifier = classifier
        self.classifier_scale = classifier_scale
        self.learn_classifier_scale = learn_classifier_scale
        self.abstention = abstention
        self.check()

    @property
    def group_counts(self) -> list[int] | None:
        """Training images of each class, which define the many-, medium- and few-shot groups."""
        return self.selection_counts or self.class_counts

    def check(self) -> None:
        """Raise `ValueError` if fields contradict each other."""
        if not isinstance(self.backbone, str) or not self.backbone:
            raise ValueError(f"backbone must be the name of a timm model, got {self.backbone!r}")
        if not isinstance(self.backbone_kwargs, dict):
            raise ValueError(f"backbone_kwargs must be a dictionary, got {self.backbone_kwargs!r}")
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size must be a positive number of pixels, got {self.image_size!r}")
        if self.output_attentions:
            raise ValueError("output_attentions is not supported, because timm backbones return none: remove it")
        if self.num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {self.num_labels}")
        if self.classifier not in ("linear", "cosine"):
            raise ValueError(f"classifier must be linear or cosine, got {self.classifier!r}")
        if not _positive(self.classifier_scale):
            raise ValueError(f"classifier_scale must be a positive number, got {self.classifier_scale!r}")
        for name in ("class_counts", "selection_counts"):
            counts = getattr(self, name)
            if counts is None:
                continue
            if len(counts) != self.num_labels:
                raise ValueError(
                    f"{name} has {len(counts)} entries, but the model has {self.num_labels} classes: pass one "
                    f"count per class, or {name}=None"
                )
            if min(counts) < 0 or sum(counts) == 0:
                raise ValueError(
                    f"{name} must contain counts of 0 or more, and at least one above 0, got {counts!r:.80}"
                )
        if self.inference_prior is not None:
            if len(self.inference_prior) != self.num_labels:
                count = len(self.inference_prior)
                raise ValueError(
                    f"inference_prior has {count} entries, but the model has {self.num_labels} classes: pass one "
                    "number per class"
                )
            if not all(0 < value < math.inf for value in self.inference_prior):
                raise ValueError("inference_prior must be positive: for a class that never occurs, use a tiny number")
            if not self.balanced_logits and self.class_counts is None:
                raise ValueError(
                    "inference_prior needs class_counts, the class frequencies in training that it replaces: "
                    "also set class_counts"
                )
        temperature = self.temperature
        if temperature is not None and not _positive(temperature):
            raise ValueError(f"temperature must be a positive number, got {temperature!r}")
        if self.abstention is not None:
            self._check_abstention(self.abstention)

    def _check_abstention(self, rule: Any) -> None:
        """Raise `ValueError` where `abstention` is no rule, or one of another number of classes."""
        unknown, thresholds = (rule.get(key) if isinstance(rule, dict) else None for key in ("unknown", "thresholds"))
        if unknown and not (isinstance(unknown, dict) and unknown.get("score") in ("max_logit", "energy")):
            raise ValueError(
                f"the unknown entry of abstention must have the score max_logit or energy, got {unknown!r:.80}"
            )
        lists = [values for values in (thresholds, unknown and unknown.get("thresholds")) if values]
        if len(lists) < max(bool(thresholds) + bool(unknown), 1):
            raise ValueError(f"abstention must be a dictionary with thresholds or unknown, got {rule!r:.80}")
        for values in lists:
            if len(as_numbers("thresholds of abstention", values, float) or ()) != self.num_labels:
                raise ValueError(
                    f"abstention has {len(values)} thresholds, but the model has {self.num_labels} classes: pass "
                    "one per class, or abstention=None"
                )

    @property
    def logit_counts(self) -> list[int] | None:
        """Class frequencies that the logits assume; `None`: equal frequencies. All 1 if unknown."""
        return None if self.balanced_logits else self.class_counts or [1] * self.num_labels

    # What `save_pretrained` calls, in transformers 4 by the second name: it does not save what looks like a setting of
    # text generation. This temperature is none.
    def _get_generation_parameters(self) -> dict[str, Any]:
        return {}

    _get_non_default_generation_parameters = _get_generation_parameters

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As `PretrainedConfig.from_dict`; an argument replaces what is stored before validation, and what was stored
        for another number of classes than `num_labels` or `id2label` say is left out, with a warning."""
        by_class = ("class_counts", "selection_counts", "inference_prior")
        fields = (*by_class, "temperature", "balanced_logits", "abstention")
        replaced: dict[str, Any] = {name: kwargs.pop(name) for name in fields if name in kwargs}
        names = kwargs.get("id2label") or kwargs.get("label2id")
        classes = len(names) if names else kwargs.get("num_labels")
        stored = [name for name in by_class if name not in replaced and config_dict.get(name)]
        if classes and (unfit := [name for name in stored if len(config_dict[name]) != classes]):
            logger.warning(
                f"{', '.join(unfit)} of the checkpoint {'are' if len(unfit) > 1 else 'is'} for "
                f"{len(config_dict[unfit[0]])} classes and not used in a model of {classes} classes, and neither "
                "is its temperature: set class_counts to the number of training images of each new class"
            )
            replaced |= {"temperature": replaced.get("temperature"), **dict.fromkeys(unfit)}
        # The rule is of the classifier: of another number of classes it is another.
        if classes and config_dict.get("abstention") and classes != len(config_dict.get("id2label") or "01"):
            replaced.setdefault("abstention", None)
        if kwargs.get("id2label") and "label2id" not in kwargs:
            kwargs["label2id"] = {name: int(label) for label, name in kwargs["id2label"].items()}
        elif kwargs.get("label2id") and "id2label" not in kwargs:
            kwargs["id2label"] = {int(label): name for name, label in kwargs["label2id"].items()}
        return super().from_dict({**config_dict, **replaced}, **kwargs)


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def as_numbers(name: str, values: Any, kind: type) -> list[Any] | None:
    """A sequence, array or tensor as a list of numbers.

    Args:
        name (`str`): what they are, for the error.
        values (sequence, array or tensor, *optional*): `None` stays `None`.
        kind (`type`): `int` or `float`.

    Raises:
        ValueError: they are no numbers, or for `int` not whole ones.
    """
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else values
    message = f"{name} must be a list, an array or a tensor with one number per class, got {values!r:.80}"
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise ValueError(message)
    values = [value.item() if hasattr(value, "item") else value for value in values]
    if not all(isinstance(value, Real) for value in values):
        raise ValueError(message)
    if kind is int and any(value != int(value) for value in values):
        raise ValueError(f"{name} must contain integers, got {values!r:.80}")
    return [kind(value) for value in values]

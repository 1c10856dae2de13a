"""What `config.json` says of a model, without the libraries that would build it."""

from dataclasses import dataclass, fields
from typing import Any

from ..utils.files import RESTORE, TIMM_FORM
from .folder import RunFolder


@dataclass(frozen=True)
class CheckpointConfig:
    """The fields of a [`paco_hf.PaCoConfig`] that cards show; those that the file lacks have its defaults."""

    id2label: dict[int, str]
    backbone: str = "resnet50"
    class_counts: list[int] | None = None
    selection_counts: list[int] | None = None
    image_size: int = 224
    inference_prior: list[float] | None = None
    temperature: float | None = None
    balanced_logits: bool = True
    classifier: str = "linear"
    classifier_scale: float = 25.0
    learn_classifier_scale: bool = False
    abstention: dict[str, Any] | None = None

    @classmethod
    def read(cls, run: RunFolder) -> "CheckpointConfig":
        """Read the configuration in a folder.

        Raises:
            ValueError: it is damaged.
        """
        content: dict[str, Any] = run.config
        if "pretrained_cfg" in content:
            raise ValueError(f"{run.name} {TIMM_FORM}")
        names = content.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        wrong = {} if isinstance(names, dict) and all(str(n).isdecimal() for n in names) else {"id2label": names}
        for name in known.keys() & {"class_counts", "selection_counts", "inference_prior"} if not wrong else ():
            values, kinds = known[name] or [], (int, float) if name == "inference_prior" else (int,)
            numbers = isinstance(values, list) and all(type(value) in kinds and value >= 0 for value in values)
            if known[name] is not None and not (numbers and len(values) == len(names)):
                wrong[name] = values
        reasons = [f"{name} does not match the classes: {value!r:.40}" for name, value in wrong.items()]
        if (kind := content.get("model_type")) != "paco":
            reasons.append(f"model_type must be 'paco', got {kind!r:.40}")
        if reasons:
            path = run.path / "config.json"
            raise ValueError(f"{path} is damaged ({reasons[0]}): {RESTORE}")
        return cls(**{**known, "id2label": {int(label): str(name) for label, name in names.items()}})

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def group_counts(self) -> list[int] | None:
        """Training images of each class, by which the groups many, medium and few are formed."""
        return self.selection_counts or self.class_counts

"""What `config.json` says of a model, without the libraries that would build it."""

from dataclasses import dataclass, fields
from typing import Any

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

    @classmethod
    def read(cls, run: RunFolder) -> "CheckpointConfig":
        """Read the configuration in a folder.

        Raises:
            ValueError: it is damaged.
        """
        content: dict[str, Any] = run.config
        names = content.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        if not isinstance(names, dict) or not all(str(label).isdecimal() for label in names):
            raise _damaged(run, "id2label", "the name of each class by its number", names)
        for name in ("class_counts", "selection_counts", "inference_prior"):
            values, kind = known.get(name), float if name == "inference_prior" else int
            complete = isinstance(values, list) and len(values) == len(names)
            if values is not None and not (complete and all(type(v) in (int, kind) and v >= 0 for v in values)):
                raise _damaged(run, name, f"a number for each of {len(names)} classes", values)
        return cls(**{**known, "id2label": {int(label): str(name) for label, name in names.items()}})

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def group_counts(self) -> list[int] | None:
        """Training images of each class, by which the groups many, medium and few are formed."""
        return self.selection_counts or self.class_counts


def _damaged(run: RunFolder, name: str, expected: str, value: Any) -> ValueError:
    path = run.path / "config.json"
    return ValueError(f"{path} is damaged ({name} must be {expected}, got {value!r:.40}): restore it")

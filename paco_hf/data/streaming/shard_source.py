"""The splits of a prepared folder, to be streamed."""

from dataclasses import dataclass
from typing import Any

from ..long_tail import class_counts
from .manifest import Manifest
from .sharded_images import ShardedImages


@dataclass
class ShardSource:
    """The splits of a prepared folder, to be streamed; the same interface as [`Source`]."""

    manifest: Manifest
    window: int

    @property
    def splits(self) -> dict[str, Any]:
        return self.manifest.splits

    def class_names(self, key: str) -> list[str]:
        return self.manifest.class_names

    def labelled(self, key: str, class_names: list[str]) -> ShardedImages:
        images = ShardedImages(self.manifest, key, self.window)
        class_counts(images.labels, len(class_names), allow_empty=True)
        return images

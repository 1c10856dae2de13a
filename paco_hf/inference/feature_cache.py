"""Features that a frozen backbone gives of images, computed once and kept for the next run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data.image_checks import split_fingerprint
from ..data.images import Images, LabeledImages
from ..models.modeling_paco import PaCoModel
from ..utils.files import disk_errors
from ..utils.tensors import tensors_digest
from .features import Embeddings, extract_features


def cached_features(model: PaCoModel, processor: Any, images: Images, batch_size: int) -> tuple[np.ndarray, str]:
    """Features of images, from the cache of `datasets` where the same weights saw the same images before.

    Args:
        model (`PaCoModel`): its device is where they are computed.
        processor (image processor): makes the images ready for the model.
        images ([`Images`]): of a split.
        batch_size (`int`): images a batch.

    Returns:
        `(N, F)` in float32, in the order of the images; and where they are from, for the user to read.
    """
    split = images.split
    if not isinstance(split, LabeledImages):
        return extract_features(model, processor, images, split.name, batch_size), "computed"
    file = _file(model, processor, split)
    if file.is_file():
        try:
            stored = Embeddings.load(file).features
            if len(stored) == len(split.labels):
                return stored, "computed by an earlier run"
        except (OSError, ValueError):  # damaged: it is written anew
            pass
    features = extract_features(model, processor, images, split.name, batch_size)
    try:
        with disk_errors("they are computed again next time"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Embeddings(features).save(file)
    except OSError as error:
        return features, f"computed, but not kept ({error})"
    return features, "computed"


def _file(model: PaCoModel, processor: Any, split: LabeledImages) -> Path:
    settings = {
        "backbone": model.config.backbone,
        "kwargs": model.config.backbone_kwargs,
        "input": processor.to_dict(),
    }
    parts = (
        split_fingerprint(split),
        tensors_digest(model.state_dict()),
        json.dumps(settings, sort_keys=True, default=str),
    )
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "paco_hf" / "features" / f"{key}.safetensors"

"""Predictions of many images, written as they are made, in memory that does not grow with their number.

Beside the file there is the folder `FILE.partial` until all of it is there: a small parquet file for each few hundred
images, `_settings.json`, which says what they were made of, and the features. The parts are cut at the same images
whenever and by however many processes they are made, and so are the batches in them: a file that was stopped at any
moment and resumed is that of an undisturbed run, byte for byte.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from tqdm.auto import tqdm

from ..evaluation.predictions import KEPT
from ..models.abstention import may_abstain
from ..models.backbones import feature_size
from ..models.configuration_paco import PaCoConfig
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.distributed import entered_once, world_size
from ..utils.files import read_mapping, replacing, write_json
from ..utils.locks import sole_owner
from ..utils.tensors import tensors_digest
from .batches import ImageFiles
from .forward import check_tta, fast_forward, resolve_precision
from .labeled_images import ImagesWithLabels, suspect_rows
from .prediction import ClassifiedBatch, classify_batches, load_for_prediction
from .prediction_folder import FEATURES, PART, SETTINGS, check_leftovers, clear, partial_folder
from .prediction_formats import cut, entries_table, judged_entries, marked, write_tables

_PART_ROWS = 512  # images of a part, about: what is lost where a process is killed
_TRACES = (SETTINGS, FEATURES)  # which alone are no part


@dataclass(frozen=True)
class WrittenPredictions:
    """What there is in a file of predictions.

    Args:
        images (`int`): rows.
        errors (`int`): of them, those that could not be decoded.
        first_error (`str`): what is wrong with the first of these.
        suspects (`int`): labels that are probably wrong, where these were looked at.
    """

    images: int
    errors: int
    first_error: str
    suspects: int = 0


def write_predictions(
    model_folder: str,
    images: ImageFiles,
    output: str | Path,
    *,
    features: str | Path | None = None,
    top: int = 5,
    batch_size: int = 32,
    precision: str = "fp32",
    prior: str | None = None,
    tta: str = "none",
    suspects: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> WrittenPredictions | None:
    """Classify images into a file: of all processes, each a share of the images.

    Args:
        model_folder, top, batch_size, precision, prior, tta: as those of [`paco_hf.inference.prediction.predict`].
        images ([`ImageFiles`]): the images.
        output (path): `.csv` (`file`, `label`, `score`, `label_2`, ..., `error`), `.jsonl` (an entry of `predict` a
            line) or `.parquet` (`file`, `label`, `score`, `top_labels`, `top_scores`, `error`). Where the model has a
            rule to abstain, tables have a column `abstained`, too.
        features (path, *optional*): a `.npy` file to write their features `(N, F)` to in `float32`; those of an image
            that cannot be decoded are NaN.
        suspects (`bool`, *optional*, defaults to `False`): also write the label that an image has in the data, its
            probability, and whether it is probably wrong: `data_label`, `label_probability`, `suspect`. The images
            must be [`paco_hf.inference.labeled_images.ImagesWithLabels`].
        resume (`bool`, *optional*, defaults to `False`): go on from what a former call left, if there is something.
        overwrite (`bool`, *optional*, defaults to `False`): remove what a former call left.

    Returns:
        what is written; in the process of rank 0 only, `None` in the others.

    Raises:
        ValueError: a former call left something, and neither `resume` nor `overwrite` is set; or it is of another
            model, other images or settings. Also what [`paco_hf.inference.prediction.predict`] raises.
        OSError: another process writes it, or it cannot be written.
    """
    check_tta(tta)
    if features is not None and tta != "none":
        raise ValueError(
            f"--features cannot be combined with --tta {tta}, because features are computed without "
            "augmentation: remove one of them"
        )
    output, features = Path(output), None if features is None else Path(features)
    rank = dist.get_rank() if world_size() > 1 else 0
    if not rank:  # which may make the folder before another process looks
        check_leftovers(output, resume, overwrite)
    model, processor = load_for_prediction(model_folder, top, batch_size, precision, prior)
    width = feature_size(model.paco.backbone) if features else 0
    # What is suspect should not depend on how many classes are listed.
    listed = max(top, KEPT) if suspects else top
    parts = _Parts(partial_folder(output), len(images), batch_size, width, top)
    settings: dict[str, Any] = {
        "top": top,
        "batch_size": batch_size,
        "features": bool(features),
        "suspects": suspects,
        "tta": tta,
    }
    if suspects:
        if not isinstance(images.images, ImagesWithLabels):
            raise ValueError("suspects needs labeled images: pass ImageFiles(ImagesWithLabels(...))")
        parts.labels = images.images.model_labels(model.config, model_folder)
        settings["labels"] = hashlib.sha256(parts.labels.tobytes()).hexdigest()[:16]
    settings |= {"precision": resolve_precision(precision, model.device), **_fingerprint(model, processor, images)}
    with entered_once(sole_owner(parts.folder, "writing predictions", "use another --output", _TRACES)):
        with entered_once(_prepared(parts, settings, overwrite)):
            numbers = _share(parts.missing(), rank)
        forward = fast_forward(model, precision, tta=tta)
        encode = fast_forward(model.paco, precision) if features else None
        if numbers:
            inputs = forward, model.config, processor, images
            sizes: dict[str, Any] = {"top": listed, "batch_size": batch_size, "rows": parts.image_range(numbers)}
            steps = classify_batches(*inputs, **sizes, encode=encode, show=rank == 0)
            parts.abstains = may_abstain(model.config)
            parts.write(numbers, steps, model.config.id2label)
        if world_size() > 1:
            dist.barrier()
        written = None if rank else _finish(parts, output, features, model.config)
    if not rank:
        with suppress(OSError):
            parts.folder.rmdir()
    return written


def _fingerprint(model: PaCoForImageClassification, processor: Any, images: ImageFiles) -> dict[str, Any]:
    """What tells a model, its class frequencies and images from others, each in a few letters."""
    config = model.config.to_dict()
    config = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    frequencies = config.pop("inference_prior", None)
    names = hashlib.sha256()
    for name in images.names:
        names.update(name.encode(errors="surrogateescape") + b"\0")
    for part in images.images.parts:
        names.update(part.state().encode())
    return {
        "model": _digest(config, processor.to_dict(), tensors_digest(model.state_dict())),
        "prior": _digest(frequencies),
        "images": names.hexdigest()[:16],
    }


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _share(numbers: list[int], rank: int) -> list[int]:
    """What this process makes of the parts that were missing in that of rank 0, which may have made some since."""
    known = [numbers]
    if world_size() > 1:
        dist.broadcast_object_list(known)
    return [int(number) for number in np.array_split(known[0], world_size())[rank]]


class _Parts:
    """The parts of the predictions of so many images, and where their features are."""

    def __init__(self, folder: Path, images: int, batch_size: int, width: int, top: int) -> None:
        self.folder, self.images, self.width, self.top = folder, images, width, top
        self.size = batch_size * max(_PART_ROWS // batch_size, 1)
        self.files = [folder / PART.format(number) for number in range(-(-images // self.size))]
        self.offset = 0  # of the features in their file
        self.abstains = False  # whether the model has a rule for it
        self.labels: np.ndarray | None = None  # class ids in the data, where they are judged

    def missing(self) -> list[int]:
        return [number for number, file in enumerate(self.files) if not file.is_file()]

    def image_range(self, numbers: Sequence[int]) -> Sequence[int]:
        """The images of some parts, ascending."""
        ranges = [range(n * self.size, min((n + 1) * self.size, self.images)) for n in numbers]
        if numbers[-1] - numbers[0] < len(numbers):
            return range(ranges[0].start, ranges[-1].stop)
        return [row for one in ranges for row in one]

    def write(self, numbers: Sequence[int], batches: Iterator[ClassifiedBatch], names: Mapping[int, str]) -> None:
        """Write parts from their batches, none of which is in two of them.

        Args:
            numbers (sequence of `int`): of the parts.
            batches (iterator of [`ClassifiedBatch`]): of their images.
            names (mapping): of the classes.
        """
        with open(self.folder / FEATURES, "r+b") if self.width else nullcontext() as features:
            entries: list[dict[str, Any]] = []
            for number in numbers:
                expected = len(self.image_range([number]))
                while len(entries) < expected:
                    batch = next(batches)
                    entries += batch.entries if self.labels is None else judged_entries(batch, self.labels, names)
                    if features:
                        self._write_features(features, batch)
                if features:
                    features.flush()
                with replacing(self.files[number]) as partial:
                    pq.write_table(entries_table(entries, self.abstains), partial)
                entries = []

    def create_features(self) -> None:
        """Reserve the room of all features, without filling it."""
        np.lib.format.open_memmap(self.folder / FEATURES, "w+", np.float32, (self.images, self.width)).flush()

    def _write_features(self, file: Any, batch: ClassifiedBatch) -> None:
        if not self.offset:
            self.offset = np.load(self.folder / FEATURES, mmap_mode="r").offset
        values = np.full((len(batch.rows), self.width), np.nan, np.float32)
        if batch.features is not None:
            values[["error" not in entry for entry in batch.entries]] = batch.features.cpu().numpy()
        file.seek(self.offset + 4 * self.width * batch.rows[0])
        file.write(values.tobytes())

    def tables(self) -> Iterator[pa.Table]:
        for file in tqdm(self.files, "writing", unit=" parts", disable=None if len(self.files) > 1000 else True):
            yield pq.read_table(file)


@contextmanager
def _prepared(parts: _Parts, settings: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """A folder that is ready for parts: with those of the same settings that are there already, or empty."""
    if overwrite:
        clear(parts.folder)
    before = read_mapping(parts.folder / SETTINGS, "start over with --overwrite")
    if before and (other := [name for name, value in settings.items() if before.get(name) != value]):
        what = {"images": "different images", "model": "a different model", "prior": "a different prior"}
        raise ValueError(
            f"{parts.folder} was written with {what.get(other[0], f'a different {other[0]}')}: use the same as "
            "before, or start over with --overwrite"
        )
    if not before:
        if parts.width:
            parts.create_features()
        write_json(parts.folder / SETTINGS, settings)
    yield


def _finish(parts: _Parts, output: Path, features: Path | None, config: PaCoConfig) -> WrittenPredictions:
    """Put the parts together; the files take their names, and the parts go."""
    tables, suspects = parts.tables(), set[int]()
    if parts.labels is not None:
        names = [config.id2label[c] for c in range(config.num_labels)]
        frequencies = config.logit_counts if config.inference_prior is None else config.inference_prior
        suspects = suspect_rows(parts.tables(), names, frequencies)
        tables = cut(marked(tables, suspects), parts.top)
    with replacing(output) as partial:
        errors = write_tables(partial, output.suffix.lower(), tables, min(parts.top, config.num_labels))
        # It is not there where a former call was stopped here.
        if features and (parts.folder / FEATURES).is_file():
            with replacing(features) as moved:  # perhaps to another file system
                shutil.move(parts.folder / FEATURES, moved)
    clear(parts.folder)
    return WrittenPredictions(parts.images, *errors, len(suspects))

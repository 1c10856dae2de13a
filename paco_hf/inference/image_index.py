"""An index of the training images by their features, to show what a model has seen that is like an image. Needs
`faiss`."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from ..data.image_split import ImageSplit
from ..data.images import Images
from ..metrics import unit_rows
from ..models.lora import base_digest
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.files import read_mapping, write_json
from ..utils.images import small_copy
from ..utils.optional import optional_package
from .feature_cache import cached_features
from .index_folder import ABOUT, PICTURES, VECTORS, check_index, check_new_index
from .load_model import load_for_inference

THUMBNAIL = 128  # pixels of the longer side


def _faiss() -> Any:
    return optional_package("faiss", "an image index", "demo")


@dataclass
class Neighbor:
    """An image of the index that is like another.

    Args:
        picture (`PIL.Image.Image`): small, at most 128 pixels a side.
        label (`int`): its class.
        similarity (`float`): cosine of the features, -1..1.
    """

    picture: Image.Image
    label: int
    similarity: float


class NearestImages:
    """The images of an index, by the cosine of their features; exact.

    Args:
        vectors: the faiss index of unit features.
        pictures (list of `bytes`): encoded.
        labels (list of `int`): classes.
        about (`dict`): what `index.json` says.
    """

    def __init__(self, vectors: Any, pictures: list[bytes], labels: list[int], about: dict[str, Any]) -> None:
        self.vectors, self.pictures, self.labels, self.about = vectors, pictures, labels, about

    @classmethod
    def load(cls, folder: str | Path, model: PaCoForImageClassification) -> "NearestImages":
        """Read what [`index_split`] wrote.

        Raises:
            OSError: a file is missing or damaged.
            ValueError: it was made with other weights or classes.
            ImportError: `faiss` is not installed.
        """
        folder, faiss = Path(folder), _faiss()
        check_index(folder)
        try:
            about = read_mapping(folder / ABOUT)
            made_with = about["weights"], about["class_names"]
            vectors = faiss.read_index(str(folder / VECTORS))
            table = pq.read_table(folder / PICTURES)
        except (RuntimeError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise OSError(
                f"the index {folder} cannot be read ({reason}): create it again with `paco-hf index --overwrite`"
            ) from error
        if made_with != (base_digest(model), list(model.config.id2label.values())):
            raise ValueError(
                f"the index {folder} was created with different weights or classes: create it again with `paco-hf "
                "index --overwrite`"
            )
        return cls(vectors, table["picture"].to_pylist(), table["label"].to_pylist(), about)

    def picture(self, row: int) -> Image.Image:
        """The small copy of an image."""
        return Image.open(io.BytesIO(self.pictures[row]))

    def search(self, features: np.ndarray, k: int = 6) -> list[Neighbor]:
        """The `k` images that are most like the one of these features `(F,)`, nearest first."""
        similarity, rows = self.vectors.search(unit_rows(features[None]), min(k, len(self.labels)))
        return [
            Neighbor(self.picture(row), self.labels[row], float(value))
            for row, value in zip(rows[0], similarity[0], strict=True)
        ]


def index_split(
    model_folder: str,
    load: Callable[[], ImageSplit],
    folder: Path,
    *,
    overwrite: bool = False,
    batch_size: int = 256,
    precision: str = "fp32",
) -> int:
    """Write the index of a labeled split, complete or not at all.

    Args:
        model_folder (`str`): run folder, checkpoint or Hub id.
        load (callable): gives the split, whose classes are the model's.
        folder (path): new, or with `overwrite` an index, which is replaced.
        overwrite, batch_size, precision (*optional*): whether to replace; of the features.

    Returns:
        how many images are in it.

    Raises:
        ValueError: there is something in the folder.
        ImportError: `faiss` is not installed.
    """
    faiss = _faiss()
    check_new_index(folder, overwrite)
    model, processor = load_for_inference(model_folder, batch_size, precision)
    split = load()
    if max(split.labels) >= model.config.num_labels:
        raise ValueError(
            f"{split.name} has label {max(split.labels)}, but the model has {model.config.num_labels} classes: "
            "pass data with the classes of the model"
        )
    images, digest = Images(split), base_digest(model)
    features, _ = cached_features(model.paco, processor, images, batch_size, precision)
    vectors = faiss.IndexFlatIP(features.shape[1])
    vectors.add(unit_rows(features.astype(np.float32)))
    progress = tqdm(range(len(images)), desc="thumbnails", unit=" images", disable=None)
    pictures = [small_copy(images[i], THUMBNAIL)[1] for i in progress]
    about = {"data": split.public_name, "images": len(pictures), "class_names": list(model.config.id2label.values())}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        faiss.write_index(vectors, str(made / VECTORS))
        pq.write_table(pa.table({"picture": pictures, "label": split.labels}), made / PICTURES)
        write_json(made / ABOUT, {**about, "weights": digest})
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)
    return len(pictures)

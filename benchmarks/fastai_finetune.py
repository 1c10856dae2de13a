"""`fastai`'s `fine_tune` on the same weights: run by the Python of an environment that has fastai and timm.

```
python benchmarks/fastai_finetune.py --dataset PATH --name "Caltech-101 subset" --backbone FOLDER --output RECORD.json
```

RECORD.json is `benchmarks/pretrained/<data>/fastai-seed0.json` for the table. PATH has class folders in `train/` and
`test/`, or `train.parquet` and `test.parquet` with the columns `image` and `label`.
"""

import argparse
import datetime
import io
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pandas
import torch
from fastai.callback.core import CancelFitException
from fastai.callback.schedule import Learner  # noqa: F401  gives it `fine_tune`
from fastai.torch_core import set_seed
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    ColReader,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Resize,
    aug_transforms,
    vision_learner,
)
from PIL import Image


def images_of(dataset: Path, split: str, scratch: Path) -> pandas.DataFrame:
    """Files and labels of a split; the images of a parquet file are written to `scratch`."""
    if (dataset / split).is_dir():
        files = [file for file in sorted((dataset / split).glob("*/*")) if file.is_file()]
        return pandas.DataFrame({"file": files, "label": [file.parent.name for file in files]})
    table, files = pandas.read_parquet(dataset / f"{split}.parquet"), []
    for row, image in enumerate(table["image"]):
        files.append(scratch / f"{split}-{row}.png")
        Image.open(io.BytesIO(image["bytes"])).convert("RGB").save(files[-1])
    return pandas.DataFrame({"file": files, "label": table["label"]})


class Stop(Callback):
    """End the training after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def after_batch(self) -> None:
        """Count a batch."""
        self.left -= 1
        if self.left <= 0:
            raise CancelFitException


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder with a train and a test split")
    parser.add_argument("--name", required=True, help="what the data set is called")
    parser.add_argument("--backbone", type=Path, required=True, help="folder that timm saved")
    parser.add_argument("--output", type=Path, required=True, help="the record")
    parser.add_argument("--image_size", type=int, default=160, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of fine_tune (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--max_batches", type=int, help="to try it: nothing is recorded")
    flags = parser.parse_args()
    if flags.output.is_file():
        print(f"{flags.output} is there already")
        return
    torch.set_num_threads(flags.threads)
    set_seed(flags.seed)
    with tempfile.TemporaryDirectory() as folder:
        train, test = (images_of(flags.dataset, split, Path(folder)) for split in ("train", "test"))
        record = measure(flags, train, test)
    if flags.max_batches is None:
        flags.output.parent.mkdir(parents=True, exist_ok=True)
        flags.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"fastai: trained in {record['seeds'][str(flags.seed)]['seconds']} s")


def measure(flags: argparse.Namespace, train: pandas.DataFrame, test: pandas.DataFrame) -> dict:
    """Fine-tune, predict, and give the record."""
    # fastai validates after each epoch and cannot do without; one image of the largest class costs nothing.
    largest = train["label"].value_counts().index[0]
    held_out = [int(train.index[train["label"] == largest][0])]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=ColReader("file"),
        get_y=ColReader("label"),
        splitter=IndexSplitter(held_out),
        item_tfms=Resize(flags.image_size),
        batch_tfms=aug_transforms(),
    )
    loaders = block.dataloaders(train, bs=64, num_workers=2)
    architecture = json.loads((flags.backbone / "config.json").read_text(encoding="utf-8"))["architecture"]
    weights = {"file": str(flags.backbone / "model.safetensors")}
    learner = vision_learner(loaders, architecture, pretrained_cfg_overlay=weights)
    start = time.perf_counter()
    learner.fine_tune(flags.epochs, cbs=[Stop(flags.max_batches)] if flags.max_batches else None)
    seconds = time.perf_counter() - start
    if flags.max_batches:
        test = test[: 64 * flags.max_batches]
    probabilities, _ = learner.get_preds(dl=loaders.test_dl(test))
    names = list(loaders.vocab)
    ids = {name: label for label, name in enumerate(names)}
    counts = train["label"].value_counts()
    result = {
        "seconds": round(seconds, 1),
        "predictions": " ".join(map(str, probabilities.argmax(1).tolist())),
    }
    return {
        "kind": "fine-tuned",
        "title": f"fastai {version('fastai')}, fine_tune({flags.epochs}), cross-entropy",
        "data": flags.name,
        "input": f"{flags.image_size} x {flags.image_size} pixels, cropped",
        "settings": {"epochs": flags.epochs, "batch": 64, "image_size": flags.image_size},
        # In the order and with the classes of fastai.
        "labels": " ".join(str(ids[label]) for label in test["label"]),
        "train_counts": " ".join(str(int(counts[name])) for name in names),
        "seeds": {str(flags.seed): result},
        "machine": {
            "system": platform.platform(),
            "threads": torch.get_num_threads(),
            "libraries": {name: version(name) for name in ("fastai", "torch", "timm")},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }


if __name__ == "__main__":
    main()

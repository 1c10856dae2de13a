"""Carve the package's built-in data set from CIFAR-100: every fifth class, 250 ... 5 training images each.

    python training/build_builtin_data.py FOLDER_OF_CIFAR100_PARQUET

The source is read as by `--dataset cifar100-lt --dataset_path`; images are kept byte for byte.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Features, Image, load_dataset

from paco_hf.data.long_tail import long_tailed_counts

OUT = Path(__file__).parent.parent / "paco_hf" / "data" / "builtin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    files = {split: str(source / f"{split}-*.parquet") for split in ("train", "test")}
    splits = load_dataset("parquet", data_files=files)
    kept = list(range(0, 100, 5))
    counts = long_tailed_counts(250, len(kept), 50)
    names = [splits["train"].features["fine_label"].names[c] for c in kept]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    for split, data in splits.items():
        labels = np.array(data["fine_label"])
        rows = []
        for new, (old, count) in enumerate(zip(kept, counts, strict=True)):
            members = np.flatnonzero(labels == old)
            if split == "train":
                ranks = np.array(data["rank"])[members]
                members = members[np.argsort(ranks)][:count]
            rows += [(int(i), new) for i in members]
        subset = data.select([i for i, _ in rows]).rename_column("img", "image").select_columns(["image"])
        subset = subset.add_column("label", [label for _, label in rows]).cast(features)
        subset.to_parquet(OUT / f"{split}.parquet")
        print(split, len(subset), (OUT / f"{split}.parquet").stat().st_size)


if __name__ == "__main__":
    main()

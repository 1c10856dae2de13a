"""What several verbs give, where processes are started by the method that is named first, in the folder named then."""

import hashlib
import json
import multiprocessing
import sys
from pathlib import Path

if __name__ == "__main__":
    method, folder = sys.argv[1], Path(sys.argv[2])
    multiprocessing.set_start_method(method)

    from paco_hf.cli import main

    small = ["--backbone", "cifar_resnet20", "--max_steps", "3", "--per_device_train_batch_size", "8", "--report"]
    small += ["false", "--precision", "fp32", "--dataloader_num_workers", "2", "--augment_backend", "pil"]
    frozen = ["--freeze_backbone", "true", "--feature_views", "2"]
    images, shards = str(folder.parent / "images"), str(folder / "shards")
    for words in (
        ["data", "prepare", images, "--out", shards],
        ["train", "--dataset", images, *small, "--output_dir", f"{folder}/files"],
        ["train", "--dataset", shards, "--streaming", "true", *small, "--output_dir", f"{folder}/stream"],
        ["train", "--dataset", images, *small, *frozen, "--output_dir", f"{folder}/frozen"],
        ["evaluate", f"{folder}/stream", "--output_dir", f"{folder}/scores"],
        ["predict", f"{folder}/files", images, "--batch_size", "8", "--output", f"{folder}/labels.csv"],
    ):
        assert main(words) == 0, words
    hashes = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("shards/*.parquet", "*/model.safetensors", "scores/*.csv", "labels.csv")
        for file in folder.glob(name)
    }
    scores = json.loads((folder / "scores" / "results.json").read_text(encoding="utf-8"))
    print(json.dumps({**hashes, "accuracy": scores["scores"]}))

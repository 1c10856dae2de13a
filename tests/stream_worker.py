"""Iterates the training data of a trainer over a prepared folder, and writes which images each batch held.

torchrun --nproc_per_node 2 tests/stream_worker.py FOLDER OUT WORKERS [SKIP]
"""

import sys
from pathlib import Path

import torch
from accelerate import skip_first_batches

from paco_hf import PaCoConfig, PaCoForImageClassification, PaCoTrainer, PaCoTrainingArguments
from paco_hf.data.loading import load_data
from paco_hf.data.samplers import EpochIndex, StreamSampler
from paco_hf.data.streaming.manifest import LANES

BATCH, BUFFER, EPOCHS = 4, 128, 2


class Places:
    """The streamed split as items: which image it is, and its first pixel as proof that it was read."""

    def __init__(self, split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: EpochIndex) -> dict:
        pixel = self.split.open(index).getpixel((0, 0))
        return {"labels": torch.tensor([int(index), index.epoch, self.split.labels[index], *pixel])}


def main(folder: str, out: Path, workers: int, skip: int = 0) -> None:
    split = load_data(folder, streaming=True, window=BUFFER).train
    args = PaCoTrainingArguments(
        output_dir=str(out / "run"),
        loss="ce",
        per_device_train_batch_size=BATCH,
        dataloader_num_workers=workers,
        precision="fp32",
        save_strategy="no",
    )
    model = PaCoForImageClassification(PaCoConfig(backbone="cifar_resnet20", num_labels=4, class_counts=[4, 3, 2, 1]))
    sampler = StreamSampler(split.groups, BATCH, LANES * args.world_size, BUFFER * args.world_size, seed=3)
    trainer = PaCoTrainer(model, args, train_dataset=Places(split), train_sampler=sampler)
    loader = trainer.get_train_dataloader()
    seen = []
    for epoch in range(EPOCHS):
        batches = skip_first_batches(loader, skip) if epoch == 0 and skip else loader
        # As the trainer does.
        batches.set_epoch(epoch)
        sampler.set_epoch(epoch)
        seen.append(torch.stack([batch["labels"] for batch in batches]))
    torch.save(
        {"world_size": args.world_size, "epochs": seen, "length": len(loader)}, out / f"rank{args.process_index}.pt"
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))

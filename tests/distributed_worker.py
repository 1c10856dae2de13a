"""Trains each case of `CASES` for a few steps in however many processes it was launched, and writes what each rank
holds.

python tests/distributed_worker.py OUT 8            one process, batches of 8
torchrun --nproc_per_node 2 tests/distributed_worker.py OUT 4
"""

import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from paco_hf import PaCoConfig, PaCoForImageClassification, PaCoTrainer, PaCoTrainingArguments
from paco_hf.data.augmentation.batched_transforms import BatchedView, BatchedViews
from paco_hf.data.torch_datasets import WholeImages
from paco_hf.utils.distributed import exchange_rows, gather_rows, restore_rows, world_size

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
CASES = {
    "gpaco_gathered": {"loss": "gpaco", "gather_batch": True},
    "multitask_gathered": {"loss": "multitask", "gather_batch": True},
    "gpaco": {"loss": "gpaco"},
    "paco": {"loss": "paco"},
    "paco_batchnorm": {"loss": "paco", "backbone": "test_resnet"},
    "ce": {"loss": "ce"},
    "balanced_softmax": {"loss": "balanced_softmax"},
}


class Images(torch.utils.data.Dataset):
    """`length` random images in two views; class 0 most often."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(length)
        self.views = torch.randn(2, length, 3, 32, 32, generator=generator)
        self.labels = (torch.rand(length, generator=generator) ** 2 * 5).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        query, key = self.views[:, index]
        return {"pixel_values": query, "key_pixel_values": key, "labels": int(self.labels[index])}


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: PaCoTrainer
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.queues: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *args, **kwargs) -> None:
        named = self.trainer.model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_step_end(self, *args, **kwargs) -> None:
        queue = getattr(self.trainer.model, "queue", None)
        if queue is not None:
            self.queues.append({name: tensor.clone() for name, tensor in queue.state_dict().items()})


def run(out: Path, batch: int, loss: str, gather_batch: bool = False, backbone: str = "vit_tiny_patch16_224") -> dict:
    torch.manual_seed(0)
    kwargs = VIT if backbone.startswith("vit") else {}
    config = PaCoConfig(
        backbone=backbone, backbone_kwargs=kwargs, num_labels=5, class_counts=[9, 7, 5, 3, 2], image_size=32
    )
    args = PaCoTrainingArguments(
        output_dir=str(out),
        loss=loss,
        gather_batch=gather_batch,
        precision="fp32",
        max_steps=4,
        queue_size=20,
        projection_dim=16,
        temperature=0.1,
        learning_rate=0.1,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )
    recorder = Recorder()
    trainer = PaCoTrainer(
        PaCoForImageClassification(config),
        args,
        train_dataset=Images(48),
        eval_dataset=Images(29),
        callbacks=[recorder],
    )
    recorder.trainer = trainer
    trainer.train()
    metrics = trainer.evaluate()
    images = Images(29)
    with torch.no_grad():
        alone = trainer.classifier.eval()(images.views[0]).logits.argmax(1).eq(images.labels).float().mean().item()
    return {
        "world_size": args.world_size,
        "losses": torch.tensor(
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], dtype=torch.float64
        ),
        "gradients": recorder.gradients,
        "queues": recorder.queues,
        "weights": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "accuracy_alone": alone,
        "metrics": {
            k: v
            for k, v in metrics.items()
            if k in ("eval_accuracy", "eval_balanced_accuracy", "eval_many", "eval_few")
        },
    }


def row_exchange() -> dict:
    """Rows of different number on each rank: shuffled, restored and gathered."""
    rank = torch.distributed.get_rank()
    rows = torch.arange(3 + rank).float()[:, None] + 10 * rank
    shuffled, order, start = exchange_rows(rows)
    return {
        "restored": torch.equal(restore_rows(shuffled, order, start), rows),
        "same_multiset": torch.equal(torch.cat(gather_rows(shuffled)).sort(0).values, torch.cat(gather_rows(rows))),
        "gathered": torch.cat(gather_rows(rows)).flatten().tolist(),
    }


def views(out: Path, batch: int) -> dict:
    """What a trainer sees of 16 images in two epochs, by epoch and image; the labels tell them apart."""
    pixels = torch.randint(256, (16, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    args = PaCoTrainingArguments(
        str(out), per_device_train_batch_size=batch, precision="fp32", save_strategy="no", dataloader_num_workers=0
    )
    trainer = PaCoTrainer(
        PaCoForImageClassification(PaCoConfig(backbone="cifar_resnet20", num_labels=16, class_counts=[1] * 16)),
        args,
        batched_views=BatchedViews([BatchedView(n, 32) for n in ("cifar_reg", "cifar_sim")], [0.5] * 3, [0.2] * 3),
        train_dataset=WholeImages(pixels.numpy(), range(16), seed=5),
    )
    loader, result = trainer.get_train_dataloader(), {}
    for epoch in range(2):
        trainer.train_sampler.set_epoch(epoch)
        for made in map(trainer.batched_views, loader):
            pairs = torch.stack([made["pixel_values"], made["key_pixel_values"]], 1)
            result |= {f"{epoch} {label}": pair for label, pair in zip(made["labels"].tolist(), pairs, strict=True)}
    return result


def main(out: Path, batch: int) -> None:
    results: dict = {name: run(out / name, batch, **case) for name, case in CASES.items()}
    results["views"] = views(out / "views", batch)
    if world_size() > 1:
        results["rows"] = row_exchange()
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

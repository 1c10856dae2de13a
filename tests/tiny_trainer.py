"""A model of few weights and a trainer of few steps, as the tests train them."""

from pathlib import Path

import torch
from distributed_worker import VIT, Images

from paco_hf import PaCoConfig, PaCoForImageClassification, PaCoTrainer, PaCoTrainingArguments

COUNTS = [9, 7, 5, 3, 2]
NARROW = {"channels": [8, 8, 16, 16]}  # for a ResNet of all its layers


def make_model(backbone: str = "vit_tiny_patch16_224", **fields) -> PaCoForImageClassification:
    torch.manual_seed(0)
    kwargs = VIT if backbone.startswith("vit") else NARROW if backbone == "resnet18" else {}
    fields = {"class_counts": COUNTS, "backbone_kwargs": kwargs, **fields}
    return PaCoForImageClassification(PaCoConfig(backbone=backbone, num_labels=5, image_size=32, **fields))


def make_trainer(
    folder: Path, model=None, images: int = 16, evaluate: int = 0, callbacks=None, **settings
) -> PaCoTrainer:
    settings = {
        "precision": "fp32",
        "max_steps": 1,
        "queue_size": 20,
        "projection_dim": 16,
        "temperature": 0.1,
        "learning_rate": 0.1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        **settings,
    }
    return PaCoTrainer(
        model or make_model(),
        PaCoTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=Images(images),
        eval_dataset=Images(evaluate) if evaluate else None,
        callbacks=callbacks,
    )


def weights(trainer: PaCoTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

"""States of the reference's full-size architectures, and what a converted model is compared by."""

import json

import pytest
import torch
from conftest import golden, golden_path, weight_by_rule

from paco_hf import PaCoForContrastiveTraining

FULL_SIZE = {
    "fullsize_paco_lt_resnet50": "checkpoint_paco_lt_resnet50_imagenetlt",
    "fullsize_gpaco_lt_resnext50_32x4d": "checkpoint_gpaco_lt_resnext50_32x4d_imagenetlt",
    "fullsize_gpaco_lt_resnext101_32x4d": "checkpoint_gpaco_lt_resnext101_32x4d_imagenetlt",
    "fullsize_gpaco_lt_resnet152": "checkpoint_gpaco_lt_resnet152_inat18",
    "fullsize_paco_full_resnet200": "checkpoint_paco_full_resnet200_imagenet",
    "fullsize_gpaco_mae_vit_base": "checkpoint_gpaco_mae_vit_base",
}


def outputs(model: PaCoForContrastiveTraining, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        images = images.to(model.dtype)
        features = model.paco(images).pooler_output
        return {
            "logits": model(images).logits,
            "features": features,
            "projection": torch.nn.functional.normalize(model.projector(features), dim=1),
        }


def full_size_state(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
    tensors, metadata = golden(f"{name}.safetensors")
    listing = json.loads(golden_path(f"{FULL_SIZE[name]}.json").read_text())["state_dict"]
    classes = int(metadata["num_classes"])
    state = {}
    for key, (shape, _) in listing.items():
        key = key.removeprefix("module.")
        if key.startswith(("encoder_k.", "linear_k.")):
            continue
        if key.split(".")[0] in ("linear", "head"):
            shape = [classes, *shape[1:]]
        state[key] = weight_by_rule(key, tuple(shape), classes)
    checksum = sum(tensor.double().sum().item() for tensor in state.values() if tensor.is_floating_point())
    assert checksum == pytest.approx(tensors["weight_checksum"].item(), abs=1e-6)
    return state, tensors, metadata

"""Load checkpoints by the code that lies beside them, where `paco_hf` is not installed, and compare what they give.

Run as a script, by whatever transformers and timm it finds; prints one line of JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline


def load(folder: Path, auto: Any = AutoModelForImageClassification, **kwargs: Any) -> Any:
    model = auto.from_pretrained(folder, trust_remote_code=True, **kwargs).eval()
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    return model


@torch.no_grad()
def differences(folder: Path) -> dict[str, float]:
    """The largest difference of each output of a checkpoint from that in `expected.pt`."""
    expected = torch.load(folder / "expected.pt")
    images = expected["images"]
    model = load(folder)
    outputs = {"logits": model(images).logits, "features": load(folder, AutoModel)(images).pooler_output}
    if model.config.abstention is not None:
        outputs["abstained"] = model(images).abstained
        assert len(model(images, return_dict=False)) == 1
    model.save_pretrained(folder / "again")
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    processor.save_pretrained(folder / "again")
    again = load(folder / "again")(images)
    outputs["logits again"] = again.logits
    if "abstained" in outputs:
        outputs["abstained again"] = again.abstained
    for name in ("photo", "square"):
        outputs[name] = processor([Image.open(folder / f"{name}.png")], return_tensors="pt")["pixel_values"]
    for source in (folder, folder / "again"):
        classify = pipeline("image-classification", model=str(source), trust_remote_code=True, top_k=100)
        scores = {best["label"]: best["score"] for best in classify(str(folder / "square.png"))}
        names = classify.model.config.id2label
        ordered = torch.tensor([scores[names[i]] for i in range(len(names))])
        outputs["scores" if source == folder else "scores again"] = ordered
    outputs["features again"] = new_head(folder).paco(images).pooler_output
    return {
        name: (tensor.float() - expected[name.removesuffix(" again")]).abs().max().item()
        for name, tensor in outputs.items()
    }


def new_head(folder: Path) -> Any:
    """The model with a head of other classes, which is fresh, after it was saved."""
    model = load(folder, num_labels=7, ignore_mismatched_sizes=True)
    weight = model.classifier.weight
    assert weight.shape[0] == 7
    assert 0 < weight.abs().max() <= weight.shape[1] ** -0.5
    assert [model.config.temperature, model.config.inference_prior, model.config.abstention] == [None] * 3
    model.save_pretrained(folder / "new")
    again = load(folder / "new")
    assert torch.equal(again.classifier.weight, weight)
    return again


if __name__ == "__main__":
    sys.modules["paco_hf"] = None  # type: ignore[assignment]  # as where the package is not installed
    found = {folder.name: differences(folder) for folder in map(Path, sys.argv[1:])}
    print(json.dumps({"versions": [transformers.__version__, timm.__version__], "differences": found}))

"""What the card of the form without code says, by what the checkpoint has that this form lacks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from paco_hf.reports.timm_card import adapt_card, check_adaptable

CARD = """---
license: mit
tags:
- timm
---

# x

## How to use it

With code.

### More

## Results

Fine.
"""
PLAIN = {"temperature": None, "inference_prior": None, "balanced_logits": True}


@pytest.mark.parametrize(
    ("fields", "linear", "wanted"),
    [
        ({}, None, "**Probabilities** are the checkpoint's."),
        ({"temperature": 1.5}, None, "its temperature, 1.5, is in the weights"),
        ({"abstention": {"threshold": 0.7}}, None, "**No abstention.**"),
        ({"inference_prior": [0.9, 0.1]}, None, "**Class frequencies are fixed.**"),
        (
            {"balanced_logits": False},
            None,
            "assume that classes are as frequent as in the training data. This form has no `set_prior`",
        ),
        ({}, True, "to the checkpoint's probabilities on these images, which it may have been trained on, and is in"),
        ({}, False, "The calibration error on them is 2.0%, that of the checkpoint 1.0%"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, fields: dict, linear: bool | None, wanted: str) -> None:
    file = tmp_path / "README.md"
    file.write_text(CARD)
    measured = {"same": 1999, "count": 2000, "images": "birds train", "temperature": 0.5, "errors": (0.01, 0.02)}
    copied = None if linear is None else SimpleNamespace(**measured, trained_on=linear)
    adapt_card(tmp_path, "ada/birds", SimpleNamespace(**{**PLAIN, **fields}), copied, 1e-5)
    card = ModelCard.load(file)
    words = " ".join(card.text.split())
    assert wanted in words
    assert ("No abstention" in words) == ("abstention" in fields)
    assert ("1,999 of 2,000 images, birds train" in words) == (linear is not None)
    assert 'timm.create_model("hf_hub:ada/birds", pretrained=True)' in words
    assert "With code" not in words
    assert "### More" not in card.text
    assert card.text.rstrip().endswith("## Results\n\nFine.")
    assert (card.data.library_name, card.data.license, card.data.tags) == ("timm", "mit", ["timm", "transformers"])


def test_a_card_without_its_section(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# x\n\n## Results\n")
    with pytest.raises(ValueError, match=r"README.md has no section '## How to use it'.*or remove the file"):
        check_adaptable(tmp_path)

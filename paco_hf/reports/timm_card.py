"""The card of a checkpoint in timm's form: the run's, with how this form is used and where it differs."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..runs.layout import CARD_NAME
from ..utils.files import read_text, write_text
from ..utils.versions import versions
from .html_page import templates

_USAGE = re.compile(r"^## How to use it\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# Of the limits of the checkpoint, what this form, which does not abstain, has instead.
_MARKED = "an image of another class gets one of them and is not always marked as abstained."
_EVERY = "every image gets one of them, even an image that shows none of them."
_SIGNATURE = re.compile(r"\n*<!-- as paco-hf wrote it: \w+ -->\s*\Z")  # of a card that is the run's, which this is not


def check_adaptable(folder: Path) -> None:
    """`ValueError` where the card in a folder has no section for [`adapt_card`] to replace."""
    if not _USAGE.search(read_text(folder / CARD_NAME)):
        raise ValueError(
            f"{CARD_NAME} has no section '## How to use it', in whose place would stand how the form without code is "
            "used: give it one, or remove the file, and a card is written"
        )


def adapt_card(folder: Path, repo_id: str, config: Any, linear: Any, tolerance: float) -> None:
    """Make the card in a folder that of the form without code; what else is in it stays.

    Args:
        folder (`Path`): has a card that `paco-hf card` wrote, perhaps edited.
        repo_id (`str`): `user/name`, for the examples.
        config ([`paco_hf.PaCoConfig`]): of the checkpoint.
        linear ([`paco_hf.workflows.linear_export.LinearCopy`], *optional*): what became of a cosine classifier.
        tolerance (`float`): to which the logits were compared.
    """
    file = folder / CARD_NAME
    usage = (
        templates()
        .get_template("timm_usage.md")
        .render(
            repo=repo_id,
            config=config,
            linear=linear,
            abstention=getattr(config, "abstention", None),
            versions=versions(),
            tolerance=f"{tolerance:.0e}",
        )
    )
    text = _USAGE.sub(lambda _: f"{usage.rstrip()}\n\n", _SIGNATURE.sub("\n", read_text(file)), count=1)
    text = text.replace(_MARKED, _EVERY)
    if linear:  # whose temperature is fitted
        text = text.replace("Its probabilities are not calibrated.\n", "")
    card: Any = ModelCard(text)
    card.data.library_name, card.data.pipeline_tag = "timm", "image-classification"
    card.data.tags = [*dict.fromkeys([*(card.data.tags or ()), "timm", "transformers"])]
    write_text(file, str(card))

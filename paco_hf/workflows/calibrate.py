"""A temperature, fitted and stored in a checkpoint."""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.images import Images
from ..evaluation.temperature import fit_temperature, temperature_warning
from ..inference.logits import balanced_logits
from ..models.configuration_paco import PaCoConfig
from ..utils.files import write_text


def store_temperature(model: str, images: Images, class_names: list[str], **inference: Any) -> str:
    """Fit a temperature on images that a checkpoint was not trained on, and store it in its `config.json`.

    Args:
        model (`str`): folder of the checkpoint.
        images ([`paco_hf.data.images.Images`]): a labeled split.
        class_names (`list`): of the classes of the images.
        **inference: arguments of [`balanced_logits`].

    Returns:
        a line about it.

    Raises:
        ValueError: as [`fit_temperature`] and [`balanced_logits`].
    """
    logits, labels, _ = balanced_logits([model], images, class_names, **inference)
    return store_fitted(model, logits, labels, f"images of {images.split.name}")


def store_fitted(model: str, logits: Any, labels: Any, source: str) -> str:
    """Fit a temperature on the logits of images that were not trained on, and store it in a `config.json`.

    Args:
        model (`str`): folder of the checkpoint.
        logits (`(N, C)`): without temperature and prior.
        labels (`(N,)`): classes of the images.
        source (`str`): what they are, such as `images of ...`, for the line.

    Returns:
        a line about it.
    """
    temperature = fit_temperature(logits, labels, PaCoConfig.from_pretrained(model).logit_counts)
    if PartialState().is_main_process:
        update_config(model, temperature=temperature)
    line = f"temperature {temperature:.3f}, from {len(labels)} {source}, stored in {model}"
    return "; ".join(filter(None, (line, temperature_warning(temperature, len(labels)))))


def update_config(model: str, **fields: Any) -> None:
    """Set fields of the configuration of a checkpoint in a folder."""
    config = PaCoConfig.from_pretrained(model)
    config.update(fields)
    config.check()
    write_text(Path(model) / "config.json", config.to_json_string())

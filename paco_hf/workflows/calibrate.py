"""A temperature, fitted and stored in a checkpoint."""

from pathlib import Path
from typing import Any

from ..evaluation.temperature import fit_temperature, temperature_warning
from ..models.abstention import thresholds_apply
from ..models.configuration_paco import PaCoConfig
from ..utils.files import write_text


def store_fitted(model: str, logits: Any, labels: Any, source: str) -> str:
    """Fit a temperature on the logits of images that were not trained on, and store it in a `config.json`; in the
    process alone that has these logits.

    Args:
        model (`str`): folder of the checkpoint.
        logits (`(N, C)`): without temperature and prior.
        labels (`(N,)`): classes of the images.
        source (`str`): what they are, such as `images of ...`, for the line.

    Returns:
        a line about it.

    Raises:
        ValueError: as [`fit_temperature`].
    """
    temperature = fit_temperature(logits, labels, PaCoConfig.from_pretrained(model).logit_counts)
    void = update_config(model, temperature=temperature)
    return "; ".join(filter(None, (fitted_line(model, temperature, len(labels), source), void)))


def fitted_line(model: str, temperature: float, images: int, source: str) -> str:
    """A line about a temperature.

    Args:
        model (`str`): folder of the checkpoint.
        temperature (`float`): of [`fit_temperature`].
        images (`int`): that it was fitted on.
        source (`str`): what they are.
    """
    line = f"temperature {temperature:.3f}, fitted on {images} {source}, stored in {model}"
    return "; ".join(filter(None, (line, temperature_warning(temperature, images))))


def update_config(model: str, **fields: Any) -> str:
    """Set fields of the configuration of a checkpoint in a folder.

    Returns:
        a line, where its thresholds on probabilities were for another temperature or prior; empty otherwise.
    """
    config = PaCoConfig.from_pretrained(model)
    config.update(fields)
    config.check()
    write_text(Path(model) / "config.json", config.to_json_string())
    if not (config.abstention or {}).get("thresholds") or thresholds_apply(config):
        return ""
    return (
        f"the thresholds for {config.abstention['target']} were chosen before and no longer apply: run paco-hf "
        f"evaluate {model} --abstain to choose new ones"
    )

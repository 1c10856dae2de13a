"""A checkpoint, of a folder or from the Hub."""

from pathlib import Path

from ..models.lora import ADAPTER_NAME
from ..models.modeling_paco import PaCoForImageClassification


def load_classifier(model: str | Path) -> PaCoForImageClassification:
    """A checkpoint, of a folder or from the Hub; `OSError` where it is neither."""
    try:
        return PaCoForImageClassification.from_pretrained(model)
    except OSError as error:
        if (Path(model) / ADAPTER_NAME).is_file():
            raise OSError(
                f"{model} has adapters without the weights that they adapt, to resume training from: the run's folder "
                "has the merged model"
            ) from error
        if Path(model).is_dir():
            raise
        raise OSError(
            f"{str(model)!r} is no local folder, and cannot be loaded from the Hub ({str(error).splitlines()[0]})"
        ) from error

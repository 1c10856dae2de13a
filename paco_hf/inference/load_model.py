"""A checkpoint, of a folder or from the Hub."""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor

from ..models.configuration_paco import PaCoConfig
from ..models.lora import ADAPTER_NAME
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.files import RESTORE, TIMM_FORM, readable
from ..utils.hub_commits import resolve_commit
from ..utils.hub_names import COMMIT, split_revision
from ..utils.memory import keep_freed_memory
from .forward import check_inference, inference_device


def hub_revision(model: str | Path) -> tuple[str | Path, dict[str, Any]]:
    """What `from_pretrained` takes for a model: its name, and of `user/name@revision` the commit as a keyword.

    Raises:
        ValueError: there is no such revision.
        OSError: the Hub cannot be reached, and the cache does not have it.
    """
    name, revision = split_revision(str(model))
    if revision is None:
        return model, {}
    commit = revision if COMMIT.fullmatch(revision) else resolve_commit(name, revision)
    return name, {"revision": commit or revision}


def load_config(model: str | Path) -> PaCoConfig:
    """The configuration of a checkpoint, of a folder or from the Hub; raises what [`hub_revision`] raises."""
    name, revision = hub_revision(model)
    config: PaCoConfig = PaCoConfig.from_pretrained(name, **revision)
    return config


def load_classifier(model: str | Path) -> PaCoForImageClassification:
    """A checkpoint, of a folder or from the Hub; `OSError` where it is neither, `ValueError` where it is damaged."""
    name, revision = hub_revision(model)
    try:
        if "pretrained_cfg" in PaCoConfig.get_config_dict(name, **revision)[0]:
            raise ValueError(f"{model} {TIMM_FORM}")
        return PaCoForImageClassification.from_pretrained(name, **revision)
    except OSError as error:
        if (Path(model) / ADAPTER_NAME).is_file():
            raise OSError(
                f"{model} contains only LoRA adapters, to resume training from: pass the run folder, which "
                "contains the merged model"
            ) from error
        if Path(model).is_dir():
            raise
        raise OSError(
            f"{str(model)!r} is not a local folder, and cannot be loaded from the Hub ({str(error).splitlines()[0]})"
        ) from error
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # Values of the configuration that cannot be have errors of any kind; a RuntimeError may be of memory.
        mismatched = "mismatched" in str(error)
        unforeseen = mismatched or not (isinstance(error, RuntimeError) or str(error).startswith(str(model)))
        if not Path(model).is_dir() or not unforeseen:
            raise
        reason = "a different shape" if mismatched else f"{type(error).__name__}: {str(error).partition('. ')[0]}"
        file = Path(model) / "config.json"
        raise ValueError(f"{file} is damaged, or does not match the model ({reason}): {RESTORE}") from error


def load_processor(model: str | Path) -> Any:
    """The image processor of a checkpoint, of a folder or from the Hub; `OSError` where its settings cannot be."""
    if not Path(model).is_dir():
        name, revision = hub_revision(model)
        return AutoImageProcessor.from_pretrained(name, **revision)
    with readable(Path(model) / "preprocessor_config.json", RESTORE):
        processor = AutoImageProcessor.from_pretrained(model)
        # No value is looked at before.
        if not processor(Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"].numel():
            raise ValueError(f"crop_size {processor.crop_size} leaves no pixels of an image")
    return processor


def load_for_inference(
    model_folder: str | Path, batch_size: int, precision: str
) -> tuple[PaCoForImageClassification, Any]:
    """A checkpoint, on the accelerator where there is one, and its image processor.

    Args:
        model_folder (path or `str`): run folder, checkpoint or Hub id.
        batch_size (`int`): images a batch.
        precision (`str`): as that of [`paco_hf.inference.forward.fast_forward`].

    Raises:
        ValueError: an empty batch, or a precision that cannot be had here.
        OSError: the checkpoint is neither a folder nor on the Hub.
    """
    check_inference(precision, batch_size)
    keep_freed_memory()
    model = load_classifier(model_folder).to(inference_device())
    return model, load_processor(model_folder)

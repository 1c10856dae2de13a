"""An ONNX file of `paco-hf export`, run by onnxruntime: as `predict` needs it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BitImageProcessor

from ..models.image_processing_paco import PaCoImageProcessor
from ..utils.files import check_file
from ..utils.hardware import available_cores
from ..utils.optional import optional_package
from .forward import check_inference
from .prediction import check_top, classify, read_prior

_ADVICE = "pass a file from `paco-hf export --to onnx`"


@dataclass(frozen=True)
class OnnxConfig:
    """What an ONNX file says of its model.

    Attributes:
        id2label (`dict`): the names of the classes.
        class_counts (list of `int`, *optional*): training images of each class.
        abstention (`None`): a file has no rule that is applied; that of its model is in its metadata.
    """

    id2label: dict[int, str]
    class_counts: list[int] | None = None
    abstention: None = None

    @property
    def num_labels(self) -> int:
        return len(self.id2label)


@dataclass(frozen=True)
class OnnxModel:
    """A session of onnxruntime, with what its file says of classes and images.

    Attributes:
        file (`Path`): the file.
        session (`onnxruntime.InferenceSession`): on the CPU.
        config ([`OnnxConfig`]): the classes.
        processor (`BitImageProcessor`): prepares the images.
    """

    file: Path
    session: Any
    config: OnnxConfig
    processor: Any

    @property
    def takes_prior(self) -> bool:
        """Whether class frequencies are an input."""
        return "prior" in [entry.name for entry in self.session.get_inputs()]

    def logits(self, pixels: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
        """`(B, C)` logits of normalized images.

        Args:
            pixels (`(B, 3, H, W)` `float32`): the images.
            prior (`(C,)` `float32`, *optional*): class frequencies, where they are an input (default: all alike).
        """
        inputs = {"pixel_values": pixels}
        if self.takes_prior:
            inputs["prior"] = np.ones(self.config.num_labels, np.float32) if prior is None else prior
        result: np.ndarray = self.session.run(["logits"], inputs)[0]
        return result

    def forward(self, frequencies: list[float] | None = None) -> Callable[[Tensor], Tensor]:
        """A function from images `(B, 3, H, W)` to logits `(B, C)`, for class frequencies (default: all alike)."""
        prior = None if frequencies is None else np.asarray(frequencies, np.float32)
        return lambda images: torch.from_numpy(self.logits(images.numpy(), prior))


def load_onnx(file: str | Path, threads: int | None = None) -> OnnxModel:
    """Open an ONNX file.

    Args:
        file (path): of [`paco_hf.conversion.export_onnx`], or one of its smaller forms.
        threads (`int`, *optional*): of onnxruntime (default: the cores that this process may use).

    Raises:
        ImportError: onnxruntime is not installed.
        OSError: there is no such file, or it cannot be read.
        ValueError: its metadata do not say what its classes and images are.
    """
    onnxruntime = optional_package("onnxruntime", "an ONNX file", "onnx")
    check_file(file, _ADVICE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their core
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a type for every kind of damage
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"{file} cannot be run by onnxruntime ({reason}): {_ADVICE}") from error
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        values = {key: json.loads(metadata[key]) for key in ("id2label", "preprocessing")}
        names = {int(label): str(name) for label, name in values["id2label"].items()}
        processor = image_processor(values["preprocessing"])
        counts = json.loads(metadata.get("class_counts", "null"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} has no metadata about its classes and preprocessing: {_ADVICE}") from error
    return OnnxModel(Path(file), session, OnnxConfig(names, counts), processor)


def image_processor(preprocessing: dict[str, Any]) -> BitImageProcessor:
    """The image processor that [`paco_hf.conversion.export_common.preprocessing_settings`] put in words."""
    kind = PaCoImageProcessor if preprocessing.get("pad_to_square") else BitImageProcessor
    side = preprocessing["crop_size"]
    return kind(
        size={"shortest_edge": preprocessing["shortest_edge"]},
        resample=Image.Resampling[preprocessing["resample"].upper()],
        crop_size={"height": side, "width": side},
        rescale_factor=preprocessing["rescale_factor"],
        image_mean=preprocessing["mean"],
        image_std=preprocessing["std"],
    )


def predict_onnx(
    file: str | Path, images: Any, top: int = 5, batch_size: int = 32, prior: str | None = None
) -> list[dict[str, Any]]:
    """[`paco_hf.inference.prediction.predict`] by an ONNX file.

    Args:
        file (path): as that of [`load_onnx`].
        images, top, batch_size: as those of `predict`.
        prior (`str`, *optional*): as that of `predict`; the file must have class frequencies as an input.

    Raises:
        ValueError: class frequencies, where they are no input; what `predict` raises.
        OSError, ImportError: what [`load_onnx`] raises.
    """
    check_inference("fp32", batch_size)
    check_top(top)
    model = load_onnx(file)
    frequencies = None
    if prior is not None:
        if not model.takes_prior:
            raise ValueError(
                f"--prior needs a file with class frequencies as an input, and {file} has none: export the run "
                "with --prior_input, or remove --prior"
            )
        frequencies = read_prior(prior, str(file), model.config)  # type: ignore[arg-type]
    forward = model.forward(frequencies)
    return classify(forward, model.config, model.processor, images, top=top, batch_size=batch_size)  # type: ignore[arg-type]

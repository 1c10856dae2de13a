"""Smaller forms of an ONNX file: float16 and int8, by onnxruntime's own tools."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.optional import optional_package
from .export_common import quiet_logging, short_text

# As transformers.js and Optimum look for them, in the folder `onnx`.
FORM_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx"}
INT8_KINDS = ("static", "dynamic")
_MATRICES = ["MatMul", "Gemm"]  # what dynamic quantization is fast for: onnxruntime has no fast dynamic convolution


def check_onnx_packages() -> None:
    """`ImportError` where a package that the forms are made with is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional_package(name, "exporting to ONNX", "onnx")


def write_fp16(source: Path, file: Path) -> None:
    """Write a file with weights and computation in float16; inputs and outputs stay float32.

    Args:
        source (`Path`): in float32.
        file (`Path`): to write.

    Raises:
        ValueError: onnxruntime cannot convert the model.
    """
    onnx = optional_package("onnx", "conversion to float16", "onnx")
    float16 = optional_package("onnxruntime.transformers.float16", "conversion to float16", "onnx")
    with _converted("float16"):
        model = onnx.load(source)
        halved = float16.convert_float_to_float16(model, keep_io_types=True)
        _save(halved, source, file)


def write_int8(source: Path, file: Path, kind: str, batches: Iterable[np.ndarray] = ()) -> None:
    """Write a file with weights in int8, a scale for each output channel.

    `static`: activations are int8 too, in ranges that they had on the batches. `dynamic`: matrix products alone, whose
    activations are scaled as they come.

    Args:
        source (`Path`): in float32.
        file (`Path`): to write.
        kind (`str`): `static` or `dynamic`.
        batches (iterable of `(B, 3, H, W)` arrays): normalized images, for `static`.

    Raises:
        ValueError: another kind, or onnxruntime cannot quantize the model.
    """
    if kind not in INT8_KINDS:
        raise ValueError(f"the kind of int8 must be static or dynamic, got {kind!r}")
    tools = optional_package("onnxruntime.quantization", "quantization", "onnx")
    shapes = optional_package("onnxruntime.quantization.shape_inference", "quantization", "onnx")
    prepared = file.with_name(f"{file.stem}.prepared.onnx")
    try:
        with _converted("int8"):
            # Batch normalization is folded into convolutions, which are then quantized as they are computed.
            shapes.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            if kind == "dynamic":
                _forget_shapes(prepared)
                tools.quantize_dynamic(str(prepared), str(file), op_types_to_quantize=_MATRICES, per_channel=True)
            else:
                reader = _reader(tools.CalibrationDataReader, iter(batches))
                tools.quantize_static(str(prepared), str(file), reader, per_channel=True)
            _save(optional_package("onnx", "quantization", "onnx").load(file), source, file)
    finally:
        prepared.unlink(missing_ok=True)


def _forget_shapes(file: Path) -> None:
    """Remove inferred shapes, which onnxruntime 1.22 keeps of weights that it then turns."""
    onnx = optional_package("onnx", "quantization", "onnx")
    model = onnx.load(file)
    del model.graph.value_info[:]
    onnx.save(model, file)


def _reader(base: type, batches: Iterator[np.ndarray]) -> Any:
    """Batches as onnxruntime asks for them."""

    class Reader(base):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {"pixel_values": batch}

    return Reader()


def _save(model: Any, source: Path, file: Path) -> None:
    """Write a model with the metadata of the one that it was made from."""
    onnx = optional_package("onnx", "conversion", "onnx")
    original = onnx.load(source, load_external_data=False)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in original.metadata_props})
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    onnx.save(model, file)


@contextmanager
def _converted(form: str) -> Iterator[None]:
    """What onnxruntime's tools say is not shown, and whatever they run into is a `ValueError` of one line."""
    level = logging.root.level
    try:
        with quiet_logging():
            logging.root.setLevel(logging.ERROR)
            yield
    except Exception as error:  # they raise whatever an operation runs into
        raise ValueError(f"onnxruntime cannot create the {form} form of this model: {short_text(error)}") from error
    finally:
        logging.root.setLevel(level)

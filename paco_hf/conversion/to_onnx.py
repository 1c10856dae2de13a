"""Checkpoints for those who have neither this package nor its code: timm's own format, and ONNX.

Either is written aside, loaded by what will load it (timm and transformers; onnxruntime), compared with the model, and
only then put in its place.
"""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_model_args
from torch import Tensor, nn
from transformers import BitImageProcessor

from .. import __version__
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.files import new_folder
from . import export_common as common

ONNX_TOLERANCE = 1e-4
_DYNAMIC = {0: "batch", 2: "height", 3: "width"}
_PROTOBUF_LIMIT = 2**31  # bytes in one file


@dataclass(frozen=True)
class OnnxExport:
    """What [`export_onnx`] wrote.

    Attributes:
        file (`Path`): the ONNX file. Its batch dimension is dynamic.
        dynamic_size (`bool`): whether height and width are dynamic, too.
        fixed_because (`str`, *optional*): why they are not.
        difference (`float`): the largest one between the logits of onnxruntime and of the model, relative to the
            largest logit.
    """

    file: Path
    dynamic_size: bool
    fixed_because: str | None
    difference: float


def export_onnx(
    model: PaCoForImageClassification,
    folder: str | os.PathLike,
    *,
    image_processor: BitImageProcessor | None = None,
    prior_input: bool = False,
    dynamic_size: bool = True,
) -> OnnxExport:
    """Write `model.onnx`, weights inside, and `preprocessor_config.json`.

    Input `pixel_values` `(batch, 3, height, width)`, output `logits` `(batch, C)`, all float32. Batch is dynamic;
    height and width are where the backbone takes other sizes (a ViT: multiples of its patch size), which the result
    says. `temperature` and `inference_prior` of the configuration apply as in the model. The metadata of the file
    are JSON: `id2label`, `preprocessing`, `backbone` and, where known, `class_counts` and `abstention`. The graph
    does not preprocess images: resize and normalize them and, if `preprocessing` has `pad_to_square`, pad them first.

    Args:
        model ([`PaCoForImageClassification`]): left as it is.
        folder (path): does not exist, or is empty.
        image_processor (`BitImageProcessor`, *optional*): as for [`export_timm`].
        prior_input (`bool`, *optional*, defaults to `False`): a second input `prior` `(C,)`: positive class
            frequencies of any scale. Scaled to sum 1, their log is added to the logits.
        dynamic_size (`bool`, *optional*, defaults to `True`): `False`: height and width are fixed.

    Returns:
        [`OnnxExport`].

    Raises:
        ImportError: where onnx, onnxscript or onnxruntime is not installed.
        ValueError: a backbone that cannot be exported; logits that are not finite, or differ by more than 1e-4 of the
            largest; a folder with something in it; `prior_input` where the configuration has an `inference_prior`.
            Nothing is written then.
    """
    _check(model, prior_input)
    processor = image_processor or common.default_processor(model)
    preprocessing = common.preprocessing_settings(processor)
    size, config = preprocessing["crop_size"], model.config
    metadata = {
        "id2label": dict(enumerate(common.label_names(model))),
        "preprocessing": preprocessing,
        "backbone": {"name": config.backbone, "kwargs": config.backbone_kwargs},
        "class_counts": config.class_counts,
        "abstention": config.abstention,
    }
    prior = 1 + torch.arange(float(config.num_labels)) if prior_input else None
    more = {"prior": prior} if prior is not None else {}
    with new_folder(folder) as made:
        file = made / "model.onnx"
        reference = common.reference_model(model)
        images = [common.random_images(batch, size, size) for batch in (1, 3)]
        cases = [(batch, common.model_logits(reference, batch, prior)) for batch in images]
        backbone, classifier = reference.paco.backbone, common.folded_classifier(reference)
        fixed_because = None if dynamic_size else "as requested"
        if dynamic_size:
            # The graph is made with wide images and compared with tall ones: neither side may have become a constant.
            wide, tall = common.random_images(2, size, 2 * size), common.random_images(1, 2 * size, size)
            try:
                graph = _Graph(_sizeless(backbone, wide), classifier)
                _write_onnx(file, graph, {"pixel_values": wide, **more}, _DYNAMIC, metadata)
                difference = _compare_onnx(file, [*cases, (tall, common.model_logits(graph, tall, prior))], more)
            except Exception as error:  # models and exporter fail in whatever operation comes first
                fixed_because = common.short_text(error)
        if fixed_because:
            try:
                graph = _Graph(backbone, classifier)
                _write_onnx(file, graph, {"pixel_values": images[1], **more}, {0: "batch"}, metadata)
                difference = _compare_onnx(file, cases, more)
            except Exception as error:
                why = common.short_text(error)
                raise ValueError(f"the backbone {config.backbone!r} cannot be exported to ONNX: {why}") from error
        processor.save_pretrained(made)
    return OnnxExport(Path(folder) / file.name, fixed_because is None, fixed_because, difference)


def _check(model: PaCoForImageClassification, prior_input: bool) -> None:
    """What can be said before anything is exported."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting to ONNX needs {' and '.join(missing)}: pip install 'paco-hf[onnx]'")
    if prior_input and model.config.inference_prior is not None:
        raise ValueError("the model has an inference_prior: call `model.set_prior(None)`, or remove prior_input")
    if prior_input and not model.config.balanced_logits:
        raise ValueError(
            "prior_input needs balanced logits, which a model trained without class prior does not have: export "
            "without it, after `model.set_prior(frequencies)` for a fixed prior"
        )
    weight_bytes = sum(4 * parameter.numel() for parameter in model.paco.parameters())
    if weight_bytes >= _PROTOBUF_LIMIT:
        raise ValueError(
            f"the weights take {weight_bytes / 2**30:.1f} GiB, but an ONNX file is limited to 2 GiB: export to timm"
        )


class _Graph(nn.Module):
    """What the ONNX file computes: `(B, 3, H, W)` images, and perhaps a prior `(C,)`, to `(B, C)` logits."""

    def __init__(self, backbone: Any, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.eval()

    def forward(self, pixel_values: Tensor, prior: Tensor | None = None) -> Tensor:
        hidden = self.backbone.forward_features(pixel_values)
        logits = self.classifier(self.backbone.forward_head(hidden, pre_logits=True))
        return logits if prior is None else common.logit_shift(logits, prior)


def _sizeless(backbone: Any, images: Tensor) -> nn.Module:
    """The backbone where it takes these images, of another size than its own; else a copy that does, if timm can."""
    try:
        with torch.no_grad():
            backbone(images)
    except Exception as error:
        try:
            arguments = {**get_model_args(backbone), "dynamic_img_size": True}
            copied = timm.create_model(backbone.pretrained_cfg["architecture"], **arguments)
            copied.load_state_dict(backbone.state_dict())
        except Exception:
            raise ValueError(f"the backbone accepts only one image size ({common.short_text(error)})") from error
        return copied
    return backbone


def _write_onnx(
    file: Path, graph: _Graph, inputs: dict[str, Tensor], dynamic: dict[int, str], metadata: dict[str, Any]
) -> None:
    shapes = {name: dynamic if name == "pixel_values" else {} for name in inputs}
    names: Any = {"input_names": list(inputs), "output_names": ["logits"]}
    with common.quiet_logging():
        program: Any = torch.onnx.export(
            graph, kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False, **names
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this computer
    program.model.producer_name, program.model.producer_version = "paco_hf", __version__
    program.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items() if value})
    program.save(file, external_data=False)


def _compare_onnx(file: Path, cases: list[tuple[Tensor, Tensor]], more: dict[str, Tensor]) -> float:
    """The largest difference over pairs of images and logits. `ValueError` above what is tolerated."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for images, expected in cases:
        inputs = {"pixel_values": images, **more}
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
        difference = common.largest_difference(expected, torch.from_numpy(logits))
        if not difference <= ONNX_TOLERANCE:
            raise ValueError(
                f"onnxruntime differs from the model by {difference:.1e} of the largest logit, for images of shape "
                f"{tuple(images.shape)}"
            )
        largest = max(largest, difference)
    return largest

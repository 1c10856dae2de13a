"""Checkpoints for those who have neither this package nor its code: timm's own format, and ONNX.

Either is written aside, loaded by what will load it (timm and transformers; onnxruntime), compared with the model, and
only then put in its place.
"""

import contextlib
import copy
import importlib.util
import io
import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.models import get_model_args, model_entrypoint, save_for_hf
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, BitImageProcessor

from . import __version__
from .modeling_paco import PaCoForImageClassification
from .preprocessing import build_processor
from .run_folder import new_folder

TIMM_TOLERANCE = 1e-5  # both relative to the largest logit
ONNX_TOLERANCE = 1e-4
_PROTOBUF_LIMIT = 2**31  # bytes in one file
_OTHER_ROUTES = (
    "The checkpoint itself loads where this package is installed (`import paco_hf`) or with `trust_remote_code=True`, "
    "and `paco-hf export --to onnx` needs neither"
)


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


def export_timm(
    model: PaCoForImageClassification, folder: str | os.PathLike, *, image_processor: BitImageProcessor | None = None
) -> Path:
    """Write a checkpoint that plain timm and plain transformers load: `timm.create_model("local-dir:FOLDER",
    pretrained=True)`, the Auto classes, `pipeline("image-classification", model=FOLDER)`.

    Weights are float32. A `temperature` and an `inference_prior` of the configuration are folded into the classifier,
    so the logits are the model's. transformers loads this image processor. timm's transform has other roundings: PIL's
    resizing differs by one of 255 levels in a few values of a hundred, and where the margins of the crop are odd,
    the crop may lie one pixel further to the right or down.

    Args:
        model ([`PaCoForImageClassification`]): left as it is.
        folder (path): does not exist, or is empty.
        image_processor (`BitImageProcessor`, *optional*): the checkpoint's. `None`: as a training run would make it
            for `config.image_size`, with the mean and standard deviation of the backbone in timm.

    Returns:
        `Path` of the folder.

    Raises:
        ValueError: a backbone that timm lacks, or whose classifier is not one linear layer; logits that are not
            finite, or differ by more than 1e-5 of the largest; a folder with something in it; an image processor
            that timm has no words for. Nothing is written then.
    """
    processor = image_processor or _default_processor(model)
    preprocessing = _preprocessing(processor)
    size = preprocessing["crop_size"]
    with new_folder(folder) as made:
        reference = _reference(model)
        images = _random_images(2, size, size)
        expected = _logits(reference, images)
        _save_native(_native(reference), made, _label_names(model), preprocessing)
        processor.save_pretrained(made)
        with _quiet():
            loaded = {
                "timm": timm.create_model(f"local-dir:{made}", pretrained=True).eval(),
                "transformers": AutoModelForImageClassification.from_pretrained(made),
            }
        for loader, other in loaded.items():
            difference = _difference(expected, _logits(other, images))
            if not difference <= TIMM_TOLERANCE:
                raise ValueError(
                    f"what {loader} loads differs from the model by {difference:.1e} of the largest logit. "
                    f"{_OTHER_ROUTES}"
                )
    return Path(folder)


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
    says. `temperature` and `inference_prior` of the configuration apply as in the model. The metadata of the file are
    JSON: `id2label`, `preprocessing`, `backbone` and, where known, `class_counts`.

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
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting to ONNX needs {' and '.join(missing)}: pip install 'paco-hf[onnx]'")
    config = model.config
    if prior_input and config.inference_prior is not None:
        raise ValueError(
            "the logits carry the configuration's inference_prior already: set it to None, or export without an "
            "input for the prior"
        )
    if prior_input and not config.balanced_logits:
        raise ValueError(
            "an input for the prior needs balanced logits, and those of a training without class prior are not: "
            "`model.set_prior` before exporting"
        )
    processor = image_processor or _default_processor(model)
    preprocessing = _preprocessing(processor)
    metadata = {
        "id2label": dict(enumerate(_label_names(model))),
        "preprocessing": preprocessing,
        "backbone": {"name": config.backbone, "kwargs": config.backbone_kwargs},
        "class_counts": config.class_counts,
    }
    size = preprocessing["crop_size"]
    prior = 1 + torch.arange(float(config.num_labels)) if prior_input else None
    with new_folder(folder) as made:
        file = made / "model.onnx"
        reference = _reference(model)
        weight_bytes = sum(4 * parameter.numel() for parameter in reference.paco.parameters())
        if weight_bytes >= _PROTOBUF_LIMIT:
            raise ValueError(f"{weight_bytes / 2**30:.1f} GiB of weights: one ONNX file holds less than 2 GiB")
        one, three = _random_images(1, size, size), _random_images(3, size, size)
        cases = [(images, _logits(reference, images, prior)) for images in (one, three)]
        backbone, classifier = reference.paco.backbone, _folded_classifier(reference)
        fixed_because = None if dynamic_size else "as asked for"
        if dynamic_size:
            # The graph is made with wide images and compared with tall ones: neither side may have become a constant.
            wide, tall = _random_images(2, size, 2 * size), _random_images(1, 2 * size, size)
            try:
                graph = _Graph(_sizeless(backbone, wide), classifier)
                _write_onnx(file, graph, wide, prior, {0: "batch", 2: "height", 3: "width"}, metadata)
                difference = _compare_onnx(file, [*cases, (tall, _logits(graph, tall, prior))], prior)
            except Exception as error:  # models and exporter fail in whatever operation comes first
                fixed_because = _short(error)
        if fixed_because:
            try:
                _write_onnx(file, _Graph(backbone, classifier), three, prior, {0: "batch"}, metadata)
                difference = _compare_onnx(file, cases, prior)
            except Exception as error:
                raise ValueError(
                    f"the backbone {config.backbone!r} cannot be exported to ONNX: {_short(error)}"
                ) from error
        processor.save_pretrained(made)
    return OnnxExport(Path(folder) / file.name, fixed_because is None, fixed_because, difference)


def _default_processor(model: PaCoForImageClassification) -> BitImageProcessor:
    statistics = resolve_data_config({}, model=model.paco.backbone)
    return build_processor(model.config.image_size, statistics["mean"], statistics["std"])


def _preprocessing(processor: BitImageProcessor) -> dict[str, Any]:
    """An image processor in words that need no transformers."""
    fields = processor.to_dict()
    crop = fields["crop_size"]
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    if "shortest_edge" not in fields["size"] or crop["height"] != crop["width"] or not all(map(fields.get, steps)):
        raise ValueError(
            "to be exported, the image processor must resize the shortest edge, cut a square from the centre and "
            f"normalise: got {fields}"
        )
    return {
        "shortest_edge": fields["size"]["shortest_edge"],
        "resample": Image.Resampling(fields["resample"]).name.lower(),
        "crop_size": crop["height"],
        "rescale_factor": fields["rescale_factor"],
        "mean": list(fields["image_mean"]),
        "std": list(fields["image_std"]),
    }


def _label_names(model: PaCoForImageClassification) -> list[str]:
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


def _reference(model: PaCoForImageClassification) -> Any:
    """A copy to compare with and to export: float32, on the CPU, in evaluation mode."""
    return copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()


def _folded_classifier(model: PaCoForImageClassification) -> nn.Linear:
    """The classifier, with the configuration's temperature and prior in its weights."""
    classifier = copy.deepcopy(model.classifier)
    with torch.no_grad():
        classifier.weight.div_(model.config.temperature or 1)
        classifier.bias.copy_(model.adjust_logits(classifier.bias))
    return classifier


def _native(model: PaCoForImageClassification) -> nn.Module:
    """The timm model with the weights of backbone and classifier."""
    backbone = model.paco.backbone
    architecture = backbone.pretrained_cfg["architecture"]
    if not model_entrypoint(architecture).__module__.startswith("timm."):
        raise ValueError(f"timm itself has no {architecture!r}. {_OTHER_ROUTES}")
    try:
        native = timm.create_model(
            architecture, **{**get_model_args(backbone), "num_classes": model.config.num_labels}
        ).eval()
        head = native.get_classifier()
        if not isinstance(head, nn.Linear):
            raise TypeError(f"its classifier is a {type(head).__name__}")
        (name,) = (name for name, module in native.named_modules() if module is head)
        weights = {f"{name}.{key}": tensor for key, tensor in _folded_classifier(model).state_dict().items()}
        native.load_state_dict({**backbone.state_dict(), **weights})
    except Exception as error:  # timm's models raise whatever they run into
        raise ValueError(
            f"timm's {architecture!r} cannot hold the model: it would need one linear layer on the pooled features "
            f"({_short(error)}). {_OTHER_ROUTES}"
        ) from error
    return native


def _save_native(native: nn.Module, folder: Path, label_names: list[str], preprocessing: dict[str, Any]) -> None:
    size = preprocessing["crop_size"]
    try:
        save_for_hf(
            native,
            str(folder),
            safe_serialization=True,
            # The second entry sends AutoImageProcessor to preprocessor_config.json, past timm's transform.
            model_config={"label_names": label_names, "image_processor_type": "BitImageProcessor"},
            data_config={
                "input_size": (3, size, size),
                "interpolation": preprocessing["resample"],
                "mean": preprocessing["mean"],
                "std": preprocessing["std"],
                # timm resizes to floor(size / crop_pct): the quotient must not fall short of the shortest edge.
                "crop_pct": math.nextafter(size / preprocessing["shortest_edge"], 0),
                "crop_mode": "center",
            },
        )
    except RuntimeError as error:  # safetensors takes no weights that two layers share
        raise ValueError(f"timm cannot save this model ({_short(error)}). {_OTHER_ROUTES}") from error
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["model_args"]["num_classes"]  # it is at the top as well, and transformers would pass both on
    for key in ("tag", "license", "origin_url", "paper_name", "paper_ids"):
        config["pretrained_cfg"].pop(key, None)  # what timm knows of its own weights
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class _Graph(nn.Module):
    """What the ONNX file computes: `(B, 3, H, W)` images, and perhaps a prior `(C,)`, to `(B, C)` logits."""

    def __init__(self, backbone: Any, classifier: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.eval()

    def forward(self, pixel_values: Tensor, prior: Tensor | None = None) -> Tensor:
        hidden = self.backbone.forward_features(pixel_values)
        logits = self.classifier(self.backbone.forward_head(hidden, pre_logits=True))
        return logits if prior is None else _shift(logits, prior)


def _shift(logits: Tensor, prior: Tensor) -> Tensor:
    return logits + (prior / prior.sum()).log()


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
            raise ValueError(f"the backbone takes one size only ({_short(error)})") from error
        return copied
    return backbone


def _write_onnx(
    file: Path,
    graph: _Graph,
    images: Tensor,
    prior: Tensor | None,
    dynamic: dict[int, str],
    metadata: dict[str, Any],
) -> None:
    inputs: dict[str, Tensor] = {"pixel_values": images} | ({} if prior is None else {"prior": prior})
    with _quiet():
        program: Any = torch.onnx.export(
            graph,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes={name: dynamic if name == "pixel_values" else {} for name in inputs},
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of whoever exports
    program.model.producer_name, program.model.producer_version = "paco_hf", __version__
    program.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items() if value})
    program.save(file, external_data=False)


def _compare_onnx(file: Path, cases: list[tuple[Tensor, Tensor]], prior: Tensor | None) -> float:
    """The largest difference over pairs of images and logits. `ValueError` above what is tolerated."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {} if prior is None else {"prior": prior.numpy()}
    largest = 0.0
    for images, expected in cases:
        (logits,) = session.run(["logits"], {"pixel_values": images.numpy(), **given})
        difference = _difference(expected, torch.from_numpy(logits))
        if not difference <= ONNX_TOLERANCE:
            raise ValueError(
                f"onnxruntime differs from the model by {difference:.1e} of the largest logit, for images of shape "
                f"{tuple(images.shape)}"
            )
        largest = max(largest, difference)
    return largest


def _random_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _logits(model: Any, images: Tensor, prior: Tensor | None = None) -> Tensor:
    try:
        with torch.no_grad():
            output = model(images)
    except Exception as error:  # timm's models assert, or fail in whatever operation comes first
        height, width = images.shape[2:]
        raise ValueError(f"the model cannot take images of {height} x {width} pixels ({_short(error)})") from error
    logits = output if isinstance(output, Tensor) else output.logits
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: is it the result of a training that diverged?")
    return logits if prior is None else _shift(logits, prior)


def _difference(expected: Tensor, actual: Tensor) -> float:
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual - expected).abs().max() / scale)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

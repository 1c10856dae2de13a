"""Classify images in files, folders, tables or datasets on the Hub."""

import gc
import json
import os
import sys
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

from .common import (
    OneLineParser,
    add_inference_flags,
    add_model_flag,
    add_tta_flag,
    add_unlabeled_flags,
    open_images,
    report_errors,
    selected,
)
from .inputs import COUNT, features_output, onnx_file, predictions_output, prior
from .launcher import NPROC_HELP, check_processes, world_size

_SETTINGS = "top batch_size precision prior tta"
_LONGEST = timedelta(days=30)  # that a process waits for the others
_NEED_OUTPUT = ("features", "suspects", "resume", "overwrite", "nproc")


def add_flags(parser: OneLineParser) -> None:
    add = parser.add_argument
    if not any(word.partition("=")[0] == "--onnx" for word in parser.words):
        add_model_flag(parser, help="run folder, checkpoint or Hub id; not with --onnx")
    elif models := [word for word in parser.words if (Path(word) / "config.json").is_file()]:
        raise ValueError(f"--onnx replaces the model argument: remove the flag, or {models[0]}")
    about = "ONNX file from `export` to use instead of a model, run by onnxruntime"
    add("--onnx", metavar="FILE", type=onnx_file, help=about)
    add_unlabeled_flags(parser)
    add("--split", metavar="NAME", help="split to read, if the data has several (default: all)")
    add("--top", type=COUNT, default=5, help="number of classes to list for each image (default: %(default)s)")
    add_inference_flags(parser, 32)
    add_tta_flag(parser)
    priors = (
        "class frequencies among these images: a file from estimate-prior; training: as in training; none: "
        "uniform (default: as stored in the model)"
    )
    add("--prior", metavar="FILE|training|none", type=prior, help=priors)
    add(
        "--json",
        action="store_true",
        help="print a JSON list of {file, label, score, top}, with abstained if the model abstains",
    )
    about = "write one row per image to a .csv, .jsonl or .parquet file instead of printing"
    add("--output", metavar="FILE", type=predictions_output, help=about)
    about = "with --output: also write the image features, (N, F) in float32, to a .npy file"
    add("--features", metavar="FILE", type=features_output, help=about)
    about = "with --output: for labeled images, also write the label, its probability, and whether it is suspect"
    add("--suspects", action="store_true", help=about)
    add("--label_column", help="with --suspects: column with the classes (default: detected)")
    add("--resume", action="store_true", help="resume an interrupted run of the same command")
    add("--overwrite", action="store_true", help="start over, discarding an interrupted --output")
    add("--nproc", type=int, metavar="N", help=f"with --output: {NPROC_HELP}")


def run(flags: Namespace) -> int:
    if flags.output:
        return _write(flags)
    if needless := next((name for name in _NEED_OUTPUT if getattr(flags, name)), None):
        raise ValueError(f"--{needless} needs --output: add --output FILE, or remove the flag")
    if (world_size() or 1) > 1:
        raise ValueError("several processes need --output: add --output FILE, or start one process")
    from ..inference.prediction import predict
    from ..utils.text import one_line

    if flags.onnx:
        if flags.precision != "fp32" or flags.tta != "none":
            raise ValueError(
                "an ONNX file has a fixed precision and no test-time augmentation: remove --precision and --tta"
            )
        from ..inference.onnx_model import predict_onnx

        results = predict_onnx(flags.onnx, open_images(flags, flags.split), **selected(flags, "top batch_size prior"))
    else:
        results = predict(flags.model, open_images(flags, flags.split), **selected(flags, _SETTINGS))
    if flags.json:
        print(json.dumps(results, indent=2))
    else:
        names = [one_line(result["file"]) for result in results]
        width = max(map(len, names))
        for name, result in zip(names, results, strict=True):
            best = "  ".join(f"{one_line(t['label'])} {t['score']:.3f}" for t in result["top"])
            best = f"(abstained)  {best}" if result.get("abstained") else best
            print(f"{name:<{width}}  {best or 'error: ' + result['error'].removeprefix(f'{name} ')}")
    return report_errors("predict", [result["error"] for result in results if "error" in result], len(results))


def _write(flags: Namespace) -> int:
    if flags.onnx:
        raise ValueError("--output supports runs and checkpoints, not ONNX files: remove --onnx")
    if flags.label_column and not flags.suspects:
        raise ValueError("--label_column needs --suspects: add it, or remove --label_column")
    if flags.json:
        raise ValueError("--json prints what --output writes: remove one of them")
    if os.path.realpath(flags.output) in map(os.path.realpath, flags.images):
        raise ValueError(f"--output would replace {flags.output}, which is also an input: use another file")
    from ..inference.prediction_folder import check_leftovers

    check_leftovers(flags.output, flags.resume, flags.overwrite)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_LONGEST)
    check_processes(state.num_processes)
    from ..inference.prediction_files import write_predictions
    from ..utils.distributed import leave_together

    settings = selected(flags, f"{_SETTINGS} features suspects resume overwrite")
    images = _open_labeled(flags) if flags.suspects else open_images(flags, flags.split)
    # What was imported stays. The processes that decode share it with this one while no collector looks through it.
    gc.collect()
    gc.freeze()
    written = write_predictions(flags.model, images, flags.output, **settings)
    leave_together()
    if written is None:
        return 0
    print(f"predictions of {written.images:,} images: {flags.output}")
    if flags.features:
        print(f"their features: {flags.features}")
    if flags.suspects:
        print(f"labels that are probably wrong: {written.suspects:,}")
    return report_errors("predict", [written.first_error] * (written.errors > 0), written.images, written.errors)


def _open_labeled(flags: Namespace) -> Any:
    """The images of a dataset with labels."""
    if len(flags.images) > 1:
        raise ValueError(f"--suspects reads one labeled dataset, got {len(flags.images)} paths: pass only one")
    from ..inference.batches import ImageFiles
    from ..inference.labeled_images import ImagesWithLabels

    options = selected(flags, "image_column label_column max_image_pixels")
    images = ImagesWithLabels(flags.images[0], flags.split, **options)
    for note in images.notes:
        print(f"note: {note}", file=sys.stderr)
    return ImageFiles(images, flags.strict)

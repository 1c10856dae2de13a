"""Classify image files, or all images in folders."""

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
        raise ValueError(f"--onnx takes the place of a model: leave out one of them, or {models[0]}")
    about = "in place of the model: an ONNX file of `export`, run by onnxruntime"
    add("--onnx", metavar="FILE", type=onnx_file, help=about)
    add_unlabeled_flags(parser)
    add("--split", metavar="NAME", help="of data with several splits the only one to read (default: all)")
    add("--top", type=COUNT, default=5, help="classes to list for each image (default: %(default)s)")
    add_inference_flags(parser, 32)
    add_tta_flag(parser)
    priors = (
        "how frequent the classes are among these images: a file of estimate-prior; training: as there; none: "
        "all alike (default: what is stored in the model)"
    )
    add("--prior", metavar="FILE|training|none", type=prior, help=priors)
    add(
        "--json",
        action="store_true",
        help="print a list of {file, label, score, top}, with abstained where the model had better not answer",
    )
    about = "write a row an image, as it goes, instead of printing: a .csv, .jsonl or .parquet file"
    add("--output", metavar="FILE", type=predictions_output, help=about)
    about = "with --output: also write the features of the images, (N, F) in float32, a .npy file"
    add("--features", metavar="FILE", type=features_output, help=about)
    about = "with --output: of images with labels, also write the label, its probability, and whether it is suspect"
    add("--suspects", action="store_true", help=about)
    add("--label_column", help="with --suspects: column of the classes (default: recognized)")
    add("--resume", action="store_true", help="go on where the same command was stopped, if it was")
    add("--overwrite", action="store_true", help="start anew where a former --output was stopped")
    add("--nproc", type=int, metavar="N", help=f"with --output: {NPROC_HELP}")


def run(flags: Namespace) -> int:
    if flags.output:
        return _write(flags)
    if needless := next((name for name in _NEED_OUTPUT if getattr(flags, name)), None):
        raise ValueError(f"--{needless} is about the file of --output: give --output FILE, or leave it out")
    if (world_size() or 1) > 1:
        raise ValueError("several processes write into one file: give --output FILE, or start one process")
    from ..inference.prediction import predict
    from ..utils.text import one_line

    if flags.onnx:
        if flags.precision != "fp32" or flags.tta != "none":
            raise ValueError(
                "an ONNX file has the precision of its weights, and sees images as they are: leave out --precision "
                "and --tta"
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
        raise ValueError("--output writes what a run or checkpoint predicts, not an ONNX file: leave out --onnx")
    if flags.label_column and not flags.suspects:
        raise ValueError("--label_column says which labels --suspects judges: give --suspects, or leave it out")
    if flags.json:
        raise ValueError("--json prints what --output writes: leave out one of the two")
    if os.path.realpath(flags.output) in map(os.path.realpath, flags.images):
        raise ValueError(f"--output would replace {flags.output}, which is to be read: give another file")
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
    """The images of a data set with labels."""
    if len(flags.images) > 1:
        raise ValueError(f"--suspects reads one data set with labels, got {len(flags.images)} paths: give one")
    from ..inference.batches import ImageFiles
    from ..inference.labeled_images import ImagesWithLabels

    options = selected(flags, "image_column label_column max_image_pixels")
    images = ImagesWithLabels(flags.images[0], flags.split, **options)
    for note in images.notes:
        print(f"note: {note}", file=sys.stderr)
    return ImageFiles(images, flags.strict)

# /// script
# requires-python = ">=3.11"
# dependencies = ["paco-hf>=0.1.0"]
# ///
"""Train a classifier on a folder of photos, evaluate it, and push it to the Hub if you ask for it.

    python train_on_folder.py photos
    python train_on_folder.py photos --backbone convnext_tiny --output_dir runs/larger
    python train_on_folder.py photos --push user/name

`photos` has a folder for each class, alone or below `train/`, `validation/` and `test/`. All other flags are passed on
to `paco-hf train`, for example `--max_steps 100`. The model, its card and the report are in the output folder.

Install paco_hf first, with `pip install .` in a checkout. The block at the top declares the dependency as PEP 723
says, for tools such as `uv run` and `pipx run`; these can install it once it is on a package index. The script is
tested with pip, and was not run with uv or pipx.
"""

import argparse
import json
import sys
from pathlib import Path

from paco_hf.cli import main as paco_hf


def worst_classes(run: Path, number: int) -> list[tuple[str, float]]:
    """Name and accuracy of the classes that the model recognizes least, on the test split if there is one."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    names = json.loads((run / "config.json").read_text(encoding="utf-8"))["id2label"]
    per_class = (metrics.get("test") or metrics.get("validation") or {}).get("per_class", [])
    scored = [(names[str(label)], score) for label, score in enumerate(per_class) if score is not None]
    return sorted(scored, key=lambda pair: pair[1])[:number]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="folder with a folder of images for each class")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm model (default: %(default)s)")
    parser.add_argument("--from_scratch", action="store_true", help="do not load pretrained weights")
    parser.add_argument("--output_dir", default="runs/folder", help="where the run is written (default: %(default)s)")
    parser.add_argument("--push", metavar="USER/NAME", help="push the model to this private repository")
    flags, others = parser.parse_known_args()

    command = ["train", "--dataset", flags.photos, "--backbone", flags.backbone, "--output_dir", flags.output_dir]
    if not flags.from_scratch:
        command += ["--pretrained"]
    if flags.push:  # a missing login is an error before the training starts
        command += ["--push_to_hub", "true", "--hub_model_id", flags.push, "--hub_private_repo", "true"]
    # An error is one line on standard error, and a status that is not 0.
    if status := paco_hf([*command, *others]):
        return status
    for name, accuracy in worst_classes(Path(flags.output_dir), 3):
        print(f"least recognized: {name}, accuracy {100 * accuracy:.1f}%")
    return 0


if __name__ == "__main__":
    sys.exit(main())

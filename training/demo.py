"""`make demo`: PaCo beside two baselines on the built-in images, then a few images through `transformers.pipeline`.

The three runs have the same epochs, batch and backbone: each method's own recipe, chosen on a validation split. Flags
of `paco-hf train` are passed on, such as `--num_train_epochs 10` or `--seed 1`.
"""

import json
import sys
from pathlib import Path

from transformers import pipeline

import paco_hf  # noqa: F401  registers the models for `pipeline`
from paco_hf.cli import main
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.losses import LOSSES

FOLDER = Path("runs/demo")
METHODS = {loss: LOSSES[loss].title for loss in ("paco", "balanced_softmax", "ce")}
COLUMNS = {"accuracy": "top-1", "many": "many", "medium": "medium", "few": "few"}


def demo() -> None:
    for loss, name in METHODS.items():
        print(f"\n=== {name} ===", flush=True)
        flags = ["--output_dir", str(FOLDER / loss), "--overwrite", *sys.argv[1:]]
        status = main(["train", "--loss", loss, *flags])
        if status != 0:
            sys.exit(status)

    print(
        "\nTest accuracy in percent, built-in data (20 classes, 250 to 5 training images, 2000 test images), one seed:"
    )
    print(f"{'':<18}" + "".join(f"{label:>9}" for label in COLUMNS.values()))
    for loss, name in METHODS.items():
        scores = json.loads((FOLDER / loss / "metrics.json").read_text())["test"]
        print(f"{name:<18}" + "".join(f"{100 * scores[column]:>9.1f}" for column in COLUMNS))

    print()
    runs = [str(FOLDER / loss) for loss in METHODS]
    main(["report", *runs, "--output", str(FOLDER / "comparison.html")])

    model = str(FOLDER / "paco")
    print(f'\npipeline("image-classification", model="{model}"):')
    test = load_data().test
    images = Images(test)
    names = load_data().class_names
    folder = FOLDER / "images"
    folder.mkdir(exist_ok=True)
    classify = pipeline("image-classification", model=model)
    for i in range(30, 2000, 300):
        file = folder / f"{names[test.labels[i]]}-{i}.png"
        images[i].save(file)
        guesses = ", ".join(f"{guess['label']} {guess['score']:.2f}" for guess in classify(str(file), top_k=3))
        print(f"  {names[test.labels[i]]:<9} {guesses}")
    print(f"\nThe same from the shell: paco-hf predict {model} {folder}")
    print(f"To look at in a browser: {model}/evaluation/report.html and {FOLDER}/comparison.html")


if __name__ == "__main__":
    demo()

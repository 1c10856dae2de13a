"""`make demo`: a published model answers, then PaCo and two baselines train on the built-in images and are compared.

The three runs have one network, the same epochs and the same batch: a budget of minutes, chosen on validation splits,
as each method's learning rate was (docs/performance.md has three seeds of it). Flags of `paco-hf train` are passed on
to the runs, such as `--num_train_epochs 10` or `--seed 1`.
"""

import argparse
import contextlib
import json
import sys
import time
import timeit
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100"
FOLDER = Path("runs/demo")
# One block a stage and half of ResNet-18's width: on these images a ninth of the time of CIFAR's ResNet-32.
SHAPE = {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256], "stem_type": "deep", "stem_width": 16}
NETWORK = ("--backbone", "resnet18", "--backbone_kwargs", json.dumps(SHAPE))
EPOCHS = 45
RATES = {"paco": "0.1", "balanced_softmax": "0.1", "ce": "0.2"}
# What the epochs and the stages beside them take, in times of the published model's pass through the test images.
SHARES, REST = {"paco": 36.0, "balanced_softmax": 21.0, "ce": 21.0}, {"training": 4.0, "comparison": 1.0}
COLUMNS = {"accuracy": "top-1", "many": "many", "medium": "medium", "few": "few"}


class Stages:
    """Announces each stage with the time that it will take."""

    def __init__(self, total: int) -> None:
        self.total, self.number, self.start = total, 0, time.monotonic()

    @contextlib.contextmanager
    def stage(self, what: str, seconds: float) -> Iterator[None]:
        self.number += 1
        print(f"\n=== {self.number} of {self.total}: {what} (about {max(seconds, 1):.0f} s) ===", flush=True)
        start = time.monotonic()
        yield
        now = time.monotonic()
        print(f"--- took {now - start:.0f} s; {now - self.start:.0f} s since the start", flush=True)


def demo(flags: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num_train_epochs", type=float, default=EPOCHS)
    budget, others = parser.parse_known_args(flags)
    epochs, stages = budget.num_train_epochs, Stages(5)
    print("paco_hf demo: loading PyTorch and transformers ...", flush=True)
    from paco_hf.cli import main
    from paco_hf.data.loading import load_data
    from paco_hf.losses import LOSSES
    from paco_hf.utils.console import quiet

    quiet()
    unit, images = answer(stages), len(load_data().train.labels)
    for loss, rate in RATES.items():
        title = LOSSES[loss].title
        seconds = unit * (SHARES[loss] * epochs / EPOCHS + REST["training"])
        with stages.stage(f"training with {title} on {images:,} images", seconds):
            folder = ["--output_dir", str(FOLDER / loss), "--overwrite"]
            rates = ["--learning_rate", rate, "--num_train_epochs", f"{epochs:g}"]
            succeed(main(["train", "--loss", loss, *NETWORK, *rates, *folder, *others]))
    with stages.stage("the runs beside one another, and a few images", REST["comparison"] * unit):
        compare()
        classify()
    print(f"\nTo look at in a browser: {FOLDER}/paco/evaluation/report.html and {FOLDER}/comparison.html")


def succeed(status: int) -> None:
    """End where a command has failed, which has said why."""
    if status != 0:
        sys.exit(status)


def answer(stages: Stages) -> float:
    """Classify the built-in test images with the published model.

    Returns:
        the seconds that it takes in the precision of training on this computer.
    """
    import torch

    from paco_hf.data.images import Images
    from paco_hf.data.loading import load_data
    from paco_hf.inference.batches import image_batches
    from paco_hf.inference.forward import fast_forward
    from paco_hf.inference.load_model import load_for_inference

    test = load_data().test
    images, names = Images(test), test.class_names
    model, processor = load_for_inference(PUBLISHED, 250, "fp32")
    sample = processor([images[i] for i in range(250)], return_tensors="pt")["pixel_values"]
    seconds = {}
    for precision in ("auto", "fp32"):
        forward = fast_forward(model, precision)
        forward(sample)  # prepares
        seconds[precision] = min(timeit.repeat(partial(forward, sample), number=1)) * len(images) / len(sample)
    what = f"the published CIFAR-100-LT model on the {len(images):,} built-in test images"
    with stages.stage(what, seconds["fp32"]):
        batches = image_batches(images, [processor], 250, "classifying")
        answers = torch.cat([forward(pixels) for (pixels,) in batches]).softmax(-1)
        for i in range(30, len(images), 500):
            best = answers[i].topk(3)
            guesses = ", ".join(
                f"{model.config.id2label[c]} {score:.2f}"
                for score, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
            print(f"  {names[test.labels[i]]:<9} {guesses}")
        labels = torch.tensor([model.config.label2id[names[label]] for label in test.labels])
        score = 100 * (answers.argmax(-1) == labels).float().mean().item()
        full = 100 * json.loads((PUBLISHED / "metrics.json").read_text(encoding="utf-8"))["test"]["accuracy"]
        source = (PUBLISHED / "metrics.json").relative_to(ROOT)
        print(f"top-1 among all {model.config.num_labels} classes, on the images of these {len(names)}: {score:.1f}%")
        print(f"on all 10,000 test images of CIFAR-100: {full:.1f}% ({source})")
    return seconds["auto"]


def compare() -> None:
    """A table of the runs, and the page of `paco-hf report`."""
    from paco_hf.cli import main
    from paco_hf.losses import LOSSES

    print("Test accuracy in percent, built-in data (20 classes, 250 to 5 training images, 2,000 to test), one seed:")
    print(f"{'':<18}" + "".join(f"{label:>9}" for label in COLUMNS.values()))
    for loss in RATES:
        scores = json.loads((FOLDER / loss / "metrics.json").read_text(encoding="utf-8"))["test"]
        print(f"{LOSSES[loss].title:<18}" + "".join(f"{100 * scores[column]:>9.1f}" for column in COLUMNS))
    print("Seeds differ by some points: docs/performance.md has three, with their spread.\n")
    succeed(main(["report", *(str(FOLDER / loss) for loss in RATES), "--output", str(FOLDER / "comparison.html")]))


def classify() -> None:
    """A few images through `transformers.pipeline`, which finds the model once `paco_hf` is imported."""
    from transformers import pipeline

    from paco_hf.data.images import Images
    from paco_hf.data.loading import load_data

    model, test = str(FOLDER / "paco"), load_data().test
    print(f'\npipeline("image-classification", model="{model}"):')
    images, folder = Images(test), FOLDER / "images"
    folder.mkdir(exist_ok=True)
    classifier = pipeline("image-classification", model=model)
    for i in range(30, len(images), 300):
        name = test.class_names[test.labels[i]]
        file = folder / f"{name}-{i}.png"
        images[i].save(file)
        guesses = ", ".join(f"{guess['label']} {guess['score']:.2f}" for guess in classifier(str(file), top_k=3))
        print(f"  {name:<9} {guesses}")
    print(f"The same from the shell: paco-hf predict {model} {folder}")


if __name__ == "__main__":
    demo(sys.argv[1:])

"""A class added from photos against training with it: the table of `docs/train.md`.

```
python -m benchmarks.new_class measure NAME RUN      # a run on a frozen backbone; benchmarks/new_class/NAME.json
python -m benchmarks.new_class table                 # of all records
```

Each class is left out in turn: the classifier is trained on the others with the settings of the run, and the class is
added from some of its training images, drawn anew three times. On the test split: how many images of the class are
recognized, and what the others lose, against the classifier without it and one that was trained with it.
"""

import argparse
import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from paco_hf import PaCoForImageClassification, PaCoTrainingArguments
from paco_hf.conversion.imprinting import Imprinter, common_direction
from paco_hf.data.images import Images
from paco_hf.data.torch_datasets import FeatureDataset
from paco_hf.inference.feature_cache import cached_features
from paco_hf.inference.features import Embeddings
from paco_hf.inference.load_model import load_for_inference
from paco_hf.metrics import GROUPS, shot_group
from paco_hf.runs.folder import RunFolder
from paco_hf.trainer.cross_validation import HeadSettings, train_head
from paco_hf.utils.files import write_text
from paco_hf.utils.hardware import one_thread
from paco_hf.workflows.evaluation_data import load_evaluation

from .machine import describe

RECORDS = Path(__file__).parent / "new_class"
DRAWS, IMAGES = 3, (5, 20, 0)  # 0: all
WAYS = {"images": "common direction from images", "centers": "from the centers", "none": "mean as it is"}


class Study:
    """Classifiers of a run on the features of its images, trained without a class."""

    def __init__(self, run: str) -> None:
        self.model, processor = load_for_inference(run, 64, "fp32")
        self.recipe, self.features, self.labels = RunFolder(run).recipe, {}, {}
        for role in ("train", "test"):
            split = load_evaluation(run, split=role)
            features, _ = cached_features(self.model.paco, processor, Images(split), 64, keep=True)
            self.features[role] = torch.from_numpy(features).float()
            self.labels[role] = torch.tensor(split.labels)
        self.counts = self.labels["train"].bincount()
        names = {field.name for field in dataclasses.fields(PaCoTrainingArguments)} - {"output_dir"}
        settings = {name: value for name, value in self.recipe.items() if name in names}
        self.args = PaCoTrainingArguments(output_dir="unused", **settings)

    def trained_on(self, classes: list[int]) -> PaCoForImageClassification:
        """The classifier of the run, trained on some of its classes, which are renumbered in their order."""
        config = copy.deepcopy(self.model.config)
        config.id2label = {i: config.id2label[c] for i, c in enumerate(classes)}
        config.label2id = {name: i for i, name in config.id2label.items()}
        config.class_counts, config.selection_counts = self.counts[classes].tolist(), None
        config.temperature = None  # of the run, which was fitted after its training
        torch.manual_seed(self.args.seed)
        model = PaCoForImageClassification(config, paco=self.model.paco)
        torch.nn.init.kaiming_uniform_(model.classifier.weight, 5**0.5)
        rows, labels = self.of(classes, "train")
        features = self.features["train"][rows]
        start = None
        if self.recipe.get("class_centers") == "means":
            start = Embeddings(features.numpy(), labels.numpy())
        head = HeadSettings(self.args.learning_rate, self.args.weight_decay, self.recipe["classifier_scale"])
        data = FeatureDataset([features[None].numpy()], labels.tolist(), self.args.spec.views)
        trained = train_head(model, self.args, data, head, start)
        made = PaCoForImageClassification(config, paco=self.model.paco)
        made.classifier.load_state_dict(trained.classifier.state_dict())
        return made.eval()

    def of(self, classes: list[int], role: str) -> tuple[Tensor, Tensor]:
        """Rows of the images of some classes, and their labels among these."""
        number = torch.full((len(self.counts),), -1)
        number[classes] = torch.arange(len(classes))
        labels = number[self.labels[role]]
        return (labels >= 0).nonzero()[:, 0], labels[labels >= 0]


@torch.no_grad()
def accuracy(model: PaCoForImageClassification, features: Tensor, labels: Tensor) -> float:
    return float((model.classifier(features).argmax(1) == labels).float().mean())


@torch.no_grad()
def added(way: str, model: PaCoForImageClassification, photos: Tensor, common: Tensor) -> Any:
    if way == "centers" and model.config.classifier == "linear":
        return None
    made = Imprinter(model, None if way == "centers" else common).with_class("new", photos)
    if way == "none":
        weight = made.classifier.weight
        mean = F.normalize(F.normalize(photos, dim=1).mean(0), dim=0)
        weight[-1] = mean * weight[:-1].norm(dim=1).mean()
    return made


def measure(flags: argparse.Namespace) -> None:
    study, rows = Study(flags.run), list[dict[str, Any]]()
    classes = list(range(len(study.counts)))
    test, test_labels = study.features["test"], study.labels["test"]
    with one_thread():
        whole = study.trained_on(classes)
        for left in tqdm(classes, desc="classes", disable=None):
            others = [c for c in classes if c != left]
            model = study.trained_on(others)
            old_rows, old_labels = study.of(others, "test")
            known, known_labels = study.of(others, "train")
            common = common_direction(study.features["train"][known], known_labels)
            photos = study.features["train"][study.labels["train"] == left]
            before = accuracy(model, test[old_rows], old_labels)
            base = {"class": left, "with_it": accuracy(whole, test[test_labels == left], torch.tensor(left))}
            base["others_with_it"] = accuracy(whole, test[old_rows], test_labels[old_rows])
            for k in IMAGES:
                for draw in range(DRAWS if 0 < k < len(photos) else int(k == 0)):
                    chosen = np.random.default_rng(draw).permutation(len(photos))[: k or None]
                    for way in WAYS:
                        if made := added(way, model, photos[chosen], common):
                            new = accuracy(made, test[test_labels == left], torch.tensor(len(others)))
                            change = accuracy(made, test[old_rows], old_labels) - before
                            rows.append(
                                {**base, "images": k, "way": way, "new": new, "others": change, "before": before}
                            )
    record = {"run": {name: study.recipe[name] for name in ("loss", "classifier")}, "counts": study.counts.tolist()}
    RECORDS.mkdir(exist_ok=True)
    content = json.dumps({**record, "rows": rows, "machine": describe()})  # a line: there are thousands of rows
    write_text(RECORDS / f"{flags.name}.json", content + "\n")
    print(table())


def table() -> str:
    lines = ["| classifier | images | made with | recognized (many, medium, few) | trained with it | the others |"]
    lines.append("|---|---|---|---|---|---|")
    for file in sorted(RECORDS.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        group = shot_group(np.asarray(record["counts"]))
        for k in IMAGES:
            for way, title in WAYS.items():
                rows = [row for row in record["rows"] if (row["images"], row["way"]) == (k, way)]
                if not rows:
                    continue
                mean = {
                    key: {
                        c: np.mean([row[key] for row in rows if row["class"] == c]) for c in {r["class"] for r in rows}
                    }
                    for key in ("new", "with_it", "others")
                }
                of_group = [[v for c, v in mean["new"].items() if group[c] == i] for i in range(len(GROUPS))]
                shown = ", ".join(f"{100 * np.mean(values):.1f}" if values else "-" for values in of_group)
                new, trained, others = (100 * np.mean(list(mean[key].values())) for key in mean)
                cells = (
                    f"{file.stem} | {k or 'all'} | {title} | {new:.1f} ({shown})",
                    f"{trained:.1f}",
                    f"{others:+.2f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.new_class", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table")
    more = verbs.add_parser("measure")
    more.add_argument("name")
    more.add_argument("run")
    flags = parser.parse_args()
    if flags.verb == "table":
        print(table())
    else:
        measure(flags)


if __name__ == "__main__":
    main()

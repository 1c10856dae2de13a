"""What classifiers of features are measured beside: two usual ones, and fine-tuning with `transformers.Trainer`."""

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification, Trainer, TrainingArguments

from paco_hf.metrics import unit_rows

from .pretrained_data import Measured
from .pretrained_records import result, write_record

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of logistic regression on standardized features
ITERATIONS = 1000


def baselines(flags: argparse.Namespace) -> None:
    """Nearest class mean, and scikit-learn's logistic regression, on the same features."""
    torch.set_num_threads(flags.threads)
    measured = Measured(flags)
    for name, measure in (("nearest-class-mean", _nearest_mean), ("logistic-regression", _logistic_regression)):
        file = measured.file(f"baseline-{name}")
        if not file.is_file():
            record = measure(measured)
            write_record(file, {"kind": "baseline", **measured.described, **record})
            print(f"{file.stem}: balanced {100 * record['seeds']['0']['balanced_accuracy']:.1f}", flush=True)


def _nearest_mean(measured: Measured) -> dict[str, Any]:
    start, unit = time.perf_counter(), unit_rows(measured.train.features)
    means = np.stack([unit[measured.train.labels == label].mean(0) for label in range(len(measured.counts))])
    seconds = time.perf_counter() - start
    predictions = (unit_rows(measured.test.features) @ unit_rows(means).T).argmax(1)
    results = {"0": result(predictions, measured.test.labels, measured.counts, seconds)}
    return {"title": "nearest class mean, cosine", "seeds": results}


def _logistic_regression(measured: Measured) -> dict[str, Any]:
    """C is that of the best balanced accuracy in cross-validation, as scikit-learn's folds have it."""
    features, labels = measured.train.features.astype(np.float32), np.asarray(measured.train.labels)
    folds = list(StratifiedKFold(measured.flags.folds, shuffle=True, random_state=0).split(features, labels))
    tried, start = {}, time.perf_counter()
    with tqdm(total=len(STRENGTHS) * len(folds), desc="logistic regression", unit=" fits", disable=None) as progress:
        for strength in STRENGTHS:
            scores, most = [], 0
            for train, held_out in folds:
                fitted = _fitted(features[train], labels[train], strength)
                scores.append(balanced_accuracy_score(labels[held_out], fitted.predict(features[held_out])))
                most = max(most, _iterations(fitted))
                progress.update()
            tried[strength] = {"balanced_accuracy": round(float(np.mean(scores)), 5), "iterations": most}
    best = max(tried, key=lambda strength: tried[strength]["balanced_accuracy"])
    chosen = time.perf_counter()
    fitted = _fitted(features, labels, best)
    seconds = time.perf_counter() - chosen
    predictions = fitted.predict(measured.test.features.astype(np.float32))
    return {
        "title": 'logistic regression, `class_weight="balanced"`, standardized features',
        "settings": {"class_weight": "balanced", "standardized": True, "max_iter": ITERATIONS},
        "tried": [{"C": strength, **scores} for strength, scores in tried.items()],
        "chosen": {"C": best, "iterations": _iterations(fitted), "converged": _iterations(fitted) < ITERATIONS},
        "cross_validation_seconds": round(chosen - start, 2),
        "seeds": {"0": result(predictions, measured.test.labels, measured.counts, seconds)},
    }


def _fitted(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=ITERATIONS)
    return make_pipeline(StandardScaler(), regression).fit(features, labels)


def _iterations(fitted: Any) -> int:
    return int(np.max(fitted[-1].n_iter_))


class _Transformed(torch.utils.data.Dataset):
    """Images of a split after a transform, as `transformers.Trainer` takes them."""

    def __init__(self, split: Any, transform: Any) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.transform(self.split.open(index)), "labels": self.split.labels[index]}


def fine_tune(flags: argparse.Namespace) -> None:
    """The whole network with `transformers.Trainer` and cross-entropy, as a script of a few lines has it."""
    torch.set_num_threads(flags.threads)
    measured = Measured(flags)
    for seed in flags.seeds:
        file = measured.file(f"trainer-seed{seed}")
        if file.is_file():
            continue
        record = _fine_tuned(measured, flags, seed)
        if flags.max_steps < 0:
            write_record(file, {"kind": "fine-tuned", "title": "transformers.Trainer, cross-entropy", **record})
        scores = record["seeds"][str(seed)]
        print(
            f"{file.stem}: balanced {100 * scores['balanced_accuracy']:.1f} in {scores['seconds']:.0f} s", flush=True
        )


def _fine_tuned(measured: Measured, flags: argparse.Namespace, seed: int) -> dict[str, Any]:
    size, classes = flags.image_size or measured.input.size, len(measured.class_names)
    processor = measured.input.processor
    ending = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    ending += [v2.Normalize(list(processor.image_mean), list(processor.image_std))]
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *ending])
    testing = v2.Compose([v2.Resize(round(size / 0.875)), v2.CenterCrop(size), *ending])
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            learning_rate=flags.learning_rate,
            num_train_epochs=flags.epochs,
            max_steps=flags.max_steps,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=128,
            warmup_steps=0.1,
            dataloader_num_workers=2,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            seed=seed,
        )
        torch.manual_seed(seed)  # the classifier is drawn before the trainer sets its seed
        # What timm wrote into `model_args` has the classes of the weights in it.
        config = AutoConfig.from_pretrained(flags.backbone, num_labels=classes, model_args={})
        model = AutoModelForImageClassification.from_pretrained(
            flags.backbone, config=config, ignore_mismatched_sizes=True
        )
        trainer = Trainer(model, settings, train_dataset=_Transformed(measured.checks.data.train, training))
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        predictions = trainer.predict(_Transformed(measured.test_images.split, testing)).predictions.argmax(-1)
    return {
        "input": f"{size} x {size} pixels, cropped",
        "settings": {"learning_rate": flags.learning_rate, "epochs": flags.epochs, "batch": 64, "image_size": size},
        "seeds": {str(seed): result(predictions, measured.test.labels, measured.counts, seconds)},
    }

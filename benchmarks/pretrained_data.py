"""A data set and the features that a pretrained backbone gives of it, read once for all measurements."""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from paco_hf.arguments.method_choice import choose_method
from paco_hf.arguments.parser import parse_run
from paco_hf.arguments.resolve import RunPlan, resolve
from paco_hf.models.modeling_paco import PaCoForImageClassification
from paco_hf.models.pretrained_backbones import find_backbone
from paco_hf.workflows.build import build_model
from paco_hf.workflows.choices import choose_input
from paco_hf.workflows.features import RunFeatures
from paco_hf.workflows.prepare_data import RunData, load_checked, split_data

from .pretrained_records import DATA_NAME, record_file, write_data


class Measured:
    """A data set with its features.

    Args:
        flags (`argparse.Namespace`): `dataset`, `name`, `backbone`, `image_size`, `image_fit`, `folds` and `records`.
    """

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        run, args = parse_run(self._arguments({}))
        self.backbone, self.checks = find_backbone(flags.backbone), load_checked(run, args)
        if self.checks.data.test is None:
            raise ValueError(f"--dataset {flags.dataset} has no test split, and the measurements are on one")
        self.input: Any = None
        self.data: RunData | None = None
        plan, data = self.plan()
        model = build_model(plan, data)
        plan, lines = choose_input(plan, data, model)
        self.input, self.class_names, self.test_images = plan.inputs[0], data.class_names, data.images["test"]
        features = RunFeatures(plan, data, model)
        self.train, self.test = features.plain("train"), features.plain("test")
        self.counts = data.division.data.class_counts
        self.described: dict[str, Any] = {"input": str(self.input), "folds": plan.folds}
        for line in [*lines, *features.lines]:
            print(line)
        file = record_file(Path(flags.records), flags.name, Path(DATA_NAME).stem)
        images = {"train": len(self.train.features), "test": len(self.test.features)}
        write_data(file, flags.name, self.counts, self.test.labels, images=images)
        self.described["features"] = features.lines

    def _arguments(self, settings: dict[str, Any]) -> list[str]:
        flags = self.flags
        given = {"image_size": flags.image_size, "image_fit": flags.image_fit, **settings}
        given |= {"dataset": flags.dataset, "backbone": flags.backbone, "cross_validation": flags.folds}
        # The folder of a run that does not take place.
        given |= {"freeze_backbone": True, "inspect": "none", "seed": 0}
        given["output_dir"] = Path(tempfile.gettempdir(), "-")
        return [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]

    def plan(self, **settings: Any) -> tuple[RunPlan, RunData]:
        """What the command would do with these settings, and its splits."""
        run, args = parse_run(self._arguments(settings))
        run, args, _ = choose_method(run, args, self.checks.data, self.backbone)
        if self.data is None:
            self.data = split_data(run, args, self.checks)
        # The splits are the same, whatever is trained on them.
        data = dataclasses.replace(self.data, run=run)
        plan = resolve(data.run, args, data.division, self.backbone)
        return (plan.with_input(self.input) if self.input else plan), data

    def model(self, plan: RunPlan, data: RunData, seed: int) -> tuple[RunPlan, PaCoForImageClassification]:
        """A classifier that is drawn from a seed, and the plan with that seed."""
        plan = dataclasses.replace(plan, args=plan.args.changed(seed=seed))
        return plan, build_model(plan, data)

    def file(self, name: str) -> Path:
        """The record of a measurement with this input."""
        fit = "-padded" if self.input.fit == "pad" else ""
        return record_file(Path(self.flags.records), self.flags.name, f"{name}-{self.input.size}{fit}")

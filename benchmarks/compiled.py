"""What compiled backbones save of a step, and what compiling takes: the table of `docs/performance.md`.

```
python -m benchmarks.compiled measure cifar_resnet32:32:128 resnet50:224:16    # benchmarks/compiled.json
python -m benchmarks.compiled table                                            # of the record
```

A case is a timm backbone, the side of its images and its batch, trained by PaCo: forward and backward passes of the
query's, and a forward pass of the key encoder's. Each is measured in two processes: the first compiles, the second
finds the code.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from paco_hf.utils.files import write_json

RECORD = Path(__file__).parent / "compiled.json"


def case(text: str) -> tuple[str, int, int]:
    """`NAME:SIDE:BATCH`."""
    name, side, batch = text.split(":")
    return name, int(side), int(batch)


def time_case(name: str, side: int, batch: int, precision: str) -> dict[str, Any]:
    """Times of the backbones, in this process, and how many layers they have."""
    from paco_hf import PaCoForImageClassification, PaCoTrainingArguments
    from paco_hf.trainer.compiled import BackboneTimer
    from paco_hf.trainer.training_model import training_model
    from paco_hf.utils.memory import keep_freed_memory
    from paco_hf.workflows.compilation import layers

    keep_freed_memory()
    model = PaCoForImageClassification.from_timm(name, num_labels=100, image_size=side)
    settings: dict[str, Any] = {"precision": precision, "per_device_train_batch_size": batch, "projection_dim": 32}
    with tempfile.TemporaryDirectory() as folder:
        args = PaCoTrainingArguments(output_dir=folder, queue_size=1024, use_cpu=True, **settings)
        timer = BackboneTimer(training_model(model, args), args, side)
        return {"layers": layers(timer.backbones[0]), **asdict(timer.compiled())}


def in_process(text: str, precision: str, folder: str) -> dict[str, Any]:
    """[`time_case`] in a process of its own, which keeps compiled code in `folder`."""
    command = [sys.executable, "-m", "benchmarks.compiled", "one", text, "--precision", precision]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure(flags: argparse.Namespace) -> None:
    from .machine import describe

    record: dict[str, Any] = {"machine": describe(), "cases": []}
    jobs = [(text, precision) for text in flags.cases for precision in flags.precision]
    for text, precision in tqdm(jobs, disable=None):
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (in_process(text, precision, folder) for _ in range(2))
        name, side, batch = case(text)
        times = {**warm, "compiling": cold["compiling"], "compiling_again": warm["compiling"]}
        record["cases"].append({"backbone": name, "side": side, "batch": batch, "precision": precision, **times})
        write_json(Path(flags.output), record)  # a later case may be stopped
    table(flags)


def table(flags: argparse.Namespace) -> None:
    record = json.loads(Path(flags.output).read_text(encoding="utf-8"))
    machine = record["machine"]
    print(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['libraries']['torch']}\n")
    columns = ("backbone", "pixels, batch", "", "layers", "eager, ms", "compiled, ms", "saved")
    print("|", " | ".join([*columns, "to compile, s", "a layer, s", "again, s"]), "|")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in record["cases"]:
        saved, layer = 1 - row["compiled"] / row["eager"], row["compiling"] / row["layers"]
        print(
            f"| `{row['backbone']}` | {row['side']}, {row['batch']} | {row['precision']} | {row['layers']} | "
            f"{1000 * row['eager']:.0f} | {1000 * row['compiled']:.0f} | {saved:.0%} | {row['compiling']:.0f} | "
            f"{layer:.1f} | {row['compiling_again']:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("measure", "table"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--output", default=str(RECORD), help="the record")
        if verb == "measure":
            sub.add_argument("cases", nargs="+", help="NAME:SIDE:BATCH")
            sub.add_argument("--precision", nargs="+", default=["bf16", "fp32"], choices=("bf16", "fp32"))
    one = verbs.add_parser("one")
    one.add_argument("case")
    one.add_argument("--precision", required=True)
    flags = parser.parse_args()
    if flags.verb == "one":
        print(json.dumps(time_case(*case(flags.case), flags.precision)))
    else:
        (measure if flags.verb == "measure" else table)(flags)


if __name__ == "__main__":
    main()

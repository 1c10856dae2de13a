"""The checkpoint folders of a run: which are complete, and what is wrong with one that cannot be read."""

import json
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from ..utils.files import readable


def list_checkpoints(folder: str | Path) -> list[Path]:
    """The complete `checkpoint-N` folders of a run, oldest first."""
    found = [p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def run_of(folder: Path) -> Path:
    """The run folder that a checkpoint lies in, where it does, else the folder itself."""
    run = folder.resolve().parent
    return (
        run if re.fullmatch(r"checkpoint-\d+", folder.resolve().name) and (run / "recipe.yaml").is_file() else folder
    )


def check_checkpoint(
    folder: Path, weights: str = "model.safetensors", process_index: int = 0, world_size: int = 1
) -> None:
    """Raise `OSError` where a checkpoint lacks a file that resuming exactly needs, or its state is no JSON."""
    suffix = f"_{process_index}" if world_size > 1 else ""
    for name in (weights, "optimizer.pt", "scheduler.pt", f"rng_state{suffix}.pth", TRAINER_STATE_NAME):
        made_with = len(list(folder.glob("rng_state*.pth")))
        if name.startswith("rng_state") and not (folder / name).is_file() and made_with:
            raise OSError(
                f"the checkpoint {folder} was made with {made_with} processes, but there are {world_size} now"
            )
        if not (folder / name).is_file():
            raise OSError(f"the checkpoint {folder} lacks {name}: resume from another one")
    with readable(folder / TRAINER_STATE_NAME):
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))

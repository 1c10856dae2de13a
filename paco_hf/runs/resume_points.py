"""What is wrong with a checkpoint that cannot be read."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from ..arguments.training_args import PaCoTrainingArguments
from ..utils.files import readable


def check_checkpoint(folder: Path, weights: str, args: PaCoTrainingArguments) -> dict[str, Any]:
    """Refuse a checkpoint that training cannot resume from exactly.

    Args:
        folder (`Path`): of the checkpoint.
        weights (`str`): name of the file with the weights.
        args (`PaCoTrainingArguments`): how many processes train, and which this one is.

    Returns:
        the trainer's state, such as its `global_step`.

    Raises:
        OSError: a file is missing, or cannot be read.
    """
    random_state = f"rng_state_{args.process_index}.pth" if args.world_size > 1 else "rng_state.pth"
    made_with = len(list(folder.glob("rng_state*.pth")))
    pickled = ("optimizer.pt", "scheduler.pt", random_state)
    for name in (weights, *pickled, TRAINER_STATE_NAME):
        if name == random_state and not (folder / name).is_file() and made_with:
            raise OSError(
                f"the checkpoint {folder} was made with {made_with} processes, but there are {args.world_size} now"
            )
        if not (folder / name).is_file():
            raise OSError(f"the checkpoint {folder} lacks {name}: resume from another one")
    for name in pickled:
        with readable(folder / name), safe_globals():
            torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
    with readable(folder / TRAINER_STATE_NAME):
        state: dict[str, Any] = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return state

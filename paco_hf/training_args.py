"""The module's former place, which the `training_args.bin` of older checkpoints names."""

from .arguments.training_args import PaCoTrainingArguments

"""Where the images of a run come from, and how they are divided into splits."""

from dataclasses import dataclass
from typing import Literal

from .fields import AT_LEAST_0, AT_LEAST_1, FRACTION, arg, check_ranges


@dataclass
class DataArguments:
    """The flags that choose and split the data; a field's help says what it does."""

    dataset: str = arg(
        "builtin",
        "builtin; imagenet, imagenet-lt, inat2018, places-lt, cifar100-lt, cifar10-lt, cifar100; a folder of class "
        "folders, parquet or tables; a CSV, TSV, JSON or parquet file; or the id of a data set on the Hub",
    )
    dataset_path: str | None = arg(
        None, "where a named data set lies: a folder of `paco-hf data prepare`, the official folders, parquet"
    )
    train_list: str | None = arg(None, "list of the training images (default: its official name in --dataset_path)")
    validation_list: str | None = arg(None, "likewise of the validation images")
    test_list: str | None = arg(None, "likewise of the test images")
    streaming: bool = arg(False, "read a prepared folder, or its address, shard by shard, shuffled in a buffer")
    shuffle_buffer: int = arg(
        4096, "encoded images of a process to shuffle among one another when streaming", AT_LEAST_1
    )
    image_column: str | None = arg(None, "column of the images (default: recognized)")
    label_column: str | None = arg(None, "column of the classes (default: recognized)")
    train_split: str | None = arg(None, "what your own data calls the split to train on (default: recognized)")
    validation_split: str | None = arg(None, "likewise the validation split")
    test_split: str | None = arg(None, "likewise the test split")
    inspect: bool | None = arg(
        None, "decode every image before training and look for duplicates, once (default: your own data)"
    )
    skip_undecodable: bool = arg(False, "leave out images of your own data that cannot be decoded")
    imbalance_factor: float = arg(100, "images of the most : least frequent class, for cifar*-lt")
    imbalance_kind: Literal["exp", "step", "pareto"] = arg("exp", "shape of the tail, for cifar*-lt")
    validation_fraction: float = arg(
        0.1,
        "share of the training images carved to select the model; 0: train on all, report the last epoch",
        FRACTION,
    )
    test_fraction: float | None = arg(
        None, "share of each class carved for the test where your own data has none (default: 0.2; 0: none)", FRACTION
    )
    split_seed: int = arg(0, "of the test carve, which does not follow --seed", AT_LEAST_0)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.skip_undecodable and self.inspect is False:
            raise ValueError("--skip_undecodable leaves out what --inspect finds: leave out --inspect false")

"""Where the images of a run come from, and how they are divided into splits."""

from typing import Annotated, Literal

from .fields import AT_LEAST_0, AT_LEAST_1, FRACTION, argument_table, check_ranges


@argument_table
class DataArguments:
    """The flags that choose and split the data.

    Args:
        dataset (`str`, *optional*, defaults to `"builtin"`): builtin; imagenet, imagenet-lt, inat2018, places-lt,
            cifar100-lt, cifar10-lt, cifar100; a folder of class folders, parquet or tables; a CSV, TSV, JSON or
            parquet file; or the id of a data set on the Hub
        dataset_path (`str`, *optional*): where a named data set lies: a folder of `paco-hf data prepare`, the official
            folders, parquet
        train_list (`str`, *optional*): list of the training images (default: its official name in --dataset_path)
        validation_list (`str`, *optional*): likewise of the validation images
        test_list (`str`, *optional*): likewise of the test images
        streaming (`bool`, *optional*, defaults to `False`): read a prepared folder, or its address, shard by shard,
            shuffled in a buffer
        shuffle_buffer (`int`, *optional*, defaults to `4096`): encoded images of a process to shuffle among one
            another when streaming
        image_column (`str`, *optional*): column of the images (default: recognized)
        label_column (`str`, *optional*): column of the classes (default: recognized)
        train_split (`str`, *optional*): what your own data calls the split to train on (default: recognized)
        validation_split (`str`, *optional*): likewise the validation split
        test_split (`str`, *optional*): likewise the test split
        inspect (`bool`, *optional*): decode every image before training and look for duplicates, once (default: your
            own data)
        skip_undecodable (`bool`, *optional*, defaults to `False`): leave out images of your own data that cannot be
            decoded
        imbalance_factor (`float`, *optional*, defaults to `100`): images of the most : least frequent class, for
            cifar*-lt
        imbalance_kind (`str`, *optional*, defaults to `"exp"`): shape of the tail, for cifar*-lt
        validation_fraction (`float`, *optional*, defaults to `0.1`): share of the training images carved to select the
            model; 0: train on all, report the last epoch
        test_fraction (`float`, *optional*): share of each class carved for the test where your own data has none
            (default: 0.2; 0: none)
        split_seed (`int`, *optional*, defaults to `0`): of the test carve, which does not follow --seed
    """

    dataset: str = "builtin"
    dataset_path: str | None = None
    train_list: str | None = None
    validation_list: str | None = None
    test_list: str | None = None
    streaming: bool = False
    shuffle_buffer: Annotated[int, AT_LEAST_1] = 4096
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    inspect: bool | None = None
    skip_undecodable: bool = False
    imbalance_factor: float = 100
    imbalance_kind: Literal["exp", "step", "pareto"] = "exp"
    validation_fraction: Annotated[float, FRACTION] = 0.1
    test_fraction: Annotated[float | None, FRACTION] = None
    split_seed: Annotated[int, AT_LEAST_0] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.skip_undecodable and self.inspect is False:
            raise ValueError("--skip_undecodable leaves out what --inspect finds: leave out --inspect false")

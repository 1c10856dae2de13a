"""The training settings of the method, and those of transformers whose defaults differ here. Loads no torch."""

from typing import Annotated, Literal

from ..losses.specs import DEFAULT_LOSS, LOSSES
from .fields import AT_LEAST_0, AT_LEAST_1, FACTOR, POSITIVE, SHARE, argument_table


@argument_table
class MethodArguments:
    """Settings of loss, optimizer and schedule that transformers does not have.

    Args:
        loss (`str`, *optional*, defaults to `"paco"`): what is trained: PaCo, GPaCo, its multi-task or one-view
            variant, or a baseline
        alpha (`float`, *optional*): weight of each positive (default: 0.05; multitask: of the contrastive part, 0.5)
        beta (`float`, *optional*, defaults to `1.0`): weight of an anchor's class center (paco, gpaco)
        gamma (`float`, *optional*, defaults to `1.0`): weight of the rows in the denominator (paco, gpaco)
        temperature (`float`, *optional*, defaults to `0.2`): divides the similarities of features
        supervised_temperature (`float`, *optional*, defaults to `1.0`): divides the class logits (paco, gpaco)
        class_prior (`bool`, *optional*, defaults to `True`): add the log of the class frequencies to the class logits
            in the loss (not ce)
        projection_dim (`int`, *optional*, defaults to `128`): width D of the projected features
        queue_size (`int`, *optional*, defaults to `8192`): length K of the queue of past keys; 0: none
        key_momentum (`float`, *optional*, defaults to `0.999`): momentum of the key encoder (paco)
        projector (`str`, *optional*, defaults to `"auto"`): projector; auto: mlp2-bn for paco, else mlp3-relu
            (mlp3-gelu on a ViT)
        gather_batch (`bool`, *optional*, defaults to `False`): contrast with the batches of all processes, not only
            the own
        momentum (`float`, *optional*, defaults to `0.9`): momentum of SGD
        nesterov (`bool`, *optional*, defaults to `False`): Nesterov momentum for SGD
        decay_all_parameters (`bool`, *optional*, defaults to `True`): weight decay on biases and norms too, as in the
            reference; false: the usual exclusions
        layer_decay (`float`, *optional*): factor of the learning rate from each layer of the backbone to the one below
            it, such as 0.65 (default: one rate for all)
        trainable_convolutions (`str`, *optional*): train only the convolutions under this part of the backbone, such
            as layer4.2
        epoch_schedule (`str`, *optional*, defaults to `"none"`): the reference's schedules: cosine and cifar_step, set
            once an epoch, and mae, set each step; none: --lr_scheduler_type, each step
        warmup_epochs (`int`, *optional*, defaults to `10`): warm-up of --epoch_schedule
        min_learning_rate (`float`, *optional*, defaults to `0.0`): where the schedule mae ends
        precision (`str`, *optional*, defaults to `"auto"`): auto: bf16 where the hardware has it, else fp32; the loss
            is always float32
        channels_last (`bool`, *optional*, defaults to `True`): keep images and weights in channels-last memory
    """

    loss: Annotated[str, {"choices": LOSSES.keys()}] = DEFAULT_LOSS
    alpha: float | None = None
    beta: float = 1.0
    gamma: float = 1.0
    temperature: Annotated[float, POSITIVE] = 0.2
    supervised_temperature: Annotated[float, POSITIVE] = 1.0
    class_prior: bool = True
    projection_dim: Annotated[int, AT_LEAST_1] = 128
    queue_size: Annotated[int, AT_LEAST_0] = 8192
    key_momentum: Annotated[float, SHARE] = 0.999
    projector: Literal["auto", "mlp2-bn", "mlp3-relu", "mlp3-gelu"] = "auto"
    gather_batch: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    decay_all_parameters: bool = True
    layer_decay: Annotated[float | None, FACTOR] = None
    trainable_convolutions: str | None = None
    epoch_schedule: Literal["none", "cosine", "cifar_step", "mae"] = "none"
    warmup_epochs: Annotated[int, AT_LEAST_0] = 10
    min_learning_rate: Annotated[float, AT_LEAST_0] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True


@argument_table
class ChangedDefaults:
    """Settings of `transformers.TrainingArguments` with other defaults.

    Args:
        optim (`str`, *optional*, defaults to `"sgd"`): optimizer, any that transformers knows
        learning_rate (`float`, *optional*, defaults to `0.02`): peak learning rate, for the whole batch
        weight_decay (`float`, *optional*, defaults to `5e-4`): weight decay
        per_device_train_batch_size (`int`, *optional*, defaults to `128`): training images a process and step
        per_device_eval_batch_size (`int`, *optional*, defaults to `256`): evaluation images a process and step
        num_train_epochs (`float`, *optional*, defaults to `100`): passes over the training images
        max_grad_norm (`float`, *optional*, defaults to `0.0`): clip gradients to this norm; 0: never
        lr_scheduler_type (`str`, *optional*, defaults to `"cosine"`): schedule where --epoch_schedule is none
        eval_strategy (`str`, *optional*, defaults to `"epoch"`): when to score the validation split
        save_strategy (`str`, *optional*, defaults to `"epoch"`): when to save a checkpoint: no, epoch or steps
        save_total_limit (`int`, *optional*, defaults to `1`): checkpoints to keep
        logging_strategy (`str`, *optional*, defaults to `"epoch"`): when to log: epoch or steps
        metric_for_best_model (`str`, *optional*, defaults to `"balanced_accuracy"`): validation metric that selects
            the model
        dataloader_num_workers (`int`, *optional*, defaults to `-1`): processes that decode and augment; -1: none for
            images kept in memory, else one a core, 8 at most
        dataloader_drop_last (`bool`, *optional*, defaults to `True`): drop a ragged last training batch
        remove_unused_columns (`bool`, *optional*, defaults to `False`): drop columns the model does not take
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`): of DistributedDataParallel
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): hide losses that are not finite
        report_to (`str`, *optional*, defaults to `"none"`): trackers, such as tensorboard
        hub_strategy (`str`, *optional*, defaults to `"end"`): end: a run is pushed once, when it is finished
        disable_tqdm (`bool`, *optional*): no progress bar (default: where there is no terminal)
    """

    optim: str = "sgd"
    learning_rate: Annotated[float, AT_LEAST_0] = 0.02
    weight_decay: Annotated[float, AT_LEAST_0] = 5e-4
    per_device_train_batch_size: Annotated[int, AT_LEAST_1] = 128
    per_device_eval_batch_size: Annotated[int, AT_LEAST_1] = 256
    num_train_epochs: float = 100
    max_grad_norm: float = 0.0
    lr_scheduler_type: str = "cosine"
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    logging_strategy: str = "epoch"
    metric_for_best_model: str | None = "balanced_accuracy"
    dataloader_num_workers: int = -1
    dataloader_drop_last: bool = True
    remove_unused_columns: bool | None = False
    ddp_find_unused_parameters: bool | None = False
    logging_nan_inf_filter: bool = False
    report_to: str = "none"
    hub_strategy: str = "end"
    disable_tqdm: bool | None = None


# Of transformers' own flags, those that `--help` shows; `--help_all` shows the rest.
COMMON_TRAINING_FLAGS = {
    *("output_dir", "num_train_epochs", "max_steps", "seed", "per_device_train_batch_size"),
    *("per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"),
    *("warmup_steps", "optim", "weight_decay", "max_grad_norm", "label_smoothing_factor", "eval_strategy"),
    *("save_strategy", "save_steps", "save_total_limit", "logging_strategy", "logging_steps"),
    *("dataloader_num_workers", "dataloader_drop_last", "metric_for_best_model", "report_to"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
}

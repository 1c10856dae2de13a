"""The training settings of the method, and those of transformers whose defaults differ here. Loads no torch."""

from typing import Annotated, Literal

from ..losses.specs import DEFAULT_LOSS, LOSSES
from .fields import AT_LEAST_0, AT_LEAST_1, FACTOR, FRACTION, POSITIVE, SHARE, argument_table

FOLLOW_SCORES = ("reduce_lr_on_plateau", "greedy")  # schedules that ask for scores of validation images
DEFAULT_METRIC = "balanced_accuracy"
# As transformers has it: the flag alone is `true`.
COMPILE_FLAG = {"nargs": "?", "const": "true", "metavar": "{auto,true,false}"}


@argument_table
class MethodArguments:
    """Method: loss, optimizer and schedule settings that transformers does not have.

    Args:
        loss (`str`, *optional*, defaults to `"paco"`): training objective: PaCo, GPaCo, its multi-task or single-view
            variant, or a baseline
        alpha (`float`, *optional*): weight of each positive (default: 0.05; multitask: weight of the contrastive term,
            0.5)
        beta (`float`, *optional*, defaults to `1.0`): weight of an anchor's class center (paco, gpaco)
        gamma (`float`, *optional*, defaults to `1.0`): weight of the features in the denominator (paco, gpaco)
        temperature (`float`, *optional*, defaults to `0.2`): temperature of the feature similarities
        supervised_temperature (`float`, *optional*, defaults to `1.0`): temperature of the class logits (paco, gpaco)
        class_prior (`bool`, *optional*, defaults to `True`): add the log of the class frequencies to the class logits
            in the loss (not for ce)
        projection_dim (`int`, *optional*, defaults to `128`): dimension D of the projected features
        queue_size (`int`, *optional*, defaults to `8192`): length K of the queue of past keys; 0: no queue
        key_momentum (`float`, *optional*, defaults to `0.999`): momentum of the key encoder (paco)
        projector (`str`, *optional*, defaults to `"auto"`): architecture of the projector; auto: mlp2-bn for paco,
            else mlp3-relu (mlp3-gelu on a ViT)
        gather_batch (`bool`, *optional*, defaults to `False`): contrast against the batches of all processes, not only
            the process's own
        momentum (`float`, *optional*, defaults to `0.9`): SGD momentum
        nesterov (`bool`, *optional*, defaults to `False`): use Nesterov momentum with SGD
        decay_all_parameters (`bool`, *optional*, defaults to `True`): apply weight decay to biases and norm layers,
            too, as the reference implementation does; false: exclude them
        layer_decay (`float`, *optional*): factor of the learning rate from each backbone layer to the one below it,
            such as 0.65 (default: no decay)
        head_learning_rate (`float`, *optional*): learning rate of classifier and projector; --learning_rate then
            applies to the backbone (default: one rate for both; on your own data, 10 times the backbone's when
            fine-tuning with SGD)
        trainable_convolutions (`str`, *optional*): train only the convolutions in this part of the backbone, such as
            layer4.2
        epoch_schedule (`str`, *optional*, defaults to `"none"`): schedules of the reference implementation: cosine and
            cifar_step (updated once per epoch), mae (every step); none: --lr_scheduler_type (every step)
        warmup_epochs (`int`, *optional*, defaults to `10`): warmup epochs of --epoch_schedule
        min_learning_rate (`float`, *optional*, defaults to `0.0`): final learning rate of the mae schedule
        precision (`str`, *optional*, defaults to `"auto"`): auto: bf16 if the hardware supports it, else fp32; the
            loss is always computed in float32
        channels_last (`bool`, *optional*, defaults to `True`): use the channels-last memory format
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
    momentum: Annotated[float, FRACTION] = 0.9
    nesterov: bool = False
    decay_all_parameters: bool = True
    layer_decay: Annotated[float | None, FACTOR] = None
    head_learning_rate: Annotated[float | None, AT_LEAST_0] = None
    trainable_convolutions: str | None = None
    epoch_schedule: Literal["none", "cosine", "cifar_step", "mae"] = "none"
    warmup_epochs: Annotated[int, AT_LEAST_0] = 10
    min_learning_rate: Annotated[float, AT_LEAST_0] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True


@argument_table
class CommonArguments:
    """Training: common settings of `transformers.TrainingArguments`, some with different defaults.

    Args:
        output_dir (`str`, *optional*, defaults to `"trainer_output"`): run folder (default of `train`:
            runs/LOSS-DATASET)
        num_train_epochs (`float`, *optional*, defaults to `100`): number of training epochs
        max_steps (`int`, *optional*, defaults to `-1`): number of optimizer steps, overrides the epochs; -1: use the
            epochs
        seed (`int`, *optional*, defaults to `42`): seed of weights, image order, views and validation split
        per_device_train_batch_size (`int`, *optional*, defaults to `128`): training batch size per process
        per_device_eval_batch_size (`int`, *optional*, defaults to `64`): evaluation batch size per process
        gradient_accumulation_steps (`int`, *optional*, defaults to `1`): batches to accumulate gradients over before
            each optimizer step
        learning_rate (`float`, *optional*, defaults to `0.02`): peak learning rate, for the global batch
        lr_scheduler_type (`str`, *optional*, defaults to `"cosine"`): scheduler used with --epoch_schedule none
        warmup_steps (`float`, *optional*, defaults to `0`): linear warmup of --lr_scheduler_type; below 1: a fraction
            of all steps
        optim (`str`, *optional*, defaults to `"sgd"`): optimizer, any that transformers supports (default on your own
            data, when fine-tuning a transformer or ConvNeXt: adamw_torch with layer-wise decay)
        weight_decay (`float`, *optional*, defaults to `5e-4`): weight decay
        max_grad_norm (`float`, *optional*, defaults to `0.0`): maximum gradient norm for clipping; 0: no clipping
        label_smoothing_factor (`float`, *optional*, defaults to `0.0`): label smoothing
        eval_strategy (`str`, *optional*, defaults to `"epoch"`): when to evaluate the validation split: no, epoch or
            steps
        save_strategy (`str`, *optional*, defaults to `"epoch"`): when to save a checkpoint: no, epoch or steps
        save_steps (`float`, *optional*, defaults to `500`): steps between checkpoints; below 1: a fraction of all
            steps
        save_total_limit (`int`, *optional*, defaults to `1`): number of checkpoints to keep
        logging_strategy (`str`, *optional*, defaults to `"epoch"`): when to log: epoch or steps
        logging_steps (`float`, *optional*, defaults to `500`): steps between log lines; below 1: a fraction of all
            steps
        metric_for_best_model (`str`, *optional*, defaults to `"balanced_accuracy"`): validation metric for model
            selection
        dataloader_num_workers (`int`, *optional*, defaults to `-1`): data loader processes; -1: 0 for images kept in
            memory, else one per core, at most 8
        dataloader_drop_last (`bool`, *optional*, defaults to `True`): drop the last incomplete training batch
        torch_compile (`bool`, *optional*, defaults to `"auto"`): compile the backbones for training: true, false, or
            auto: on a CPU, if it saves more than twice the time that compiling takes
        report_to (`str`, *optional*, defaults to `"none"`): experiment trackers, such as tensorboard
        push_to_hub (`bool`, *optional*, defaults to `False`): push the finished run to the Hub
        hub_model_id (`str`, *optional*): user/name on the Hub (default: the name of the run folder, in your namespace)
        hub_private_repo (`bool`, *optional*): make the repository private (default: the Hub's setting)
    """

    output_dir: str = "trainer_output"
    num_train_epochs: float = 100
    max_steps: int = -1
    seed: Annotated[int, AT_LEAST_0] = 42
    per_device_train_batch_size: Annotated[int, AT_LEAST_1] = 128
    per_device_eval_batch_size: Annotated[int, AT_LEAST_1] = 64
    gradient_accumulation_steps: Annotated[int, AT_LEAST_1] = 1
    learning_rate: Annotated[float, AT_LEAST_0] = 0.02
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0
    optim: str = "sgd"
    weight_decay: Annotated[float, AT_LEAST_0] = 5e-4
    max_grad_norm: Annotated[float, AT_LEAST_0] = 0.0
    label_smoothing_factor: Annotated[float, FRACTION] = 0.0
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_steps: Annotated[float, POSITIVE] = 500
    save_total_limit: Annotated[int | None, AT_LEAST_0] = 1
    logging_strategy: str = "epoch"
    logging_steps: float = 500
    metric_for_best_model: str | None = DEFAULT_METRIC
    dataloader_num_workers: int = -1
    dataloader_drop_last: bool = True
    torch_compile: Annotated[Literal["auto", "true", "false", True, False], COMPILE_FLAG] = "auto"
    report_to: str = "none"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None


@argument_table
class ChangedDefaults:
    """Other settings of `transformers.TrainingArguments` with different defaults or with a range check.

    Args:
        remove_unused_columns (`bool`, *optional*, defaults to `False`): drop columns that the model does not take
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`): option of DistributedDataParallel
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): hide losses that are not finite
        log_level_replica (`str`, *optional*, defaults to `"passive"`): log level of all processes but the first;
            passive: the same as the first
        hub_strategy (`str`, *optional*, defaults to `"end"`): end: push a run once, when it is finished
        disable_tqdm (`bool`, *optional*): disable progress bars (default: if there is no terminal)
        data_seed (`int`, *optional*): seed of the image order (default: --seed)
        dataloader_prefetch_factor (`int`, *optional*): batches that each data loader process loads in advance
            (default: 2)
        eval_accumulation_steps (`int`, *optional*): evaluation batches whose logits stay on the device (default: all)
    """

    remove_unused_columns: bool | None = False
    ddp_find_unused_parameters: bool | None = False
    logging_nan_inf_filter: bool = False
    log_level_replica: str = "passive"
    hub_strategy: str = "end"
    disable_tqdm: bool | None = None
    data_seed: Annotated[int | None, AT_LEAST_0] = None
    dataloader_prefetch_factor: Annotated[int | None, AT_LEAST_1] = None
    eval_accumulation_steps: Annotated[int | None, AT_LEAST_1] = None

"""`PaCoTrainer`: PaCo, GPaCo and the baselines on `transformers.Trainer`."""

import datetime
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, ProgressCallback, default_data_collator, set_seed

from ..arguments.method_arguments import DEFAULT_METRIC
from ..arguments.training_args import PaCoTrainingArguments
from ..data.samplers import EpochSampler
from ..losses.functional import LossTerms
from ..losses.modules import LossModule
from ..models.lora import has_adapter, keep_statistics
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification
from ..utils.distributed import broadcast_buffers
from ..utils.signals import start_worker, worker_context
from .callbacks import LogFileCallback, MethodCallback, SelectionCallback, TrainingTime
from .compiled import CompiledBackbones
from .optimizer import decayed_names, optimizer_and_settings
from .progress import ReadableLines, ReadableProgress
from .saving import CheckpointingTrainer
from .schedules import rate_schedule
from .training_model import replaced, training_model
from .validation import (
    check_labels,
    check_metric,
    check_optimizer_covers,
    check_training,
    check_types,
    metric_names,
    prior_counts,
    validation_scores,
)

_VIEWS = ("pixel_values", "key_pixel_values")


class PaCoTrainer(CheckpointingTrainer):
    """Train a `PaCoForImageClassification`; for a contrastive loss, with projector, key encoder and queue.

    Items of the dataset have `pixel_values`, `labels` and, for two views, `key_pixel_values` (see
    [`paco_hf.data.torch_datasets.ViewsDataset`]). The loss is computed in float32.

    Args:
        model (`PaCoForImageClassification`): `class_counts` of its configuration are the prior of the loss, and
            `selection_counts` (if set) define the many-, medium- and few-shot groups. Training changes the weights
            and `balanced_logits` of the configuration in place.
        args (`PaCoTrainingArguments`, *optional*): settings (default: output folder `paco-run`). The trainer copies
            them to `trainer.args`, where `eval_strategy` is `no` without `eval_dataset`, and the default `run_name`
            is the name of the folder with the time.
        batched_views (callable, *optional*): makes the views of a batch of whole images on the device
            ([`BatchedViews`] of [`WholeImages`]).
        train_sampler (sampler with `set_epoch`, *optional*): order of the training images, which must depend only on
            the epoch ([`StreamSampler`]; default: [`EpochSampler`]).
        kwargs: arguments of `transformers.Trainer`, such as `train_dataset`, `eval_dataset`, `data_collator`,
            `model_init` or `compute_metrics` (gets logits; `None`: evaluate only the loss).

    Raises:
        ValueError: settings contradict the model or the data.

    Example:

    ```python
    views = {name: torch.randn(3, 32, 32) for name in ("pixel_values", "key_pixel_values")}
    model = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=2, class_counts=[4, 4])
    args = PaCoTrainingArguments("run", max_steps=1, per_device_train_batch_size=4, queue_size=8, use_cpu=True)
    PaCoTrainer(model, args, train_dataset=[{"labels": i % 2, **views} for i in range(8)]).train()
    ```
    """

    lr_scheduler: Any

    def __init__(
        self,
        model: PaCoForImageClassification | None = None,
        args: PaCoTrainingArguments | None = None,
        batched_views: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        train_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or PaCoTrainingArguments(output_dir="paco-run")
        check_types(args, train_sampler, kwargs.get("compute_loss_func"))
        evaluated = kwargs.get("eval_dataset")
        # The arguments as a trainer changes them. Their device is set up by now, once for both.
        strategy, workers = "no" if evaluated is None else args.eval_strategy, max(args.dataloader_num_workers, 0)
        name = args.run_name or f"{Path(args.output_dir).resolve().name} {datetime.datetime.now():%Y-%m-%d %H:%M}"
        args = args.changed(eval_strategy=strategy, dataloader_num_workers=workers, run_name=name)
        args.torch_compile = args.torch_compile is True  # `auto` is for who knows how long the run is
        if args.prediction_loss_only:
            kwargs["compute_metrics"] = None
        if kwargs.get("compute_metrics", self._long_tailed_metrics) is None and evaluated is not None:
            sets = list(evaluated) if isinstance(evaluated, dict) else []
            if args.metric_for_best_model == DEFAULT_METRIC:
                args = args.changed(
                    metric_for_best_model=f"{sets[0]}_loss" if sets else "loss", greater_is_better=False
                )
            check_metric(args.metric_for_best_model, [], sets)
        kwargs.setdefault("compute_metrics", self._long_tailed_metrics)
        kwargs["data_collator"] = kwargs.get("data_collator") or _collated
        self.batched_views, self.train_sampler = batched_views, train_sampler
        self.judged_steps = math.inf  # after which a loss need not be finite, as where steps are only timed
        self.loss_parts: dict[str, list[Tensor]] = defaultdict(list)
        if model is not None:
            check_training(model, args, kwargs.get("train_dataset"), batched_views)
            model = training_model(model, args)
            check_optimizer_covers(kwargs.get("optimizers", (None,))[0], model)
        super().__init__(model=model, args=args, **kwargs)
        self._take_method(self.model)
        if evaluated is not None and self.compute_metrics == self._long_tailed_metrics:
            self._check_metric()
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self.lines = ReadableLines() if args.disable_tqdm else ReadableProgress()
        for callback in (
            MethodCallback(self),
            SelectionCallback(self),
            LogFileCallback(),
            TrainingTime(),
            self.lines,
        ):
            self.add_callback(callback)

    def call_model_init(self, trial: Any = None) -> Any:
        """As the base class; with what the loss needs around the model.

        Args:
            trial (*optional*): of a search over settings.
        """
        if trial is not None:
            # The base class takes over the settings of a trial after it has made the model, which depends on them.
            self._hp_search_setup(trial)
            set_seed(self.args.seed)
        classifier = super().call_model_init(trial)
        check_training(classifier, self.args, getattr(self, "train_dataset", None), self.batched_views)
        model = training_model(classifier, self.args)
        self._take_method(model)
        return model

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as [`CheckpointingTrainer.train`] does, after a check that the selection metric is computed.

        Args:
            args, kwargs: passed on.
        """
        # A function of the user, which may be set after the trainer was made.
        evaluates = self.args.eval_strategy != "no" and not self.args.batch_eval_metrics
        if evaluates and self.compute_metrics not in (None, self._long_tailed_metrics):
            self._check_metric()
        return super().train(*args, **kwargs)

    @property
    def training_time(self) -> TrainingTime:
        """The clock of the training."""
        # A resumed training may replace its callbacks.
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, TrainingTime))

    def _check_metric(self) -> None:
        names = metric_names(self.compute_metrics, self.model.config, self.preprocess_logits_for_metrics)
        if names is not None:
            sets = tuple(self.eval_dataset) if isinstance(self.eval_dataset, dict) else ()
            check_metric(self.args.metric_for_best_model, names, sets)

    def _take_method(self, model: Any) -> None:
        args = self.args
        self.adapted = has_adapter(model)
        self.frozen_backbone = not any(parameter.requires_grad for parameter in model.paco.backbone.parameters())
        self.class_counts = prior_counts(args, model.config)
        self.compiled = CompiledBackbones(model, args) if args.torch_compile else None
        self.loss = LossModule(args.loss, self.class_counts, **args.spec.formula_settings(args)).to(args.device)

    def create_accelerator_and_postprocess(self) -> None:
        """As the base class, whose accelerator would compile the model as a whole, evaluation too."""
        with replaced(self.args, "torch_compile_backend", None), replaced(self.args, "torch_compile_mode", None):
            super().create_accelerator_and_postprocess()

    # ---- loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch: the method's in training, plain cross-entropy in evaluation.

        Args:
            model (`nn.Module`): the model as it is wrapped for training.
            inputs (`dict`): the batch, on the model's device: `labels` `(B,)` and views `(B, 3, H, W)`, or whole
                images for `batched_views`.
            return_outputs (`bool`, *optional*, defaults to `False`): also return the model's outputs.
            num_items_in_batch (`int`, *optional*): not used; a loss is the mean over a batch.

        Returns:
            the loss, a scalar, or it and the outputs.

        Raises:
            ValueError: a view is missing, or a label is of no class.
        """
        if self.batched_views and "view_seed" in inputs:
            # Here, as a batch is on the device by now: what has traveled is bytes.
            inputs = self.batched_views(inputs)
        if model.training and (self.frozen_backbone or self.adapted):
            self._keep_statistics()
        spec, labels = self.args.spec, inputs["labels"]
        if labels.is_cpu or self.state.global_step == 0:  # a GPU need not be waited for in every step
            check_labels(labels, self.model.config.num_labels)
        views = {name: inputs[name] for name in _VIEWS[: spec.views] if name in inputs}
        if self.args.channels_last:
            views = {
                n: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in views.items()
            }
        contrastive = model.training and spec.contrastive
        if contrastive and len(views) < spec.views:
            raise ValueError(f"loss {spec.name!r} contrasts two views: items need {' and '.join(_VIEWS)}")
        inputs = {**views, "labels": labels} if contrastive else {"pixel_values": views["pixel_values"]}
        with self.compiled.in_place() if self.compiled and model.training else nullcontext():
            outputs = model(**inputs, return_dict=True)
        if model.training:
            loss = self.loss.outputs_loss(outputs, labels)
        else:
            loss = F.cross_entropy(outputs.logits.float(), labels)
        if isinstance(loss, LossTerms):
            self.loss_parts["class_loss"].append(loss.class_part.detach())
            self.loss_parts["contrast_loss"].append(loss.contrast_part.detach())
            self.loss_parts["positives_per_anchor"].append(loss.positive_count.mean().detach())
            loss = loss.total
        return (loss, outputs) if return_outputs else loss

    def _keep_statistics(self) -> None:
        # The base class has just put everything into training mode: BatchNorm would move, and dropout act.
        key_encoder = self.model.key_encoder if isinstance(self.model, PaCoForContrastiveTraining) else None
        for encoder in filter(None, (self.model.paco, key_encoder and key_encoder["paco"])):
            (keep_statistics if self.adapted else nn.Module.eval)(encoder.backbone)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the base class; a loss that is not finite is a `FloatingPointError`."""
        loss = super().training_step(*args, **kwargs)
        # Once broken, the weights stay so: a GPU need not be waited for in every step.
        step = self.state.global_step
        if step < self.judged_steps and (loss.is_cpu or step % 50 == 0) and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step + 1}, so training diverged: start over, or from a much "
                "earlier checkpoint, with a lower --learning_rate, --max_grad_norm 1, a higher --temperature or "
                "--precision fp32, and check the data for images of a single color"
            )
        return loss

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As the base class; with a loss also its parts, and how much of the queue is filled, 0 to 1."""
        if "loss" in logs:
            if self.loss_parts:
                means = torch.stack([torch.stack(values).mean() for values in self.loss_parts.values()])
                # In one go, as each value that is read waits for the GPU.
                logs |= zip(self.loss_parts, self.accelerator.gather(means[None]).mean(0).tolist(), strict=True)
            self.loss_parts.clear()
            if isinstance(self.model, PaCoForContrastiveTraining) and (size := self.model.queue.labels.shape[0]):
                enqueued = self.state.global_step * self.get_total_train_batch_size(self.args)
                logs["queue_fill"] = min(1.0, enqueued / size)
        super().log(logs, *args, **kwargs)

    def _long_tailed_metrics(self, prediction: Any) -> dict[str, float]:
        predictions = prediction.predictions
        classes = predictions.argmax(-1) if predictions.ndim > 1 else predictions
        return validation_scores(classes, prediction.label_ids, self.model.config)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """As the base class, with one model on all processes.

        Args:
            dataloader (`DataLoader`): of the images.
            description (`str`): what is done.
            args, kwargs: as in the base class.
        """
        # DistributedDataParallel evens out BatchNorm statistics only in training: without this each rank would score
        # its share of the images with statistics of its own.
        broadcast_buffers(self.model)
        reduced = self.preprocess_logits_for_metrics
        if description == "Evaluation" and reduced is None and self.compute_metrics == self._long_tailed_metrics:
            # The package's metrics need class ids alone: logits of thousands of classes need not be gathered.
            reduced = _class_ids
        with replaced(self, "preprocess_logits_for_metrics", reduced):
            return super().evaluation_loop(dataloader, description, *args, **kwargs)

    # ---- optimizer and schedule

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay: with `args.decay_all_parameters` all but a classifier's scale."""
        return decayed_names(model, self.args)

    get_optimizer_cls_and_kwargs = staticmethod(optimizer_and_settings)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of `args.epoch_schedule`; that of `args.lr_scheduler_type` where it is `none`."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = rate_schedule(self.args, optimizer, num_training_steps, self.updates_per_epoch)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- data

    def get_train_dataloader(self) -> Any:
        """The training batches, in the order of `train_sampler`."""
        # transformers' own orders would only be thrown away.
        with replaced(self.args, "train_sampling_strategy", "sequential"):
            loader = _outliving_signals(super().get_train_dataloader())
        if not isinstance(self.train_dataset, IterableDataset):
            self.train_sampler = self.train_sampler or EpochSampler(len(self.train_dataset), self.args.order_seed)
            loader.set_sampler(self.train_sampler)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The evaluation batches, the ragged last one among them, which transformers would drop too."""
        with replaced(self.args, "dataloader_drop_last", False):
            return _outliving_signals(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As [`get_eval_dataloader`], for `predict`."""
        with replaced(self.args, "dataloader_drop_last", False):
            return super().get_test_dataloader(test_dataset)


def _outliving_signals(loader: Any) -> Any:
    # torchrun's agent signals all that a process has started, too.
    base = loader.base_dataloader
    base.worker_init_fn = partial(start_worker, base.worker_init_fn)
    context = base.multiprocessing_context or multiprocessing.get_context()
    if base.num_workers and context.get_start_method() == "fork":
        base.multiprocessing_context = worker_context()
    return loader


def _collated(items: Any) -> dict[str, Any]:
    # A dataset that makes whole batches, such as of features, leaves nothing to collate.
    return items if isinstance(items, dict) else default_data_collator(items)


def _class_ids(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(-1)

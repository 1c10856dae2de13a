"""`PaCoTrainer`: PaCo, GPaCo and the baselines on `transformers.Trainer`, with checkpoints that resume exactly."""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from ..arguments.training_args import PaCoTrainingArguments
from ..data.samplers import EpochSampler
from ..data.torch_datasets import WholeImages
from ..losses.functional import LossTerms
from ..losses.modules import LossModule
from ..models.lora import (
    ADAPTER_NAME,
    adapter_tensors,
    has_adapter,
    keep_statistics,
    load_adapter,
    load_adapter_tensors,
    save_adapter,
    save_merged,
)
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification
from ..runs.layout import STAGING
from ..runs.resume_points import check_checkpoint, list_checkpoints
from ..utils.distributed import broadcast_buffers
from ..utils.files import readable, save_tensors
from .callbacks import LogFileCallback, MethodCallback, TrainingTime
from .optimizer import freeze_convolutions, optimizer_and_settings
from .progress import ReadableLines, ReadableProgress
from .schedules import step_factor
from .validation import check_metric, validation_scores

_VIEWS = ("pixel_values", "key_pixel_values")


class PaCoTrainer(Trainer):
    """Trains a `PaCoForImageClassification`; a contrastive loss adds projector, key encoder and queue.

    The data set's items hold `pixel_values` and `labels`, for two views also `key_pixel_values`
    (see [`paco_hf.data.torch_datasets.ViewsDataset`]). The loss is computed from the model's outputs in float32.

    Args:
        model (`PaCoForImageClassification`): its configuration's `class_counts` (images trained on) are the loss's
            prior, and its `selection_counts` (where given) define the many/medium/few groups of the metrics.
        args (`PaCoTrainingArguments`): settings.
        batched_views (callable, *optional*): makes the views of a training batch of whole images on the model's
            device ([`BatchedViews`] of [`WholeImages`]).
        train_sampler (sampler with `set_epoch`, *optional*): order of the training images, a function of the epoch
            alone ([`StreamSampler`]); [`EpochSampler`] where there is none.
        kwargs: what `transformers.Trainer` takes: `train_dataset`, `eval_dataset`, `data_collator`,
            `processing_class`, ...

    Raises:
        ValueError: settings that contradict the model or the data.
    """

    args: PaCoTrainingArguments
    lr_scheduler: Any

    def __init__(
        self,
        model: PaCoForImageClassification,
        args: PaCoTrainingArguments | None = None,
        batched_views: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        train_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or PaCoTrainingArguments(output_dir="paco-run")
        config = model.config
        if config.temperature is not None or config.inference_prior is not None:
            raise ValueError(
                "training works on balanced logits: set the config's temperature and inference_prior to None"
            )
        spec = args.spec
        counts = config.class_counts if args.class_prior and spec.prior != "none" else None
        config.balanced_logits = counts is not None
        if counts is None and (spec.prior == "required" or (spec.prior == "optional" and args.class_prior)):
            raise ValueError(
                f"loss {args.loss!r} needs the training images of each class: set class_counts in the model's config "
                "(paco_hf.data.class_counts(labels, num_labels)), or class_prior=False for a contrastive loss "
                "without prior"
            )
        if counts is not None and min(counts) == 0:
            raise ValueError(
                f"class {counts.index(0)} has no training image, so it has no prior: remove the class, or add images"
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"one process sees {args.n_gpu} GPUs, but the queue needs a process a GPU: launch with "
                f"`paco-hf train --nproc {args.n_gpu}` or `torchrun`, or set CUDA_VISIBLE_DEVICES=0"
            )
        dataset, batch = kwargs.get("train_dataset"), args.per_device_train_batch_size * args.world_size
        images = len(dataset) if isinstance(dataset, Sized) else None
        if images is not None and args.dataloader_drop_last and images < batch:
            raise ValueError(
                f"the training split has {images} images, fewer than one batch of {batch}: lower "
                "--per_device_train_batch_size, or set --dataloader_drop_last false"
            )
        args.dataloader_num_workers = max(args.dataloader_num_workers, 0)
        set_seed(args.seed)
        if spec.contrastive and not isinstance(model, PaCoForContrastiveTraining):
            model = PaCoForContrastiveTraining.from_classifier(
                model,
                variant=args.loss,
                projection_dim=args.projection_dim,
                queue_size=args.queue_size,
                key_momentum=args.key_momentum,
                queue_seed=args.seed,
                projector=args.projector,
                gather_batch=args.gather_batch,
            )
        if isinstance(model, PaCoForContrastiveTraining) and model.spec != spec:
            raise ValueError(f"the model was made for variant {model.spec.name!r}, but loss is {args.loss!r}")
        if isinstance(dataset, WholeImages) and batched_views is None:
            raise ValueError("WholeImages are bytes without views: give batched_views, what makes views of them, too")
        lonely = images is not None and not args.dataloader_drop_last and images % batch == 1
        if lonely and args.world_size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
            raise ValueError(
                f"the last batch of {images} images in batches of {batch} is a single one, which the projector's "
                "BatchNorm cannot take: set --dataloader_drop_last true, or another --per_device_train_batch_size"
            )
        if args.trainable_convolutions is not None:
            freeze_convolutions(model.paco.backbone, args.trainable_convolutions)
        self.frozen_backbone = not any(parameter.requires_grad for parameter in model.paco.backbone.parameters())
        self.adapted = has_adapter(model)
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
        if kwargs.get("eval_dataset") is None:
            args.eval_strategy = "no"
        elif "compute_metrics" not in kwargs:
            check_metric(args.metric_for_best_model, config)
        kwargs.setdefault("compute_metrics", self._long_tailed_metrics)
        kwargs.setdefault("preprocess_logits_for_metrics", lambda logits, labels: logits.argmax(-1))
        super().__init__(model=model, args=args, **kwargs)
        self.loss = LossModule(args.loss, counts, **spec.formula_settings(args)).to(self.args.device)
        self.batched_views = batched_views
        self.train_sampler = train_sampler
        self.updates_per_epoch = 1
        self._staging: Path | None = None
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        bar = not self.args.disable_tqdm
        self.remove_callback(ProgressCallback if bar else PrinterCallback)
        self.training_time = TrainingTime()
        lines = ReadableProgress() if bar else ReadableLines()
        for callback in (MethodCallback(self), LogFileCallback(), self.training_time, lines):
            self.add_callback(callback)

    @property
    def classifier(self) -> PaCoForImageClassification:
        """The inference model, with the weights being trained."""
        return self.model.to_classifier() if isinstance(self.model, PaCoForContrastiveTraining) else self.model

    # ---- loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        # Outside of autocast, and on the device: views are made of bytes that have already travelled.
        return self.batched_views(inputs) if self.batched_views and "view_seed" in inputs else inputs

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        if (self.frozen_backbone or self.adapted) and model.training:
            self._keep_statistics()
        if self.args.channels_last:
            inputs = {
                k: v.contiguous(memory_format=torch.channels_last) if k in _VIEWS else v for k, v in inputs.items()
            }
        if not model.training:
            outputs = model(inputs["pixel_values"])
            loss = F.cross_entropy(outputs.logits.float(), labels)
        elif self.args.spec.contrastive:
            views = {name: inputs[name] for name in _VIEWS[: self.args.spec.views] if name in inputs}
            if len(views) < self.args.spec.views:
                raise ValueError(
                    f"loss {self.args.loss!r} contrasts two views: the items of the data set need "
                    f"{' and '.join(_VIEWS)}"
                )
            outputs = model(**views, labels=labels)
            batch = outputs.batch_features
            queue = outputs.features[len(batch) :].detach()
            loss = self.loss((batch, queue), outputs.feature_labels, outputs.logits)
        else:
            outputs = model(inputs["pixel_values"])
            loss = self.loss(outputs.logits, labels)
        if isinstance(loss, LossTerms):
            self._record(
                class_loss=loss.class_part,
                contrast_loss=loss.contrast_part,
                positives_per_anchor=loss.positive_count.mean(),
            )
            loss = loss.class_part + loss.contrast_part
        return (loss, outputs) if return_outputs else loss

    def _keep_statistics(self) -> None:
        # The base class has just put everything into training mode: BatchNorm would move, and dropout act.
        backbones = [self.model.paco.backbone]
        if isinstance(self.model, PaCoForContrastiveTraining) and self.model.key_encoder is not None:
            backbones.append(self.model.key_encoder["paco"].backbone)
        for backbone in backbones:
            if self.adapted:
                keep_statistics(backbone)
            else:
                backbone.eval()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        # Once broken, the weights stay so: a GPU need not be waited for in every step.
        if (loss.is_cpu or self.state.global_step % 50 == 0) and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}, so the weights or a batch are "
                "broken: start anew, or from a checkpoint of well before, with a lower --learning_rate, "
                "--max_grad_norm 1, a higher --temperature or --precision fp32, and look for images of one value"
            )
        return loss

    def _record(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._parts[name].append(value.detach())

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for name, values in self._parts.items():
                logs[name] = self.accelerator.gather(torch.stack(values).mean().reshape(1)).mean().item()
            self._parts.clear()
            if isinstance(self.model, PaCoForContrastiveTraining) and (size := self.model.queue.labels.shape[0]):
                seen = self.state.global_step * self.get_total_train_batch_size(self.args)
                logs["queue_fill"] = min(1.0, seen / size)
        super().log(logs, *args, **kwargs)

    def _long_tailed_metrics(self, prediction: Any) -> dict[str, float]:
        return validation_scores(prediction.predictions, prediction.label_ids, self.model.config)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        # DistributedDataParallel evens out BatchNorm statistics only in training: without this each rank would score
        # its share of the images with statistics of its own.
        broadcast_buffers(self.model)
        return super().evaluation_loop(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # The base class would compute a norm in every step that nobody asked for.
        return grad_norm

    # ---- optimizer and schedule

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if self.args.decay_all_parameters:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        return optimizer_and_settings(args, model)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        values = super().set_initial_training_values(*args, **kwargs)
        self.updates_per_epoch = max(int(values[1]), 1)
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.epoch_schedule == "none" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        factor = step_factor(self.args, num_training_steps, self.updates_per_epoch)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- data

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.train_sampler = self.train_sampler or EpochSampler(len(dataset), seed)
        return self.train_sampler

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        # transformers would drop the ragged last batch of an evaluation too.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and kwargs.get("is_training", False)
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    # ---- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the base class, but written elsewhere and renamed when complete; the selected weights are kept."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FloatingPointError(
                f"the weights are not finite at step {self.state.global_step}, and are not saved over the last "
                "checkpoint: resume from it with a lower --learning_rate"
            )
        root = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._staging = root / STAGING
        if self.args.should_save:
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        finally:
            staging, self._staging = self._staging, None
        self.accelerator.wait_for_everyone()
        # The base class takes the folder that is about to move for the best checkpoint; `load_selected` needs none.
        self.state.best_model_checkpoint = None
        if self.args.should_save:
            if isinstance(self.model, PaCoForContrastiveTraining):
                self.model.save_training_state(staging / name)
            self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            if (root / name).exists():
                shutil.rmtree(root / name)
            (staging / name).rename(root / name)
            shutil.rmtree(staging)
            self._remove_old(root)
        self.accelerator.wait_for_everyone()

    def _remove_old(self, root: Path) -> None:
        limit = self.args.save_total_limit
        for checkpoint in list_checkpoints(root)[: -limit if limit else 0]:
            shutil.rmtree(checkpoint)
        for weights in root.glob("selected-*.safetensors"):
            if weights != self._selected_path():
                weights.unlink()

    def save_classifier(self, folder: str | os.PathLike, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the inference model as it is now, adapters merged into it and beside it in `adapter/`."""
        classifier = self.classifier
        if self.adapted:
            save_merged(classifier, Path(folder))
            return
        if state_dict is not None:
            state_dict = {key: state_dict[key] for key in classifier.state_dict()}
        classifier.save_pretrained(folder, state_dict=state_dict)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        output_dir = output_dir or self.args.output_dir
        if self.adapted and self._staging is not None:
            # A checkpoint has what is trained; the base it is put on again when training goes on.
            save_adapter(self.classifier, output_dir)
        else:
            self.save_classifier(output_dir, state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model as it is now, with its card and, where there is an `eval_dataset`, its scores on that.

        The repository is `args.hub_model_id`, else named after `args.output_dir`; `kwargs` are those of
        [`paco_hf.hub.upload.push`].

        Raises:
            ValueError, OSError: as [`paco_hf.hub.upload.push`]; `blocking=False`.
        """
        from ..hub.upload import push_trainer

        if not blocking:
            raise ValueError("blocking=False: a push is one commit, which is waited for")
        return push_trainer(self, commit_message or "End of training", token, revision, **kwargs)

    def init_hf_repo(self, token: str | None = None) -> None:
        from ..hub.errors import hub_errors

        with hub_errors(f"{self.args.hub_model_id or self.args.output_dir} cannot be made on the Hub"):
            super().init_hf_repo(token)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: a run is pushed once, when it is finished (`hub_strategy="end"`)."""

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As the base class; a checkpoint with a missing or unreadable file is an `OSError` that names the file."""
        if resume_from_checkpoint is True:
            checkpoints = list_checkpoints(self.args.output_dir)
            if not checkpoints:
                raise OSError(f"{self.args.output_dir} has no complete checkpoint to resume from")
            resume_from_checkpoint = str(checkpoints[-1])
        if resume_from_checkpoint:
            weights = ADAPTER_NAME if self.adapted else "model.safetensors"
            check_checkpoint(Path(resume_from_checkpoint), weights, self.args.process_index, self.args.world_size)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.load_best_model_at_end:
            self.load_selected()
        return result

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epochs, steps = super()._init_training_state(max_steps, *args, **kwargs)
        # The base class would take one step more from a checkpoint of the last step.
        return (self.state.num_train_epochs, 0) if self.state.global_step >= max_steps else (epochs, steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.adapted:
            load_adapter(self.classifier, resume_from_checkpoint)
        else:
            weights = Path(resume_from_checkpoint) / "model.safetensors"
            with readable(weights):
                tensors = load_file(weights)
            try:
                self.classifier.load_state_dict(tensors)
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise ValueError(f"{weights} does not fit the model: {reason}") from error
        if isinstance(self.model, PaCoForContrastiveTraining):
            self.model.load_training_state(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable(f"{checkpoint}/optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable(f"{checkpoint}/rng_state.pth"):
            super()._load_rng_state(checkpoint)

    # ---- selection

    def _selected_path(self) -> Path:
        return Path(self.args.output_dir) / f"selected-{self.state.best_global_step}.safetensors"

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.state.best_global_step = self.state.global_step
            if self.args.should_save:
                # Earlier selections stay until the next checkpoint is complete, so that a run killed between the two
                # resumes with the weights that its checkpoint speaks of.
                classifier = self.classifier
                save_tensors(
                    adapter_tensors(classifier) if self.adapted else classifier.state_dict(), self._selected_path()
                )
        return is_best

    def load_selected(self) -> int:
        """Load the weights of the best validation score into the model, the last ones where there was no validation.

        Returns:
            the step that the weights are of.
        """
        if not self.state.best_global_step:
            return self.state.global_step
        self.accelerator.wait_for_everyone()
        tensors = load_file(self._selected_path())
        if self.adapted:
            load_adapter_tensors(self.classifier, tensors, str(self._selected_path()))
        else:
            self.classifier.load_state_dict(tensors)
        return int(self.state.best_global_step)

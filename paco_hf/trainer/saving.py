"""`CheckpointingTrainer`: checkpoints that are complete or absent, are classifiers, and resume exactly."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..arguments.training_args import PaCoTrainingArguments
from ..hub.errors import hub_errors
from ..models import lora
from ..models.modeling_contrastive import PaCoForContrastiveTraining
from ..models.modeling_paco import PaCoForImageClassification
from ..runs.folder import list_checkpoints
from ..runs.layout import STAGING
from ..runs.output_folder import clear_checkpoint
from ..runs.resume_points import check_checkpoint, first_complete, process_count, set_aside_later
from ..utils.distributed import broadcast_buffers, gather_objects
from ..utils.files import readable
from .callbacks import selected_file

_log = logging.get_logger(__name__)

# Every private method of `transformers.Trainer` that is overridden, all of them here, and why nothing public will do.
PRIVATE_OVERRIDES = {
    "_get_grad_norm": "computes a norm in every step; `max_grad_norm=0` leaves out the clipping, but not the norm",
    "_get_output_dir": "where a checkpoint is written: elsewhere, until it is complete",
    "_save_checkpoint": "writes in place; `on_save`, which follows it, is too late for the callbacks that upload",
    "_load_from_checkpoint": "knows neither the training state nor adapters without a `PeftModel`",
    "_load_optimizer_and_scheduler": "says nothing of what to do where a state does not fit the optimizer",
    "_load_rng_state": "as above",
}


@contextmanager
def _written_here(args: PaCoTrainingArguments) -> Iterator[None]:
    # Since 5.10 transformers saves a model from rank 0 alone, whatever `save_on_each_node` says.
    name, model = "should_save_on_this_rank", PaCoForImageClassification
    if args.process_index == 0 or not hasattr(model, name):
        yield
        return
    setattr(model, name, lambda _, is_main_process: is_main_process)
    try:
        yield
    finally:
        delattr(model, name)


class CheckpointingTrainer(Trainer):
    """A `transformers.Trainer` of a `PaCoForImageClassification`, alone or inside of a `PaCoForContrastiveTraining`.

    Checkpoints are written elsewhere and renamed once they are complete: a run that is killed at any time resumes
    from the last of them, and ends with the same bits as one that was left alone.

    Raises:
        ImportError: a version of transformers whose accumulated gradients are too small.
    """

    args: PaCoTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.accelerator.gradient_accumulation_steps > 1:  # by which the base class divides each loss itself
            raise ImportError(
                f"transformers {transformers.__version__} divides the loss of accumulated batches twice: install "
                "another version, with pip install -U transformers, or set gradient_accumulation_steps to 1"
            )
        self.adapted: bool = lora.has_adapter(self.model)
        self.staging: Path | None = None
        self.resumed_step, self.updates_per_epoch = 0, 1
        self.resumed_from: Path | None = None

    @property
    def classifier(self) -> PaCoForImageClassification:
        """The inference model, with the weights being trained."""
        return self.model.to_classifier() if isinstance(self.model, PaCoForContrastiveTraining) else self.model

    @property
    def weights_name(self) -> str:
        """The file of a checkpoint that has what is trained of the inference model."""
        return lora.ADAPTER_NAME if self.adapted else "model.safetensors"

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return grad_norm

    # ---- writing

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the inference model, its image processor and the arguments, from the main process.

        Args:
            output_dir (`str`, *optional*): folder (default: `args.output_dir`).
        """
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            if self.adapted and self.staging is not None:
                # A checkpoint has what is trained; the base it is put on again when training goes on.
                lora.save_adapter(self.classifier, folder)
            else:
                self.save_classifier(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            torch.save(self.args, folder / "training_args.bin")
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_classifier(self, folder: str | Path) -> None:
        """Write the current inference model: adapters are merged into it, and saved separately in `adapter/`."""
        with _written_here(self.args):
            if self.adapted:
                lora.save_merged(self.classifier, folder)
            else:
                self.classifier.save_pretrained(folder)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self.staging is None else str(self.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FloatingPointError(
                f"the weights are not finite at step {self.state.global_step}, and are not saved over the last "
                "checkpoint: resume from it with a lower --learning_rate"
            )
        root, name = Path(super()._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        staging = self.staging = root / STAGING
        if self.args.save_on_each_node:  # before the next step, BatchNorm's statistics are those of each process
            broadcast_buffers(self.model)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            if self.args.save_on_each_node:
                self._share_random_states(staging / name)
            self.accelerator.wait_for_everyone()
            # The base class takes the folder that is to move for the best checkpoint; `load_selected` needs none.
            self.state.best_model_checkpoint = None
            if self.args.should_save:
                if isinstance(self.model, PaCoForContrastiveTraining):
                    self.model.save_training_state(staging / name)
                self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
        except BaseException:
            if self.args.should_save:  # what is half written takes space that there may not be
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self.staging = None
        if self.args.should_save:
            clear_checkpoint(root / name)
            for other in (root / name).glob("*"):  # the user's, which stay beside the new files
                if not (staging / name / other.name).exists():
                    other.rename(staging / name / other.name)
            shutil.rmtree(root / name, ignore_errors=True)
            (staging / name).rename(root / name)
            shutil.rmtree(staging)
            self.remove_old_checkpoints()
        self.accelerator.wait_for_everyone()

    def _share_random_states(self, folder: Path) -> None:
        """Give the checkpoint of each node the states of the random numbers of all processes."""
        file = folder / f"rng_state_{self.args.process_index}.pth"
        states = gather_objects((file.name, file.read_bytes()) if self.args.world_size > 1 else None)
        for name, state in filter(None, states) if self.args.should_save else ():
            (folder / name).write_bytes(state)

    def remove_old_checkpoints(self) -> None:
        """Keep the last `args.save_total_limit` checkpoints, and of the selected weights the best."""
        limit, removed = self.args.save_total_limit, Path(self.args.output_dir) / STAGING
        for checkpoint in list_checkpoints(self.args.output_dir)[: -limit if limit else 0]:
            # Under the name of what is unfinished: half removed, it would look like the user's own.
            shutil.rmtree(removed, ignore_errors=True)
            checkpoint.rename(removed)
            shutil.rmtree(removed)
        for weights in Path(self.args.output_dir).glob("selected-*.safetensors"):
            if weights != selected_file(self.args, self.state):
                weights.unlink()

    # ---- reading

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as the base class does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): folder of a checkpoint, or `True` for the last one in
                `args.output_dir`; where that is damaged, for the one before it, with a warning.
            args, kwargs: as in the base class.

        Returns:
            `transformers.trainer_utils.TrainOutput`.

        Raises:
            OSError: no checkpoint, or one with a missing or unreadable file, which is named.
            ValueError: a checkpoint of another model.
            FloatingPointError: a loss or weights that are not finite.
        """
        if resume_from_checkpoint is True:
            if not (checkpoints := list_checkpoints(self.args.output_dir)):
                raise OSError(f"{self.args.output_dir} has no complete checkpoint to resume from")
            point, warnings = first_complete(checkpoints[::-1], self.weights_name, self.args)
            for warning in warnings:
                _log.warning(warning)
            if warnings and self.args.should_save:
                set_aside_later(point)
            resume_from_checkpoint = str(point)
        self.resumed_step, self.resumed_from = 0, resume_from_checkpoint and Path(resume_from_checkpoint)
        if resume_from_checkpoint:
            checked = check_checkpoint(Path(resume_from_checkpoint), self.weights_name, self.args)
            self.resumed_step = checked["global_step"]
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.resumed_step and self.args.should_save:
            # Killed after the last checkpoint, and before this: no other follows.
            self.remove_old_checkpoints()
        if self.args.load_best_model_at_end:
            self.load_selected()
        return result

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class; a training that is resumed from its last step has no epoch left."""
        epochs, updates_per_epoch, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        self.updates_per_epoch = max(int(updates_per_epoch), 1)
        if self.resumed_step >= max_steps:
            # The base class would take one step more.
            epochs = self.resumed_step // self.updates_per_epoch
        return (epochs, updates_per_epoch, *others, max_steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.adapted:
            lora.load_adapter(self.classifier, resume_from_checkpoint)
        else:
            weights = Path(resume_from_checkpoint) / "model.safetensors"
            with readable(weights):
                tensors = load_file(weights)
            try:
                self.classifier.load_state_dict(tensors)
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise ValueError(f"{weights} does not match the model: {reason}") from error
        if isinstance(self.model, PaCoForContrastiveTraining):
            self.model.load_training_state(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, ValueError) as error:  # the files were read before: they are of another training
            raise ValueError(
                f"{checkpoint}/optimizer.pt does not match the model ({error}): resume with the same loss, "
                "optimizer and frozen parts"
            ) from error

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and process_count(Path(checkpoint)) != self.args.world_size:
            # Of these processes there are no states, and one that two had would make their dropout the same.
            key = (self.args.seed, self.resumed_step, self.args.process_index, self.args.world_size)
            set_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            return
        with readable(f"{checkpoint}/rng_state.pth"):
            super()._load_rng_state(checkpoint)

    def trained_tensors(self) -> dict[str, Tensor]:
        """What is trained of the inference model: all of it, or adapters and classifier."""
        return lora.adapter_tensors(self.classifier) if self.adapted else self.classifier.state_dict()

    def load_selected(self) -> int:
        """Load the weights of the best validation score into the model, the last ones where there was no validation.

        Returns:
            the step that the weights are of.
        """
        if not self.state.best_global_step:
            return self.state.global_step
        self.accelerator.wait_for_everyone()
        file = selected_file(self.args, self.state)
        if self.adapted:
            lora.load_adapter_tensors(self.classifier, load_file(file), str(file))
        else:
            self.classifier.load_state_dict(load_file(file))
        return int(self.state.best_global_step)

    # ---- the Hub

    def push_to_hub(self, commit_message: str | None = "End of training", blocking: bool = True, **kwargs: Any) -> Any:
        """Publish the current model with its card and, if there is an `eval_dataset`, its scores on it.

        The repository is `args.hub_model_id`, else named after `args.output_dir`.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): of the one commit.
            blocking (`bool`, *optional*, defaults to `True`): a push is waited for; nothing else is possible.
            kwargs: `token` (default: `args.hub_token`), `revision` (a branch, default: `args.hub_revision`), `private`
                (default: `args.hub_private_repo`), and others of [`paco_hf.hub.upload.push`].

        Returns:
            `huggingface_hub.CommitInfo`, `None` on all but the main process.

        Raises:
            ValueError, OSError: as [`paco_hf.hub.upload.push`]; `blocking=False`.
        """
        # It loads what draws cards, which training needs nothing of.
        from ..hub.upload import push_trainer

        if not blocking:
            raise ValueError("blocking=False is not supported, because a push is a single commit: remove it")
        return push_trainer(self, commit_message=commit_message or "End of training", **kwargs)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Make the repository, as the base class does; what the Hub refuses is an `OSError` of one line."""
        with hub_errors(f"{self.args.hub_model_id or self.args.output_dir} cannot be created on the Hub"):
            super().init_hf_repo(*args, **kwargs)

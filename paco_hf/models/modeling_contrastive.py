"""What training adds to a classifier: projector, key encoder, queue, and the two-view forward pass."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..losses.specs import DEFAULT_LOSS, LOSSES
from ..utils import distributed
from ..utils.tensors import first_difference, read_tensors, save_tensors
from .feature_queue import FeatureQueue
from .modeling_paco import PaCoForImageClassification

TRAINING_STATE_NAME = "paco_training_state.safetensors"
PROJECTORS = ("auto", "mlp2-bn", "mlp3-relu", "mlp3-gelu")


@dataclass
class ContrastiveOutput(ModelOutput):
    """Output of a two-view forward pass.

    Args:
        logits (`Tensor` of shape `(n, C)`): class logits of the anchors, no prior added; query rows, then (gpaco,
            multitask) key rows.
        features (`Tensor` of shape `(N, D)`): `[query; key; queue as it was before this step]`, of unit length, except
            for the initial queue. With `gather_batch`, rows of other processes are between key and queue.
        feature_labels (`Tensor` of shape `(N,)`): class of each row of `features`.
        batch_features (`Tensor` of shape `(N - K, D)`): the rows of `features` before the queue's. They let a loss
            skip the gradient of the queue: `paco_loss((batch_features, features[N - K:].detach()), ...)`.
    """

    logits: Tensor | None = None
    features: Tensor | None = None
    feature_labels: Tensor | None = None
    batch_features: Tensor | None = None


class PaCoForContrastiveTraining(PaCoForImageClassification):
    """A classifier with projector, key encoder and queue, for contrastive training.

    Create it with [`from_classifier`], which shares the classifier's weights, or from a training checkpoint.

    Example:

    ```python
    model = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=3, image_size=32)
    training = PaCoForContrastiveTraining.from_classifier(model, variant="paco", queue_size=16)
    ```

    Attributes:
        spec (`LossSpec`): what the loss needs: views, key encoder, anchors, what the queue takes.
        projector (`nn.Sequential`): from pooled features `(B, F)` to `(B, D)`.
        queue (`FeatureQueue`): the last `K` features with their labels.
        key_encoder (`nn.ModuleDict` or `None`): moving averages of the backbone (`paco`) and the `projector`.
        key_momentum (`float`): momentum of these averages; settable.
    """

    def __init__(
        self,
        classifier: PaCoForImageClassification,
        *,
        variant: str = DEFAULT_LOSS,
        projection_dim: int = 128,
        queue_size: int = 8192,
        key_momentum: float = 0.999,
        queue_seed: int = 0,
        projector: str = "auto",
        gather_batch: bool = False,
    ) -> None:
        losses = {name: spec for name, spec in LOSSES.items() if spec.contrastive}
        for name, value, allowed in (("variant", variant, losses), ("projector", projector, PROJECTORS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if projection_dim < 1 or queue_size < 0 or not 0 <= key_momentum <= 1:
            raise ValueError(
                "projection_dim must be at least 1, queue_size at least 0 and key_momentum between 0 and 1, got "
                f"{projection_dim}, {queue_size} and {key_momentum}"
            )
        super().__init__(classifier.config, classifier.paco, classifier.classifier)
        self.spec, self.gather_batch, self.key_momentum = losses[variant], gather_batch, key_momentum
        if projector == "auto":
            vit = isinstance(self.paco.backbone, VisionTransformer)
            projector = (vit and self.spec.vit_projector) or self.spec.projector
        self.projector_type = projector
        self.projector = _projector(projector, self.classifier.in_features, projection_dim)
        rows = queue_size if self.spec.enqueues else 0
        self.queue = FeatureQueue(rows, projection_dim, self.config.num_labels, queue_seed)
        for module in (self.projector, self.queue):
            # The head decides where the model lives and in which precision.
            module.to(self.classifier.weight.device, self.classifier.weight.dtype)
        self.key_encoder: Any = None
        if self.spec.key_encoder:
            # What is frozen never differs: it is kept once, and is no part of the training state.
            frozen = {id(p): p for p in self.paco.parameters() if not p.requires_grad}
            encoder, projection = copy.deepcopy(self.paco, frozen), copy.deepcopy(self.projector)
            self.key_encoder = nn.ModuleDict({"paco": encoder, "projector": projection}).requires_grad_(False)
        self.post_init()

    @classmethod
    def from_classifier(
        cls,
        model: PaCoForImageClassification,
        variant: str = DEFAULT_LOSS,
        projection_dim: int = 128,
        queue_size: int = 8192,
        key_momentum: float = 0.999,
        queue_seed: int = 0,
        projector: str = "auto",
        gather_batch: bool = False,
    ) -> "PaCoForContrastiveTraining":
        """Wrap a classifier for contrastive training; the two share their weights.

        Args:
            model (`PaCoForImageClassification`): the model to train.
            variant (`str`, *optional*, defaults to `"paco"`): the loss, a contrastive one of `LOSSES`: `paco` (key
                encoder, anchors are the query view), `gpaco` or `multitask` (the model encodes both views, which are
                both anchors), `gpaco_single` (one view).
            projection_dim (`int`, *optional*, defaults to `128`): dimension `D` of the features.
            queue_size (`int`, *optional*, defaults to `8192`): length `K` of the queue; 0: no queue.
            key_momentum (`float`, *optional*, defaults to `0.999`): momentum of the key encoder.
            queue_seed (`int`, *optional*, defaults to `0`): seed of the initial queue.
            projector (`str`, *optional*, defaults to `"auto"`): `mlp2-bn` for paco, `mlp3-relu` for the others,
                `mlp3-gelu` for these on a ViT, as in the reference implementation; or one of these.
            gather_batch (`bool`, *optional*, defaults to `False`): contrast with the batches of all processes.

        Returns:
            `PaCoForContrastiveTraining` in train mode, where the classifier's weights are.

        Raises:
            ValueError: where an argument is out of range.
        """
        sizes: Any = {"projection_dim": projection_dim, "queue_size": queue_size, "queue_seed": queue_seed}
        kinds: Any = {"variant": variant, "projector": projector, "gather_batch": gather_batch}
        return cls(model, key_momentum=key_momentum, **sizes, **kinds)

    def to_classifier(self) -> PaCoForImageClassification:
        """The inference model, a `PaCoForImageClassification` that shares the weights."""
        return PaCoForImageClassification(self.config, self.paco, self.classifier)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        key_pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): the query view, or the only one.
            labels (`Tensor` of shape `(B,)`, *optional*): class indices.
            return_dict (`bool`, *optional*): `False` for a tuple.
            key_pixel_values (`Tensor` of shape `(B, 3, H, W)`, *optional*): the key view. Without it the model
                behaves like the classifier, except for a single-view loss in train mode with labels.

        Returns:
            [`ContrastiveOutput`] if rows are contrasted. In train mode, the features of all processes are then
            enqueued.

        Raises:
            ValueError: two views without labels, or two views for a loss that takes one.
        """
        single = self.spec.views == 1
        if key_pixel_values is None and not (single and self.training and labels is not None):
            return super().forward(pixel_values, labels=labels, return_dict=return_dict, **kwargs)
        if labels is None:
            raise ValueError("two views need labels: pass labels of shape (B,), or only pixel_values for inference")
        if single and key_pixel_values is not None:
            raise ValueError(f"variant {self.spec.name!r} takes one view: pass pixel_values and labels only")

        logits, query = self._project(pixel_values)
        views = [query]
        if self.key_encoder is not None:
            views.append(self._encode_keys(key_pixel_values))
        elif not single:
            key_logits, key = self._project(key_pixel_values)
            views.append(key)
            if self.spec.anchors == "views":
                logits = torch.cat([logits, key_logits])
        rows, row_labels = torch.cat(views), labels.repeat(len(views))
        if self.gather_batch:
            rows, row_labels = distributed.gather_batch(rows, row_labels)
        output = ContrastiveOutput(
            logits=logits,
            features=torch.cat([rows, self.queue.features]),
            feature_labels=torch.cat([row_labels, self.queue.labels]),
            batch_features=rows,
        )
        if self.training and self.spec.enqueues:
            enqueued = query if self.spec.enqueues == "query" else views[-1]
            self.queue.enqueue(*(torch.cat(distributed.gather_rows(tensor)) for tensor in (enqueued, labels)))
        return self.as_asked(output, return_dict)

    def _project(self, pixel_values: Any) -> tuple[Tensor, Tensor]:
        pooled = self.paco(pixel_values, return_dict=True).pooler_output
        return self.classifier(pooled), self._normalize(self.projector(pooled))

    @torch.no_grad()
    def _encode_keys(self, pixel_values: Any) -> Tensor:
        shuffle = self.training and distributed.world_size() > 1
        if shuffle:
            pixel_values, order, start = distributed.exchange_rows(pixel_values)
        pooled = self.key_encoder["paco"](pixel_values, return_dict=True).pooler_output
        key = self._normalize(self.key_encoder["projector"](pooled))
        return distributed.restore_rows(key, order, start) if shuffle else key

    def _normalize(self, projected: Tensor) -> Tensor:
        # In the queue's precision: float32 under autocast, float64 in a float64 model.
        return F.normalize(projected.to(self.queue.features.dtype), dim=1)

    def key_and_query_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of the key encoder, and the parameters that they follow.

        Returns:
            two lists of `Tensor` in the same order, without frozen parameters; both empty without a key encoder.
        """
        if self.key_encoder is None:
            return [], []
        queries = [*self.paco.parameters(), *self.projector.parameters()]
        pairs = [(k, q) for k, q in zip(self.key_encoder.parameters(), queries, strict=True) if k is not q]
        return [key for key, _ in pairs], [query for _, query in pairs]

    @torch.no_grad()
    def update_key_encoder(self, parameters: tuple[list[Tensor], list[Tensor]] | None = None) -> None:
        """Move the key encoder's parameters: `k <- m k + (1 - m) q`. Call it once after each optimizer step.

        At every forward pass it then equals that of the reference implementation, which updates it just before the
        key forward pass. BatchNorm statistics are not averaged. Does nothing without a key encoder.

        Args:
            parameters (pair of lists, *optional*): result of [`key_and_query_parameters`], to avoid its cost in loops.
        """
        keys, queries = parameters or self.key_and_query_parameters()
        if keys:
            # One kernel for all of them, as torch's optimizers move weights; there is no public name for it.
            torch._foreach_lerp_(keys, queries, 1 - self.key_momentum)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save a training checkpoint: classifier, projector, key encoder and queue.

        Args:
            save_directory (path): the folder, created if it does not exist.
            args, kwargs: as for `PreTrainedModel.save_pretrained`.
        """
        self.to_classifier().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self.save_training_state(save_directory)

    def training_tensors(self) -> dict[str, Tensor]:
        """Projector, key encoder and queue by name, without what the key encoder shares with the model."""
        prefixes = ("projector.", "key_encoder.", "queue.")
        state, shared = self.state_dict().items(), self._shared_names()
        return {key: tensor for key, tensor in state if key.startswith(prefixes) and key not in shared}

    def _shared_names(self) -> set[str]:
        """Names in the key encoder of what it shares with the model, frozen."""
        shared = {id(parameter) for parameter in self.paco.parameters()}
        named = self.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if name.startswith("key_encoder.") and id(parameter) in shared}

    def save_training_state(self, folder: str | os.PathLike) -> None:
        """Write projector, key encoder and queue to `paco_training_state.safetensors`.

        Args:
            folder (path): an existing folder.
        """
        settings = {
            "variant": self.spec.name,
            "projection_dim": str(self.queue.features.shape[1]),
            "queue_size": str(self.queue.features.shape[0]),
            "key_momentum": repr(self.key_momentum),
            "projector": self.projector_type,
            "shared": str(len(self._shared_names())),
        }
        save_tensors(self.training_tensors(), Path(folder) / TRAINING_STATE_NAME, settings)

    def load_training_state(self, folder: str | os.PathLike) -> None:
        """Load the file of [`save_training_state`].

        Args:
            folder (path): the folder of the file.

        Raises:
            OSError: no such file, or not a readable one.
            ValueError: it is from a model with different settings.
        """
        self._load_training_tensors(Path(folder), *_read_training_state(folder))

    def _load_training_tensors(self, folder: Path, tensors: dict[str, Tensor], settings: dict[str, str]) -> None:
        expected, shared = self.training_tensors(), self._shared_names()
        lacking = [key for key in expected if key.startswith("key_encoder.paco.") and key not in tensors]
        if len(lacking) == int(settings.get("shared", 0)):
            # It was frozen, so the key encoder's is the model's, which it is a copy of.
            expected = {key: tensor for key, tensor in expected.items() if key not in lacking}
        # Files of before what is frozen was shared have it twice.
        tensors = {key: tensor for key, tensor in tensors.items() if key not in shared}
        if difference := first_difference(expected, tensors):
            raise ValueError(
                f"{folder / TRAINING_STATE_NAME} does not match this model (variant {self.spec.name!r}, queue of "
                f"{len(self.queue.labels)}), the first difference is {difference}: train with the settings of the "
                "checkpoint"
            )
        self.load_state_dict(tensors, strict=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "PaCoForContrastiveTraining":
        """Load a training checkpoint, a local folder with `paco_training_state.safetensors`, as it was made.

        Args:
            pretrained_model_name_or_path (path): the folder.
            kwargs: as for `PaCoForImageClassification.from_pretrained`.

        Raises:
            OSError: where the folder has no training state; `from_classifier` starts a new one around a classifier.
        """
        tensors, settings = _read_training_state(pretrained_model_name_or_path)
        classifier = PaCoForImageClassification.from_pretrained(pretrained_model_name_or_path, **kwargs)
        options: dict[str, Any] = {name: int(settings[name]) for name in ("projection_dim", "queue_size")}
        options |= {"variant": settings["variant"], "projector": settings["projector"]}
        model = cls(classifier, key_momentum=float(settings["key_momentum"]), **options)
        model._load_training_tensors(Path(pretrained_model_name_or_path), tensors, settings)
        return model


def _projector(kind: str, width: int, dim: int) -> nn.Sequential:
    if kind == "mlp2-bn":
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim))
    activation = nn.GELU if kind == "mlp3-gelu" else nn.ReLU
    hidden = [nn.Linear(width, width), activation(), nn.Linear(width, width), activation()]
    return nn.Sequential(*hidden, nn.Linear(width, dim))


def _read_training_state(folder: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(folder) / TRAINING_STATE_NAME
    if not path.is_file():
        raise OSError(
            f"{path} does not exist: the folder is not a training checkpoint (for a classifier, use from_classifier)"
        )
    try:
        return read_tensors(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be read ({error}): the file is truncated or not safetensors") from error

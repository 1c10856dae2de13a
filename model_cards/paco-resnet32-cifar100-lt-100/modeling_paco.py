"""The models that do inference: a timm backbone (`PaCoModel`), and the backbone with a classifier."""

import copy
import math
import os
import shutil
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from .abstention import adjusted_logits, with_abstention
from .backbones import StatisticsGuard, create_backbone, feature_size, load_pretrained
from .configuration_paco import PaCoConfig, as_numbers

# What lies beside the weights, so that `trust_remote_code=True` loads them where this package is not installed.
CODE_FILES = ("configuration_paco.py", "modeling_paco.py", "backbones.py", "abstention.py")

SCALE_NAME = "classifier.scale"  # of a cosine classifier, which weight decay would shrink

_AUTO_MAP = {
    "AutoConfig": "configuration_paco.PaCoConfig",
    "AutoModel": "modeling_paco.PaCoModel",
    "AutoModelForImageClassification": "modeling_paco.PaCoForImageClassification",
}


def restore_buffers(backbone: nn.Module, name: str, kwargs: dict[str, Any]) -> None:
    """Fill the buffers that no file holds, such as relative positions, and that loading leaves uninitialized.

    timm's modules do it themselves since timm 1.0.24; others are copied from a backbone that is built anew.

    Args:
        backbone (`nn.Module`): what was loaded.
        name (`str`): what it was created by.
        kwargs (`dict`): likewise.

    Raises:
        ValueError: a buffer that differs each time the backbone is built.
    """
    stored, others = backbone.state_dict(), dict[str, nn.Module]()
    for path, module in backbone.named_modules():
        reset: Any = getattr(module, "init_non_persistent_buffers", None)
        if reset is not None:
            reset()
        else:
            others |= {key: module for key, _ in module.named_buffers(path, recurse=False) if key not in stored}
    if not others:
        return
    with torch.random.fork_rng(devices=[]):  # loading draws nothing otherwise
        first, second = create_backbone(name, **kwargs), create_backbone(name, **kwargs)
    device = next(backbone.parameters()).device
    for key, module in others.items():
        if not torch.equal(first.get_buffer(key), second.get_buffer(key)):
            raise ValueError(
                f"backbone {name!r} cannot be loaded: its buffer {key} is random and not saved: make it persistent"
            )
        setattr(module, key.rpartition(".")[2], first.get_buffer(key).to(device, backbone.get_buffer(key).dtype))


class PaCoPreTrainedModel(PreTrainedModel):
    """What the PaCo models share: loading, saving, and leaving timm's initialization alone."""

    config_class = PaCoConfig
    base_model_prefix = "paco"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Keeps transformers.Trainer from passing `num_items_in_batch` on and from scaling the loss twice.
    accepts_loss_kwargs = False
    # Without it transformers refuses `attn_implementation="sdpa"`, which timm's attention is anyway.
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        # `post_init` and loading call it. timm initializes its modules when it builds them; transformers would draw
        # them anew. Only what a file can lack is done here: the classifier.
        if module is getattr(self, "classifier", None):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound)
            if isinstance(module, CosineClassifier):
                nn.init.constant_(module.scale, module.initial_scale)

    # What `gradient_checkpointing_enable` calls.
    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        backbone = self.base_model.backbone
        if not hasattr(backbone, "set_grad_checkpointing"):
            raise ValueError(f"the backbone {self.config.backbone!r} has no gradient checkpointing: disable it")
        backbone.set_grad_checkpointing(enable)
        if enable and self.base_model.statistics_guard is None:
            self.base_model.statistics_guard = StatisticsGuard(self.base_model)

    def as_asked(self, output: Any, return_dict: bool | None) -> Any:
        """An output as a tuple where `return_dict`, or where that is `None` the configuration's, is `False`."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, with the files of code that `trust_remote_code=True` loads it by."""
        if kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for name in CODE_FILES:
                shutil.copyfile(Path(__file__).with_name(name), Path(save_directory) / name)
        self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, and it refuses a file that lacks weights of the backbone.

        A backbone weight that is in no file, or in another shape, would stay uninitialized: `ValueError` instead of a
        model of noise.
        """
        path, wants_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        except Exception as error:
            # By its name: of this package's requirements, what travels with a checkpoint imports only the models' own.
            if type(error).__name__ != "SafetensorError":
                raise
            raise OSError(
                f"the weights in {path} cannot be read ({error}): the file may be truncated, download or save it again"
            ) from error
        # Names, with shapes in transformers 5.
        mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
        missing = sorted(key for key in [*info["missing_keys"], *mismatched] if "backbone." in key)
        if missing:
            raise ValueError(
                f"{path} is missing {len(missing)} weights of the backbone {model.config.backbone!r}, the first "
                f"is {missing[0]}: it is a checkpoint of another backbone or size, or of another version of timm "
                f"than {timm.__version__}"
            )
        restore_buffers(model.base_model.backbone, model.config.backbone, model.config.backbone_kwargs)
        return (model, info) if wants_info else model


class PaCoModel(PaCoPreTrainedModel):
    """A timm backbone. `forward` returns `pooler_output` `(B, F)`, the input of classifier and projector."""

    # A classifier's checkpoint loads here, its head left out without a word.
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^classifier\."]

    def __init__(self, config: PaCoConfig) -> None:
        super().__init__(config)
        self.backbone: Any = create_backbone(config.backbone, **config.backbone_kwargs)
        self.statistics_guard: StatisticsGuard | None = None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): normalized images; or `(B, F)`: features of the
                backbone, returned as `pooler_output`.
            return_dict (`bool`, *optional*): `False` returns a tuple instead of an output object (default: the
                configuration's).
            output_hidden_states (`bool`, *optional*): also `hidden_states`, the feature maps `(B, C, H, W)` of timm's
                `forward_intermediates` (default: the configuration's).
            output_attentions (`bool`, *optional*): not supported.

        Returns:
            `BaseModelOutputWithPooling` with `last_hidden_state` (from the backbone's `forward_features`) and
            `pooler_output` `(B, F)`.

        Raises:
            ValueError: attentions, or feature maps that the backbone does not support, were requested.
        """
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError("output_attentions=True is not supported, because timm backbones return none: remove it")
        if pixel_values.ndim == 2:
            return self.as_asked(BaseModelOutputWithPooling(pooler_output=pixel_values), return_dict)
        states = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            if not hasattr(self.backbone, "forward_intermediates"):
                raise ValueError(
                    f"output_hidden_states=True is not supported by the backbone {self.config.backbone!r}: remove it"
                )
            hidden, states = self.backbone.forward_intermediates(pixel_values)
        else:
            hidden = self.backbone.forward_features(pixel_values)
        pooled = self.backbone.forward_head(hidden, pre_logits=True)
        states = None if states is None else tuple(states)
        output = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled, hidden_states=states)
        return self.as_asked(output, return_dict)


class CosineClassifier(nn.Linear):
    """Logits that are `scale` times the cosines of features and class centers, the rows of `weight`; without bias.

    Lengths have no effect, so that classes of few images, whose centers are short, have no disadvantage.

    Args:
        features (`int`): width of the features.
        classes (`int`): number of classes.
        scale (`float`): that the cosines are multiplied by.
        learn_scale (`bool`): whether training changes it.
    """

    def __init__(self, features: int, classes: int, scale: float, learn_scale: bool) -> None:
        super().__init__(features, classes, bias=False)
        self.initial_scale = scale
        self.scale = nn.Parameter(torch.tensor(float(scale)), requires_grad=learn_scale)

    def forward(self, input: Tensor) -> Tensor:
        """
        Args:
            input (`Tensor` of shape `(B, F)`): features.

        Returns:
            `(B, C)` logits, in float32 at least.
        """
        # Not in half precision: a scale of 25 on cosines of 8 bits would round logits to tenths.
        with torch.autocast(input.device.type, enabled=False):
            wide = torch.promote_types(input.dtype, torch.float32)
            features, centers = input.to(wide), self.weight.to(wide)
            return F.linear(F.normalize(features, dim=-1) * self.scale.to(wide), F.normalize(centers, dim=-1))


class PaCoForImageClassification(PaCoPreTrainedModel):
    """Image classification model: a timm backbone and a classifier, whose weight rows are PaCo's class centers.

    Example:

    ```python
    model = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=3, image_size=32)
    logits = model(torch.randn(2, 3, 32, 32)).logits  # (2, 3)
    ```
    """

    def __init__(self, config: PaCoConfig, paco: PaCoModel | None = None, classifier: nn.Linear | None = None) -> None:
        """`paco` and `classifier` (*optional*): modules of another model, whose weights are shared."""
        super().__init__(config)
        # transformers derives this from the class name, which fits no subclass.
        self.loss_type = "ForImageClassification"
        self.paco = PaCoModel(config) if paco is None else paco
        width, classes = feature_size(self.paco.backbone), config.num_labels
        if classifier is None and config.classifier == "cosine":
            classifier = CosineClassifier(width, classes, config.classifier_scale, config.learn_classifier_scale)
        self.classifier = classifier or nn.Linear(width, classes)
        self.post_init()

    @classmethod
    @torch.inference_mode(False)
    def from_timm(
        cls,
        backbone: str,
        pretrained: bool = False,
        backbone_kwargs: dict[str, Any] | None = None,
        pretrained_file: str | os.PathLike | None = None,
        classifier_init_std: float | None = None,
        *,
        pretrained_revision: str | None = None,
        **config: Any,
    ) -> "PaCoForImageClassification":
        """Create a model from a timm backbone, with a randomly initialized classifier.

        Args:
            backbone (`str`): a timm name, with its tag (`resnet50.a1_in1k`) or an `hf-hub:` id.
            pretrained (`bool`, *optional*, defaults to `False`): load timm's weights; needs the network or its cache.
            backbone_kwargs (`dict`, *optional*): keyword arguments of `timm.create_model`.
            pretrained_file (path, *optional*): a local file of weights for this backbone: safetensors, or a file for
                `torch.load(weights_only=True)`, such as those of torchvision or MAE. Its classifier is ignored, and
                position embeddings are resampled to the model's size.
            classifier_init_std (`float`, *optional*): initialize the classifier from a truncated normal with
                this standard deviation and zero bias (MAE's fine-tuning: 2e-5), instead of PyTorch's uniform.
            pretrained_revision (`str`, *optional*): branch, tag or commit of timm's weights on the Hub.
            config: fields of [`PaCoConfig`], such as `num_labels`, `class_counts`, `image_size`.

        Raises:
            OSError: pretrained weights cannot be downloaded or read.
            ValueError: an unknown backbone, an invalid field, or weights of another backbone.
        """
        model = cls(PaCoConfig(backbone=backbone, backbone_kwargs=backbone_kwargs, **config))
        if classifier_init_std is not None:
            nn.init.trunc_normal_(model.classifier.weight, std=classifier_init_std)
            if model.classifier.bias is not None:
                nn.init.zeros_(model.classifier.bias)
        if pretrained or pretrained_file is not None:
            # After `post_init`, which must not touch what is loaded here.
            kwargs = model.config.backbone_kwargs
            load_pretrained(model.paco.backbone, backbone, kwargs, pretrained_file, pretrained_revision)
        return model

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            pixel_values (`Tensor` of shape `(B, 3, H, W)`): normalized images.
            labels (`Tensor` of shape `(B,)`, *optional*): class indices; adds the plain cross-entropy as `loss`.
            return_dict (`bool`, *optional*): `False` returns a tuple instead of an output object (default: the
                configuration's).
            kwargs: `output_hidden_states` and others of [`PaCoModel`].

        Returns:
            `ImageClassifierOutput` with `logits` `(B, C)`: balanced (of cross-entropy: as in training), no prior
            added, unless the configuration has a `temperature` or an `inference_prior`. With `abstention` in it also
            `abstained` `(B,)`: true where the model abstains; a tuple does not have it.

        Raises:
            ValueError: as [`PaCoModel`].
        """
        encoded = self.paco(pixel_values, return_dict=True, **kwargs)
        logits = self.adjust_logits(self.classifier(encoded.pooler_output))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = ImageClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return with_abstention(self.as_asked(output, return_dict), self.config)

    def set_prior(self, prior: Any, tau: float = 1.0) -> None:
        """Adapt the model to the class frequencies of the place where it is used (Bayes' rule).

        `logits`, `pipeline` and a saved checkpoint use them until you undo it. You cannot train a model with a prior.

        Args:
            prior (`C` numbers, a list, an array or a tensor, or `None`): counts or probabilities of the classes, all
                positive; `None` undoes it, and the logits are again as trained: balanced, or of cross-entropy for
                classes as frequent as in training.
            tau (`float`, *optional*, defaults to `1.0`): how far to follow the prior: it is raised to this power. 0 is
                balanced.

        Raises:
            ValueError: not one positive number for each class, or a `tau` that is negative or no number.
        """
        if not (isinstance(tau, Real) and 0 <= tau < math.inf):
            raise ValueError(f"tau must be 0 or more, got {tau!r}")
        checked = copy.copy(self.config)
        frequencies = checked.inference_prior = as_numbers("prior", prior, float)
        checked.check()
        if frequencies is not None:
            log_prior = torch.tensor(frequencies, dtype=torch.float64).log() * tau
            # What float32 cannot hold would become a logit of minus infinity.
            frequencies = log_prior.softmax(0).clamp(min=torch.finfo(torch.float32).tiny).tolist()
        self.config.inference_prior = frequencies

    def adjust_logits(self, logits: Tensor) -> Tensor:
        """The classifier's `(B, C)` logits, calibrated and shifted to the prior of the configuration where it has
        these."""
        return adjusted_logits(logits, self.config)

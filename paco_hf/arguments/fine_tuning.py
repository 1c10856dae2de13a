"""How a pretrained backbone is fine-tuned where the user left it open: by its kind, as others fine-tune such ones."""

from dataclasses import dataclass, field
from typing import Any

from timm.models import is_model_in_modules

from ..models.pretrained_backbones import BackboneSource

# Modules of timm whose models are transformers that know their layers.
_TRANSFORMERS = (
    *("beit", "cait", "coat", "convit", "crossvit", "davit", "deit", "eva", "gcvit", "hiera", "maxxvit", "mvitv2"),
    *("naflexvit", "nest", "pvt_v2", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit"),
    *("tnt", "twins", "vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos"),
    *("vision_transformer_sam", "vitamin", "volo", "xcit"),
)
_CONVNEXTS = ("convnext",)


@dataclass(frozen=True)
class FineTuning:
    """What is set where a pretrained backbone is trained.

    Args:
        source (`str`): what it is, and whose, for the user to read.
        learning_rate (`float`): of the backbone.
        batch (`int`, *optional*): images a step that the rate is for, and in proportion to; `None`: of each batch.
        head_factor (`float`, *optional*): rate of classifier and projector, as a multiple; `None`: no other.
        settings (`dict`, *optional*): others by name.
    """

    source: str
    learning_rate: float
    batch: int | None = None
    head_factor: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def rate(self, batch: int) -> float:
        """The backbone's learning rate.

        Args:
            batch (`int`): images a step over all processes.
        """
        return self.learning_rate if self.batch is None else self.learning_rate * batch / self.batch


_ADAMW = {"optim": "adamw_torch", "decay_all_parameters": False}

# The last is measured with an EfficientNet in `benchmarks/pretrained.md`; the others are not.
TRANSFORMER = FineTuning(
    "AdamW with layer-wise decay, as in MAE's fine-tuning of ViTs",
    5e-4,
    256,
    settings={**_ADAMW, "layer_decay": 0.75, "weight_decay": 0.05},
)
CONVNEXT = FineTuning(
    "AdamW with layer-wise decay, as in ConvNeXt's fine-tuning",
    5e-5,
    settings={**_ADAMW, "layer_decay": 0.93, "weight_decay": 1e-8, "warmup_epochs": 0},
)
CONVOLUTIONAL = FineTuning(
    "SGD, with a head learning rate of 10 times the backbone's, as in Dive into Deep Learning",
    0.02,
    128,
    head_factor=10,
)


def choose_fine_tuning(backbone: BackboneSource, optimizer: str | None) -> FineTuning | None:
    """How a backbone of its kind is fine-tuned.

    * Transformers: as MAE's authors do (He et al. 2022, table 9; `FINETUNE.md` of their code): AdamW, 5e-4 for 256
      images, weight decay 0.05 but on biases, norms and position embeddings. That is their rate of ViT-B; the layer
      decay of 0.75 is that of ViT-L and ViT-H (ViT-B: 0.65), since it must not stop the first layers of deeper ones.
      BEiT's authors use 0.65 to 0.9.
    * ConvNeXts: as their authors do from ImageNet-22K (Liu et al. 2022, appendix A.2; `TRAINING.md` of their code):
      AdamW, 5e-5 for 512 images, no warm-up, weight decay 1e-8. Their layer decay of 0.8 is from three blocks to three
      blocks, timm's from block to block: 0.93 is its cube root. The rate is kept for smaller batches, since Adam's
      steps do not grow with them, and small data have few.
    * Others: SGD, what is new at 10 times the backbone's rate, as in Dive into Deep Learning (section "Fine-Tuning");
      fastai, too, gives the body a tenth of the head's (`slice(rate)`). The backbone's rate is a fifth of that from
      scratch, and in proportion to the batch.

    Args:
        backbone (`BackboneSource`): what the backbone is built of.
        optimizer (`str`, *optional*): that the user chose.

    Returns:
        `None` where none of these has the optimizer.
    """
    if optimizer is None or optimizer.startswith("adamw_torch"):
        if is_model_in_modules(backbone.architecture, _TRANSFORMERS):
            return TRANSFORMER
        if is_model_in_modules(backbone.architecture, _CONVNEXTS):
            return CONVNEXT
    return CONVOLUTIONAL if optimizer in (None, "sgd") else None

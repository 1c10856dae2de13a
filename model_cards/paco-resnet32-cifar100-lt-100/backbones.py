"""The backbones of the papers that timm lacks, registered in timm: `timm.create_model` is the only door to a backbone.

`cifar_resnet20/32/44/56` are He et al.'s CIFAR ResNets (section 4.2): 3x3 stem, three stages of 16, 32 and 64
channels, parameter-free ("option A") shortcuts. `cifar_resnet50` is the bottleneck ResNet-50 with a 3x3 stem and no
max-pool.
"""

import difflib
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torch.nn.functional as F
import transformers
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """CIFAR ResNet of depth `6 * blocks + 2`: `(B, in_chans, H, W)` to `(B, 64)` features or class logits."""

    global_pool: str

    def __init__(self, blocks: int, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__()
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool must be 'avg' or '', got {global_pool!r}")
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(_BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.fc = nn.Linear(64, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class CifarResNet50(ResNet):
    """timm's ResNet-50 with a 3x3 stride-1 stem and no max-pool."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(block=Bottleneck, layers=(3, 4, 6, 3), **kwargs)
        self.conv1 = nn.Conv2d(kwargs.get("in_chans", 3), 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")


_DEFAULT_CFG = {
    "url": "",
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs(
    {f"cifar_resnet{depth}.untrained": dict(_DEFAULT_CFG) for depth in (20, 32, 44, 50, 56)}
)


def _register(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    # This file is loaded twice where the package is installed and a checkpoint brings its own copy as remote code.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Overwriting")
        return register_model(function)


@_register
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet, "cifar_resnet20", pretrained, blocks=3, **kwargs)


@_register
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet, "cifar_resnet32", pretrained, blocks=5, **kwargs)


@_register
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet, "cifar_resnet44", pretrained, blocks=7, **kwargs)


@_register
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet, "cifar_resnet56", pretrained, blocks=9, **kwargs)


@_register
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarResNet50, "cifar_resnet50", pretrained, **{"zero_init_last": False, **kwargs})


def create_backbone(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`timm.create_model` without a classifier, and with an error that helps where the name is unknown.

    Returns:
        `nn.Module` that maps `(B, 3, H, W)` images to `(B, F)` pooled features, `F` being its `head_hidden_size`.

    Raises:
        ValueError: unknown name (near matches are listed), or keyword arguments that the model does not take.
    """
    if not isinstance(name, str):
        raise ValueError(f"backbone must be the name of a timm model, got {name!r}")
    if not name.startswith("hf") and not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=4, cutoff=0.6)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists the names"
        raise ValueError(f"unknown backbone {name!r}: {hint} (timm {timm.__version__})")
    if pretrained:
        return timm.create_model(name, pretrained=True, num_classes=0, **kwargs)
    try:
        model = timm.create_model(name, num_classes=0, **kwargs)
    except Exception as error:  # timm's models raise whatever their constructors run into
        if torch.get_default_device().type == "meta":  # as in loading; not every model can be built without memory
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                return create_backbone(name, **kwargs)
        # transformers 4 loads so by other means, which nothing here turns off.
        if "meta" in str(error) and transformers.__version__.startswith("4."):
            raise ValueError(
                f"backbone {name!r} cannot be loaded by transformers {transformers.__version__} (timm "
                f"{timm.__version__}): install transformers 5 or later"
            ) from error
        raise ValueError(
            f"backbone {name!r} cannot be built with the arguments {kwargs} ({type(error).__name__}: {error})"
        ) from error
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise ValueError(
            f"backbone {name!r} with the arguments {kwargs} has no pooled features: choose another backbone"
        )
    return model


@dataclass
class LoadReport:
    """What PyTorch finds when a state dict is loaded: keys without a value, and values of another shape."""

    missing: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


@contextmanager
def watch_loading() -> Iterator[LoadReport]:
    """Report on the state dict that is loaded into a model that is built in this block.

    timm builds a model, converts the keys of a file to its own, and loads them, all in one call that returns the model
    alone.
    """
    report = LoadReport()

    def loading(module: Any, state: Any, prefix: Any, metadata: Any, strict: Any, *lists: list[str]) -> None:
        # The lists are those of the whole model, and are filled while its modules are loaded one by one.
        report.missing, _, report.mismatches = lists

    def registered(module: Any, name: str, child: Any) -> None:
        if child is not None:
            child.register_load_state_dict_pre_hook(loading)

    handle = register_module_module_registration_hook(registered)
    try:
        yield report
    finally:
        handle.remove()


class StatisticsGuard:
    """Counts each batch once in the running statistics of BatchNorm, under gradient checkpointing too.

    Checkpointing computes layers once more in the backward pass, which would count their batch again. The backward
    pass through a model starts at its output, and is over when the model is called again.

    Args:
        model (`nn.Module`): its output is one of transformers', or a tuple, whose first two tensors are features.
    """

    def __init__(self, model: nn.Module) -> None:
        self.in_backward = False
        self.momentum: dict[nn.Module, float | None] = {}
        model.register_forward_pre_hook(self._start_forward)
        model.register_forward_hook(self._end_forward)
        for module in model.modules():
            if isinstance(module, BATCH_NORMS) and module.track_running_stats:
                module.register_forward_pre_hook(self._pause)
                module.register_forward_hook(self._resume, always_call=True)

    def _start_forward(self, model: nn.Module, inputs: Any) -> None:
        self.in_backward = False

    def _end_forward(self, model: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output[:2]:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(self._start_backward)

    def _start_backward(self, gradient: Tensor) -> None:
        self.in_backward = True

    def _pause(self, module: Any, inputs: Any) -> None:
        if self.in_backward and module.training:
            self.momentum[module], module.momentum = module.momentum, 0.0
            module.num_batches_tracked.sub_(1)

    def _resume(self, module: Any, inputs: Any, output: Any) -> None:
        if module in self.momentum:
            module.momentum = self.momentum.pop(module)


def timm_defaults(name: str) -> Any:
    """timm's default configuration of a model (`input_size`, `fixed_input_size`, ...), `None` where it has none."""
    return timm.get_pretrained_cfg(name) if timm.is_model(name) else None


def feature_size(backbone: nn.Module) -> int:
    """Width `F` of the pooled features. timm keeps it in `head_hidden_size`, older models in `num_features`."""
    size: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return int(size)


def load_pretrained(
    target: nn.Module,
    name: str,
    kwargs: dict[str, Any],
    file: str | os.PathLike | None,
    revision: str | None = None,
) -> None:
    """Fill a backbone that was just built with timm's weights of this name, or with those of a file.

    Args:
        target (`nn.Module`): the backbone.
        name (`str`): a timm name, with its tag, or an `hf-hub:` id.
        kwargs (`dict`): keyword arguments of `timm.create_model` that it was built with.
        file (path, *optional*): the weights, in place of timm's.
        revision (`str`, *optional*): of timm's weights on the Hub: branch, tag or commit.

    Raises:
        OSError: weights that cannot be had or read.
        ValueError: there are none, or they are another backbone's.
    """
    # A number of classes that no file has: timm then drops the classifier, and does not insist on every weight.
    overlay = {"num_classes": -1, **kwargs.get("pretrained_cfg_overlay", {})}
    if file is not None:
        if not os.path.isfile(file):
            raise OSError(f"pretrained_file {os.fspath(file)!r} is not a file: pass a file of weights")
        overlay["file"] = os.fspath(file)
    elif timm.is_model(name) and not resolve_pretrained_cfg(name, pretrained_cfg_overlay=overlay).has_weights:
        raise ValueError(
            f"timm has no pretrained weights for {name!r}: choose another backbone, pass --pretrained_file "
            "FILE, or train from scratch"
        )
    elif revision and timm.is_model(name):
        overlay["hf_hub_id"] = f"{resolve_pretrained_cfg(name, pretrained_cfg_overlay=overlay).hf_hub_id}@{revision}"
    source = overlay.get("file") or f"the pretrained weights of {name!r}"
    # Its warnings list what a file has besides the backbone's weights, such as its classifier's.
    log = logging.getLogger("timm.models")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with watch_loading() as report:
            loaded = create_backbone(name, pretrained=True, **{**kwargs, "pretrained_cfg_overlay": overlay})
    except Exception as error:  # hubs, files and shapes fail in many ways
        reason = " ".join(str(error).split())
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise OSError(
                f"{source} contains pickled objects other than weights, which are not loaded, or is damaged: if "
                f"you trust it, save its state dict as safetensors ({reason.split(' No automatic')[0]})"
            ) from error
        if report.mismatches:
            mismatches = " ".join(" ".join(report.mismatches).split())
            raise ValueError(f"{source} does not match the backbone {name!r}: {mismatches:.300}") from error
        advice = (
            ""
            if "file" in overlay
            else " Without network access they must be in the cache: else pass --pretrained_file FILE or --backbone "
            "FOLDER."
        )
        raise OSError(f"cannot load {source} ({type(error).__name__}: {reason:.300}).{advice}") from error
    finally:
        log.setLevel(level)
    tensors = loaded.state_dict()
    # Encoders pretrained without average pooling have no norm after it: it starts fresh, as in MAE's fine-tuning.
    missing = [key for key in report.missing if not key.startswith("fc_norm.")]
    if missing:
        raise ValueError(
            f"{source} is missing {len(missing)} of the {len(tensors)} weights of the backbone {name!r}, the "
            f"first is {missing[0]}: pass weights of this backbone"
        )
    target.load_state_dict(tensors)

"""Where a backbone comes from: timm's names, a folder that timm saved, or a timm model on the Hub."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from timm.models import load_model_config_from_hf

# What `create_model("local-dir:...")` reads a folder with; timm has no public name for it.
from timm.models._hub import load_model_config_from_path

from ..utils.hub_names import join_revision, model_repository
from .backbones import create_backbone, timm_defaults

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass
class BackboneSource:
    """What a backbone is built of: a checkpoint loads elsewhere by its architecture alone."""

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)  # of `timm.create_model`
    weights: str | None = None  # file
    config: dict[str, Any] | None = None  # timm's configuration of the weights: input size, mean, ...


def find_backbone(name: str, revision: str | None = None) -> BackboneSource:
    """What `--backbone` means.

    Args:
        name (`str`): a name of timm's; `hf://user/name` (timm's `hf-hub:user/name`); or a folder with `config.json`
            and `model.safetensors` or `pytorch_model.bin`, as timm and `paco-hf export --to timm` write it.
        revision (`str`, *optional*): of a model on the Hub: branch, tag or commit.

    Raises:
        OSError: there is no such folder or model, or it lacks a file.
        ValueError: it is another library's, or an unknown name.
    """
    for prefix in ("hf://", "hf-hub:", "hf_hub:"):
        if name.startswith(prefix):
            return _from_hub(name, join_revision(name.removeprefix(prefix), revision))
    folder = name.removeprefix("local-dir:")
    if folder == name and (timm.is_model(name) or not ("/" in name or Path(name).is_dir())):
        if not timm.is_model(name):
            create_backbone(name)  # its error names near ones
        defaults = timm_defaults(name)
        return BackboneSource(name, config=defaults.to_dict() if defaults else None)
    path = Path(folder)
    if not path.is_dir():
        raise OSError(
            f"backbone {name!r} is neither a folder nor a timm model: use a folder with config.json and weights, "
            "a timm model, or hf://user/name"
        )
    if not (path / "config.json").is_file():
        raise OSError(
            f"backbone {name!r} has no config.json, which timm's save_for_hf writes next to the weights: save the "
            "model with it"
        )
    weights = find_weights(name)
    if not weights:
        raise OSError(f"backbone {name!r} has no weights ({' or '.join(_WEIGHTS)}): put them next to its config.json")
    return _described(name, lambda: load_model_config_from_path(path), weights[0])


def find_weights(name: str) -> list[str]:
    """The files of weights in the folder that `--backbone` is, the one that is loaded first; none where it is no
    folder."""
    path = Path(name.removeprefix("local-dir:"))
    return [str(path / file) for file in _WEIGHTS if name and (path / file).is_file()]


def _from_hub(name: str, repo: str) -> BackboneSource:
    try:
        source = _described(name, lambda: load_model_config_from_hf(repo), None)
        repo_id, _, revision = repo.partition("@")
        try:
            source.weights = hf_hub_download(repo_id, _WEIGHTS[0], revision=revision or None)
        except OSError:
            source.weights = hf_hub_download(repo_id, _WEIGHTS[1], revision=revision or None)
        return source
    except ValueError:
        raise
    except Exception as error:  # the Hub's clients raise a dozen types here, and all of them mean the same to the user
        raise OSError(
            f"backbone {name!r} cannot be loaded from the Hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}): check the name, or without network access use a local folder"
        ) from error


def _described(name: str, read: Any, weights: str | None) -> BackboneSource:
    try:
        config, architecture, options = read()
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the config.json of backbone {name!r} is not in timm format ({type(error).__name__}: {error}): "
            "convert a checkpoint of this package with `paco-hf export RUN OUT --to timm`"
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(
            f"backbone {name!r} has an architecture that the installed timm does not have, {architecture!r}: "
            "upgrade timm"
        )
    kept = {key: value for key, value in (options or {}).items() if key != "num_classes"}
    if "img_size" in kept:
        kept["img_size"] = one_side(kept["img_size"], name)
    return BackboneSource(architecture, kept, weights, config)


def one_side(size: Any, name: str) -> int:
    """An input size of timm's, a number or one for each side, as the side of a square.

    Raises:
        ValueError: the sides differ, or are no whole numbers.
    """
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"img_size of the backbone {name!r} must be the side of a square in pixels, got {size!r}")
    return int(sides.pop())


def weights_id(name: str) -> str | None:
    """The Hub id of a backbone's pretrained weights, `None` where they are not on the Hub."""
    if repository := model_repository(name):
        return repository
    defaults = timm_defaults(name)
    if defaults is None or not defaults.hf_hub_id:
        return None
    hub_id = str(defaults.hf_hub_id)
    return f"{hub_id}{timm.get_arch_name(name)}.{defaults.tag}" if hub_id.endswith("/") else hub_id

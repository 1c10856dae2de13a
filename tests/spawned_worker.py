"""What a spawned process does with a configuration, a class and a model that it is sent. Imports nothing of ours."""

from typing import Any


def describe(config: Any, cls: type, model: Any) -> tuple[str, bool, int]:
    from transformers import AutoModel

    same = type(AutoModel.from_config(config)) is cls
    return type(config).__name__, same, sum(p.numel() for p in model.parameters())

"""Settings and texts without the paths of a computer."""

import re
from pathlib import Path
from typing import Any

from ..arguments.run_arguments import RunArguments
from ..data.spec import public_name

_PATHS = ("dataset_path", "train_list", "validation_list", "test_list", "exclude_list", "pretrained_file")


def public_settings(settings: dict[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Settings of a run without what tells of its computer: paths are left out, of a folder its name stays.

    `dataset` is the public name, which was known when the run was made. Without it a name with a slash may be a path.
    """
    kept = {name: value for name, value in settings.items() if name not in _PATHS}
    if "dataset" in kept:
        kept["dataset"] = dataset or Path(str(kept["dataset"])).name
    if kept.get("class_centers") not in (None, "random", "means"):
        kept["class_centers"] = Path(kept["class_centers"]).name
    if "backbone" in kept and not str(kept["backbone"]).startswith("hf"):
        # A folder that timm saved; a name of timm's stays as it is.
        kept["backbone"] = Path(kept["backbone"]).name
    if isinstance(kwargs := kept.get("backbone_kwargs"), dict):
        kept["backbone_kwargs"] = {key: value for key, value in kwargs.items() if key != "pretrained_cfg_overlay"}
    return kept


def public_text(text: str, run: RunArguments) -> str:
    """A text without the path of the data: of a folder its name stays."""
    for path in filter(None, (run.dataset, run.dataset_path)):
        if (name := public_name(path)) != path:
            escaped = name.replace("\\", r"\\")
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?![\w-]|\.\.)", escaped, text)
    return text

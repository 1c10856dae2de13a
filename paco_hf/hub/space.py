"""A folder that runs as a Space: the model, the page of [`paco_hf.webapp.app`], and what they need."""

import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi

from ..inference.index_folder import INDEX_FOLDER, check_included_index
from ..reports.run_summary import read_subject
from ..runs.layout import CARD_NAME
from ..utils.files import new_folder, write_text
from ..utils.folder_contents import list_image_files
from ..utils.images import open_image
from .errors import hub_errors
from .upload import check_no_paths, full_name, make_repo, stage_model

_PACKAGE = Path(__file__).parents[1]
_TIMM_PAGE = ("gradio", "pillow", "timm", "torch", "torchvision", "transformers")  # what the page of timm's form needs

# What the card says of the page.
_SHOWN = (
    "the classes with their frequency in training, and how\nthe result changes for other class frequencies{nearest}."
)
_PLAIN = (
    "its most likely classes. It needs no code but `app.py`, which\ncalls `pipeline`, so it does not show the class "
    "frequencies in training, the result for different class frequencies, or\nthe nearest training images. It "
    "predicts a class for every image, without abstaining. A cosine classifier was converted\nto a linear one, with "
    "the same most likely class and other probabilities."
)

# What a page does not show: datasets, recipes, metrics for others.
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "builtin", "evaluate_modules")


def _template(name: str) -> str:
    return (_PACKAGE / "templates" / name).read_text(encoding="utf-8")


def requirements(timm: bool = False) -> list[str]:
    """What the page needs, as this installation of the package says it, without what only tests and exports need.

    Args:
        timm (`bool`, *optional*, defaults to `False`): the page of timm's form, without this package's code.
    """
    needed = []
    for line in importlib.metadata.requires("paco-hf") or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or re.fullmatch(r"extra == ['\"]demo['\"]", marker):
            needed.append(requirement)
    if timm:
        needed = [line for line in needed if re.split(r"[^\w-]", line, maxsplit=1)[0].lower() in _TIMM_PAGE]
    return sorted(needed)


def space_inputs(examples: list[str] | None) -> tuple[list[Path], dict[str, str]]:
    """The image files to offer on a page, and the versions that its card names.

    Raises:
        ValueError, OSError: an example cannot be decoded, or does not exist.
        ImportError: `gradio` is not installed.
    """
    pictures = list_image_files(examples or ())
    for file in pictures:
        open_image(file, str(file))
    try:
        return pictures, {"gradio": importlib.metadata.version("gradio"), "python": "{}.{}".format(*sys.version_info)}
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("a Space needs gradio, which is not installed: pip install 'paco-hf[demo]'") from error


def write_space(
    run: str | Path,
    folder: str | Path,
    title: str,
    examples: list[str] | None = None,
    include_index: bool = False,
    *,
    timm_model: Path | None = None,
) -> Path:
    """Write the folder of a Space: complete, or not at all.

    It has the model (weights, configuration, image processor), examples, `app.py`, `requirements.txt`, the card that
    tells the Hub how to run it, and this package's code, which no registry needs to have.

    Args:
        run (path): run folder or checkpoint.
        folder (path): new.
        title (`str`): of the page's card.
        examples (list of paths, *optional*): image files or folders to offer on the page.
        include_index (`bool`, *optional*, defaults to `False`): also the index of `paco-hf index`, which has small
            copies of the training images: they become public with the Space.
        timm_model (`Path`, *optional*): the run as [`paco_hf.conversion.export_timm`] wrote it. The Space then has
            this model and a page that only classifies, in place of this package's code and its page.

    Raises:
        ValueError: no finished model, no index to include, a folder with something in it, or an example that cannot
            be decoded.
        OSError: an example does not exist.
        ImportError: `gradio` is not installed, whose version the card names.
    """
    run = Path(run)
    if include_index:
        check_included_index(run)
    pictures, versions = space_inputs(examples)
    with new_folder(folder) as made:
        if timm_model:
            shutil.copytree(timm_model, made / "model")
        else:
            (made / "model").mkdir()
            stage_model(run, made / "model", include_training_state=False)
            shutil.copytree(_PACKAGE, made / "paco_hf", ignore=_LEFT_OUT)
        if include_index:
            shutil.copytree(run / INDEX_FOLDER, made / "model" / INDEX_FOLDER)
        for i, file in enumerate(pictures):
            (made / "examples").mkdir(exist_ok=True)
            shutil.copyfile(file, made / "examples" / f"{i + 1:02d}-{file.name}")
        write_text(
            made / "app.py", _template("space_app_timm.txt" if timm_model else "space_app.txt").format(title=title)
        )
        write_text(made / "requirements.txt", "\n".join(requirements(timm=timm_model is not None)) + "\n")
        subject = read_subject(run)
        about = f"a classifier of {subject.config.num_labels:,} classes" if subject.config else "a classifier"
        filled = {"title": title, "quoted": json.dumps(title), "about": about, **versions}
        nearest = ", and the nearest training images" if include_index else ""
        shown = _PLAIN if timm_model else _SHOWN.format(nearest=nearest)
        card = _template("space_card.md").format(shown=shown, **filled)
        write_text(made / CARD_NAME, card)
        check_no_paths(made / "model")
    return Path(folder)


def push_space(
    folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None
) -> CommitInfo | Any:
    """Publish what [`write_space`] wrote, as one commit.

    Args:
        folder (path): of the Space.
        repo_id (`str`): `user/name`; it is made where it does not exist.
        private (`bool`, *optional*, defaults to `False`): only its owner sees it.
        token (`str`, *optional*): of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Raises:
        ValueError: a public Space that was to be private.
        OSError: the Hub refuses, or cannot be reached.
    """
    api = HfApi(token=token, library_name="paco_hf")
    with hub_errors(f"the Space {repo_id} cannot be created on the Hub"):
        repo_id = full_name(api, repo_id)
        make_repo(api, repo_id, private, "space", space_sdk="gradio")
    with hub_errors(f"{folder} cannot be uploaded to the Space {repo_id}"):
        return api.upload_folder(
            repo_id=repo_id, repo_type="space", folder_path=folder, commit_message="Upload with paco_hf"
        )

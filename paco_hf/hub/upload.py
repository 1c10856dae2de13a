"""To the Hub: what of a run goes there, and how. Errors of the Hub in one line, with what to do."""

import dataclasses
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from ..arguments.run_arguments import RunArguments
from ..arguments.settings import run_settings
from ..data.manifest_file import write_manifest
from ..data.spec import SPLITS_NAME
from ..data.split_manifest import public_manifest
from ..inference.load_model import load_classifier, load_processor
from ..models.lora import ADAPTER_FOLDER
from ..models.modeling_contrastive import TRAINING_STATE_NAME
from ..reports.model_card import write_card
from ..reports.model_card_text import NO_LICENSE
from ..reports.run_summary import read_subject
from ..runs.folder import RunFolder
from ..runs.layout import (
    ADDED_NAME,
    CARD_NAME,
    CONVERSION_NAME,
    EVALUATION_FOLDER,
    FIGURE_NAMES,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECIPE_NAME,
    RESULTS_NAME,
    RUN_NAME,
)
from ..runs.redaction import public_settings
from ..utils.files import as_yaml, new_folder, write_json, write_text
from .errors import hub_errors


def push(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    include_training_state: bool = False,
    include_predictions: bool = False,
    license: str | None = None,
    token: str | None = None,
    commit_message: str = "Upload with paco_hf",
) -> CommitInfo:
    """Push a run folder or checkpoint to the Hub: weights, code, processor, card, results, figures and recipe.

    All files are in one commit, so an interrupted push changes nothing, and repeating it uploads only missing files.
    The optimizer state and local paths are never uploaded.

    Args:
        run (path): the folder.
        repo_id (`str`): `user/name`; created if it does not exist.
        private (`bool`, *optional*, defaults to `False`): make the repository private.
        revision (`str`, *optional*): branch; created if it does not exist.
        include_training_state (`bool`, *optional*, defaults to `False`): also push projector, key encoder and queue of
            the last checkpoint.
        include_predictions (`bool`, *optional*, defaults to `False`): also push the per-image results of the
            evaluation, which contain file names.
        license (`str`, *optional*): license identifier of the Hub (default: that of the card, else `unknown`).
        token (`str`, *optional*): Hub token (default: from `hf auth login` or `HF_TOKEN`).
        commit_message (`str`, *optional*).

    Raises:
        ValueError: there is no finished model, no training state to include, or a public repository despite `private`.
        OSError: the Hub refuses the request, or cannot be reached.
    """
    repo_id = owned_name(repo_id, token)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(*(run, folder, repo_id, include_training_state, license), include_predictions=include_predictions)
        return send_model(
            folder,
            repo_id,
            name=str(run),
            private=private,
            revision=revision,
            token=token,
            commit_message=commit_message,
        )


def write_model(
    run: str | Path,
    folder: str | Path,
    repo_id: str,
    include_training_state: bool = False,
    license: str | None = None,
    *,
    include_predictions: bool = False,
) -> Path:
    """Write the folder that [`push`] uploads, completely or not at all.

    Args:
        run (path): run folder, checkpoint or converted checkpoint.
        folder (path): a new or empty folder.
        repo_id (`str`): `user/name`, for the examples of the card.
        include_training_state, include_predictions, license (*optional*): as in [`push`].

    Returns:
        `Path` of the folder.

    Raises:
        ValueError: as in [`push`], or the folder is not empty.
    """
    run = Path(run)
    with new_folder(folder) as made:
        stage_model(run, made, include_training_state)
        if include_predictions:
            _stage_predictions(run, made)
        stage_card(run, made, repo_id, license)
        check_no_paths(made)
    return Path(folder)


def send_model(
    folder: str | Path,
    repo_id: str,
    *,
    name: str | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Upload with paco_hf",
) -> CommitInfo:
    """Push a folder to the Hub in one commit.

    Args:
        folder (path): the content of the repository.
        repo_id (`str`): `user/name`; created if it does not exist.
        name (`str`, *optional*): name of the folder in errors (default: its path).
        private, revision, token, commit_message (*optional*): as in [`push`].

    Raises:
        ValueError: the repository is public, but `private` is set.
        OSError: the Hub refuses the request, or cannot be reached.
    """
    api = HfApi(token=token, library_name="paco_hf")
    with hub_errors(f"{repo_id} cannot be created on the Hub"):
        make_repo(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    with hub_errors(f"{name or folder} cannot be uploaded to {repo_id}"):
        return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)


def check_login(repo_id: str, token: str | None = None) -> None:
    """Refuse, before there is work that would be lost, what the Hub would.

    Args:
        repo_id (`str`): `user/name`, or a name there of the user who is logged in.
        token (`str`, *optional*): Hub token (default: from `hf auth login` or `HF_TOKEN`).

    Raises:
        ValueError: it is no id of the Hub.
        OSError: you are not logged in, or the Hub cannot be reached.
    """
    with hub_errors(f"{repo_id} cannot be created on the Hub"):
        validate_repo_id(repo_id)
        HfApi(token=token, library_name="paco_hf").whoami()


def full_name(api: HfApi, repo_id: str) -> str:
    """Complete a name to `user/name`, with the user who is logged in."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def owned_name(repo_id: str, token: str | None = None) -> str:
    """Complete the name of a repository to create to `user/name`, as [`full_name`] does.

    Args:
        repo_id (`str`): `user/name`, or a name there of the user who is logged in.
        token (`str`, *optional*): of the Hub.

    Raises:
        OSError: you are not logged in, or the Hub cannot be reached.
    """
    with hub_errors(f"{repo_id} cannot be created on the Hub"):
        return full_name(HfApi(token=token, library_name="paco_hf"), repo_id)


def make_repo(api: HfApi, repo_id: str, private: bool, repo_type: str = "model", **settings: Any) -> None:
    """Create a repository if it does not exist.

    Args:
        api (`HfApi`): the client.
        repo_id (`str`): `user/name`.
        private (`bool`): make the repository private.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"space"`.
        settings (*optional*): further arguments of `HfApi.create_repo`.

    Raises:
        ValueError: it exists and is public, but `private` is set.
    """
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, **settings)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError("it exists and is public, so nothing is pushed: make it private, or remove --private")


def push_trainer(trainer: Any, **kwargs: Any) -> Any:
    """Push the current model of a [`PaCoTrainer`] to the Hub, with its scores on the `eval_dataset`, if any.

    Args:
        trainer ([`PaCoTrainer`]): its arguments define the repository.
        kwargs: arguments of [`push`]; `None` uses the trainer's arguments.

    Returns:
        `huggingface_hub.CommitInfo`, `None` on all but the main process.
    """
    args = trainer.args
    scores = trainer.evaluate() if trainer.eval_dataset is not None else {}
    if not trainer.is_world_process_zero():
        return None
    name = Path(args.output_dir).resolve().name
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        trainer.save_model(str(folder), _internal_call=True)
        scores = {key.removeprefix("eval_"): value for key, value in scores.items()}
        if "balanced_accuracy" in scores:
            groups = {group: scores.get(group) for group in ("many", "medium", "few")}
            content = {"validation": {**scores, **groups}, "scored": {"split": "the trainer's eval_dataset"}}
            write_json(folder / METRICS_NAME, content)
        write_text(folder / RECIPE_NAME, as_yaml(_method_settings(args, trainer.model.config)))
        settings = {"private": bool(args.hub_private_repo), "revision": args.hub_revision, "token": args.hub_token}
        settings |= {key: value for key, value in kwargs.items() if value is not None}
        return push(folder, args.hub_model_id or name, **settings)


def _method_settings(args: Any, config: Any) -> dict[str, Any]:
    """The settings of a trainer that no command line made: what it knows of data and views is nothing."""
    run = {field.name for field in dataclasses.fields(RunArguments)}
    settings = {name: value for name, value in run_settings(RunArguments(), args).items() if name not in run}
    return {**settings, **{name: getattr(config, name) for name in ("backbone", "backbone_kwargs", "image_size")}}


def stage_model(run: Path, staged: Path, include_training_state: bool) -> None:
    """Copy the files of a run that belong on the Hub to a folder.

    Args:
        run (`Path`): run folder, checkpoint or converted checkpoint.
        staged (`Path`): the folder to fill.
        include_training_state (`bool`): also copy projector, key encoder and queue of the last checkpoint.

    Raises:
        ValueError: there is no training state to include, or it belongs to a model with adapters.
    """
    # Loaded and saved, so that what is sent loads, and has the code of this version.
    model = load_classifier(run)
    model.config.backbone_kwargs = public_settings(model.config.to_dict())["backbone_kwargs"]
    model.save_pretrained(staged)
    load_processor(run).save_pretrained(staged)
    if (run / ADAPTER_FOLDER).is_dir():
        if include_training_state:
            raise ValueError(
                f"{run} has LoRA adapters, whose training state does not match the merged model: remove "
                "--include_training_state"
            )
        shutil.copytree(run / ADAPTER_FOLDER, staged / ADAPTER_FOLDER)
        model.config.save_pretrained(staged / ADAPTER_FOLDER)
    stage_records(run, staged)
    if include_training_state:
        states = [folder / TRAINING_STATE_NAME for folder in (run, *RunFolder(run).checkpoints[-1:])]
        state = next((path for path in states if path.is_file()), None)
        if state is None:
            raise ValueError(
                f"{run} and its checkpoints have no {TRAINING_STATE_NAME}, which only contrastive runs have: "
                "remove --include_training_state"
            )
        shutil.copyfile(state, staged / TRAINING_STATE_NAME)


def stage_records(run: Path, staged: Path) -> None:
    """Put into a folder what a run recorded, without paths of this computer: scores, recipe, splits."""
    source, settings = RunFolder(run), read_subject(run).settings
    for name in (METRICS_NAME, RUN_NAME, CONVERSION_NAME, ADDED_NAME):
        if (run / name).is_file():
            shutil.copyfile(run / name, staged / name)
    if settings:
        write_text(staged / RECIPE_NAME, as_yaml(settings))
    if source.manifest:
        write_manifest(staged / SPLITS_NAME, public_manifest(source.manifest))


def _stage_predictions(run: Path, staged: Path) -> None:
    file = Path(EVALUATION_FOLDER) / PREDICTIONS_NAME
    if not (run / file).is_file():
        raise ValueError(f"{run} has no {file} to include: write it with `paco-hf evaluate {run}`")
    (staged / EVALUATION_FOLDER).mkdir()
    shutil.copyfile(run / file, staged / file)


def stage_card(run: Path, staged: Path, repo_id: str, license: str | None) -> None:
    """Put the card of a run into a folder, with its results and figures: that of the run as it is, else a new one.

    Args:
        run (`Path`): run folder, checkpoint or converted checkpoint.
        staged (`Path`): the folder.
        repo_id (`str`): `user/name`, for the examples.
        license (`str`, *optional*): as that of [`push`].
    """
    if not (run / CARD_NAME).is_file():
        write_card(run, into=staged, repo_id=repo_id, license=license or "unknown")
        return
    # A card that is there may have been edited.
    card: Any = ModelCard((run / CARD_NAME).read_text(encoding="utf-8").replace(f"USER/{run.resolve().name}", repo_id))
    if license:
        card.data.license = license
    if license and license != "unknown":
        card.text = re.sub(rf"^\* {NO_LICENSE}.*\n", "", card.text, flags=re.MULTILINE)
    write_text(staged / CARD_NAME, str(card))
    for name in (RESULTS_NAME, *FIGURE_NAMES):
        if (run / name).is_file():
            (staged / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(run / name, staged / name)


def check_no_paths(staged: Path) -> None:
    """Raise `ValueError` if a file contains a local path."""
    for file in staged.rglob("*"):
        if file.suffix in (".json", ".yaml", ".md"):
            for path in re.findall(r"(?<![\w:/.])/[\w.@+-]+(?:/[\w.@+-]+)+", file.read_text(encoding="utf-8")):
                if Path(path.rstrip(".")).exists():
                    raise ValueError(
                        f"nothing is pushed, because {file.name} contains the local path {path}: edit the file"
                    )

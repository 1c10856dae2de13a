"""The commits of data and weights on the Hub that a run uses: resolved once, kept in its recipe, and used again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..arguments.run_arguments import RunArguments
from ..arguments.training_args import PaCoTrainingArguments
from ..data.spec import DataSpec
from ..models.pretrained_backbones import weights_id
from ..runs.resume_points import resumed_recipe
from ..utils.hub_commits import resolve_commit
from ..utils.hub_names import model_repository, short
from ..utils.main_process import computed_once


def pin_run(run: RunArguments, args: PaCoTrainingArguments) -> RunArguments:
    """The arguments with the commits of what they name on the Hub: those of the run that is resumed, else those that
    the revisions are now, in all processes alike.

    Args:
        run (`RunArguments`): whose `dataset_revision` and `backbone_revision` may be branches, tags or nothing.
        args (`PaCoTrainingArguments`): with the folder of the run.

    Raises:
        ValueError: no such revision, one of what is not on the Hub, or another than that of the run that is resumed.
        OSError: the Hub cannot be reached, and the cache does not have the revision.
    """
    spec, before = DataSpec.from_settings(vars(run)), resumed_recipe(run, args)
    changes: dict[str, Any] = {}
    if spec.repository:
        changes["dataset_revision"] = computed_once(
            lambda: _commit(spec.repository, "dataset", run.dataset_revision, _recorded(before, run, "dataset"))
        )
    return pin_weights(replace(run, **changes), args)


def pin_weights(run: RunArguments, args: PaCoTrainingArguments) -> RunArguments:
    """As [`pin_run`], of the backbone's weights alone, where it is named.

    Args:
        run, args: as those of [`pin_run`].

    Raises:
        ValueError, OSError: as [`pin_run`].
    """
    repository = weights_repository(run)
    if repository:
        recorded = _recorded(resumed_recipe(run, args), run, "backbone")
        commit = computed_once(lambda: _commit(repository, "backbone", run.backbone_revision, recorded))
        return replace(run, backbone_revision=commit)
    if run.backbone and run.backbone_revision:
        raise ValueError(
            f"--backbone {run.backbone} loads nothing from the Hub, so it has no revision {run.backbone_revision!r}: "
            "remove the revision, or use --pretrained true with a timm model, or hf://user/name"
        )
    return run


def weights_repository(run: RunArguments) -> str | None:
    """The id on the Hub of the weights that a run starts from; `None` where they lie elsewhere, or are random.

    Args:
        run (`RunArguments`): of the run.
    """
    if run.backbone is None or run.pretrained_file:
        return None
    return model_repository(run.backbone) or (weights_id(run.backbone) if run.pretrained else None)


def _recorded(before: Mapping[str, Any], run: RunArguments, name: str) -> str | None:
    """The commit in the recipe of the run that is resumed, where that is of the same dataset or backbone."""
    same = (name == "backbone" and run.backbone is None) or before.get(name) == getattr(run, name)
    return before.get(f"{name}_revision") if same else None


def _commit(repository: str | None, name: str, asked: str | None, recorded: str | None) -> str | None:
    kind, flag = ("dataset", "--dataset") if name == "dataset" else ("model", "--backbone")
    if recorded and (asked is None or recorded.startswith(asked)):
        return recorded
    now = resolve_commit(str(repository), asked, kind)
    if recorded and now != recorded:
        raise ValueError(
            f"the run was started with {repository} at {short(recorded)}, but {flag}_revision {asked} is "
            f"{short(now) if now else 'unknown, because the Hub denies access to the repository'}: remove the "
            "revision to resume with the first one, or start over with --overwrite"
        )
    return now or asked

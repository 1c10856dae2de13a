"""A run as what timm and transformers load without code of its own: a folder, a repository of the Hub, a Space."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..conversion.to_timm import TIMM_TOLERANCE, export_timm
from ..hub.space import space_inputs, write_space
from ..hub.upload import check_no_paths, stage_card, stage_records
from ..inference.load_model import load_classifier, load_processor
from ..models.configuration_paco import PaCoConfig
from ..reports.timm_card import adapt_card, check_adaptable
from ..utils.files import new_folder
from .linear_export import LinearCopy, linear_copy


@dataclass(frozen=True)
class TimmForm:
    """What [`write_timm`] wrote.

    Attributes:
        folder (`Path`): where it is.
        config ([`PaCoConfig`]): of the checkpoint.
        linear ([`LinearCopy`], *optional*): what became of a cosine classifier.
    """

    folder: Path
    config: PaCoConfig
    linear: LinearCopy | None

    @property
    def lines(self) -> list[str]:
        """What the user should know."""
        lines = self.linear.lines if self.linear else []
        if self.config.abstention is None:
            return lines
        return [*lines, "this form predicts a class for every image: the abstention thresholds are not included"]


def write_timm(run: str, folder: str | Path, **images: Any) -> TimmForm:
    """Write weights, configuration and image processor.

    Args:
        run (`str`): run folder, checkpoint or Hub id.
        folder (path): does not exist, or is empty.
        images (*optional*): `dataset`, `split` and other fields of [`linear_copy`]: what the temperature of the linear
            classifier that a cosine one becomes is fitted on.

    Raises:
        ValueError, OSError: what [`export_timm`] and [`linear_copy`] raise; images for a linear classifier.
    """
    model, processor = load_classifier(run), load_processor(run)
    config, linear = model.config, None
    if config.classifier == "cosine":
        linear = linear_copy(model, run, **images)
    elif any(images.values()):
        raise ValueError(
            "--dataset, --split and the like are only for a cosine classifier, which is converted with images, "
            f"and {run} has a linear one: remove them"
        )
    export_timm(linear.model if linear else model, folder, image_processor=processor)
    return TimmForm(Path(folder), config, linear)


def write_timm_model(run: str, folder: str | Path, repo_id: str, license: str | None, **images: Any) -> TimmForm:
    """Write the folder of a repository on the Hub: [`write_timm`] with card, results, figures, recipe.

    Args:
        run (`str`): run folder, checkpoint or converted checkpoint.
        folder (path): does not exist, or is empty.
        repo_id (`str`): `user/name`, for the examples of the card.
        license (`str`, *optional*): as that of [`paco_hf.hub.push`].
        images (*optional*): as those of [`write_timm`].

    Raises:
        ValueError, OSError: what [`write_timm`] raises; a card that cannot be adapted, or a file that names a path of
            this computer.
    """
    with new_folder(folder) as made:
        stage_records(Path(run), made)
        stage_card(Path(run), made, repo_id, license)
        check_adaptable(made)  # before images are read
        form = write_timm(run, made / "exported", **images)
        for file in form.folder.iterdir():
            file.rename(made / file.name)
        form.folder.rmdir()
        adapt_card(made, repo_id, form.config, form.linear, TIMM_TOLERANCE)
        check_no_paths(made)
    return TimmForm(Path(folder), form.config, form.linear)


def write_timm_space(
    run: str, folder: str | Path, title: str, examples: list[str] | None = None, **images: Any
) -> TimmForm:
    """Write the folder of a Space whose page needs no code of this package.

    Args:
        run (`str`): run folder or checkpoint.
        folder (path): new.
        title (`str`): of the page's card.
        examples (list of paths, *optional*): image files or folders to offer on the page.
        images (*optional*): as those of [`write_timm`].

    Raises:
        ValueError, OSError, ImportError: what [`write_timm`] and [`write_space`] raise.
    """
    space_inputs(examples)  # before images are read
    with TemporaryDirectory() as scratch:
        form = write_timm(run, Path(scratch) / "model", **images)
        write_space(run, folder, title, examples, timm_model=form.folder)
    return TimmForm(Path(folder), form.config, form.linear)

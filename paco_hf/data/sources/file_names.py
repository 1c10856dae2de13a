"""From the file names in a table to the files that they mean."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ...utils.folder_contents import PassedOver, walk_images
from ...utils.text import examples
from .remote import RemoteData, is_address
from .split_names import are_beside_images

_MOST = 2_000_000  # image files to look through below a folder


class FileFinder:
    """Finds the files of names as people write them.

    What is there under the name as it is comes first. Where nothing is, a name means the only image of that path from
    the folder on, be it written with backslashes or slashes, in whatever case, with accents composed or not, with
    white space around it, or without its suffix; or, where all images in the folder are of the dataset, the only one
    whose path ends so. A name may begin with the folder's own.

    Args:
        folder (path): that names are relative to, and that is searched.
        whole (`bool`, *optional*, defaults to `True`): all images in the folder are of the dataset.
        remote ([`RemoteData`], *optional*): whose files are copied into the folder when they are asked for.
    """

    def __init__(self, folder: Path, whole: bool = True, remote: RemoteData | None = None) -> None:
        self.folder, self.whole, self.remote = folder, whole, remote
        self._by_path: dict[str, list[str]] = {}  # of the images below the folder, by their plain paths from it
        self._by_name: dict[str, list[tuple[str, str]]] | None = None  # plain path and file, by the last part
        self.guessed: dict[str, str] = {}  # names that mean a file of another name
        self.ambiguous = ""  # what a name may mean

    def find(self, names: Sequence[str], root: Path | None = None) -> list[str | None]:
        """The file of each name, `None` where there is none.

        Args:
            names (sequence of `str`): of images.
            root (path, *optional*): where names are looked up as they are (default: the folder). Where most of them
                are there, the others are not searched for elsewhere.
        """
        if self.remote:
            self.remote.copy_files(list(dict.fromkeys(names)))
        start = str(root or self.folder)
        paths = {name: os.path.join(start, name).replace("/", os.sep) for name in names if name.strip()}
        files: dict[str, str | None] = {name: path for name, path in paths.items() if _is_file(path)}
        missing = [name for name in paths if name not in files]
        if missing:
            here = {name: file for name in missing if (file := self._search(name, os.path.join(start, "")))}
            files |= here
            if 2 * len(files) <= len(paths):
                files |= {name: self._search(name, "") for name in missing if name not in here}
            self.guessed |= {name: file for name in missing if (file := files.get(name))}
        return [files.get(name) for name in names]

    @property
    def note(self) -> str:
        """Which names were taken for files of other names; empty where none was."""
        if not self.guessed:
            return ""
        name, file = min(self.guessed.items())
        return (
            f"{len(self.guessed)} file names were matched to a file that differs in case, accents, slashes, "
            f"suffix or folder, such as {name!r} to {os.path.relpath(file, self.folder)}"
        )

    def _search(self, name: str, within: str) -> str | None:
        parts = _plain(name).split("/")
        if len(parts) > 1 and parts[0] == _plain(self.folder.resolve().name):
            parts = parts[1:]
        plain = "/".join(parts)
        by_name = self._files()
        there = self._by_path.get(plain, [])
        deeper = []
        if not there:
            # With the suffix, or else without.
            for path, file in by_name.get(parts[-1], []):
                if f"/{path}".endswith(f"/{plain}") or f"/{os.path.splitext(path)[0]}".endswith(f"/{plain}"):
                    deeper.append(file)
        matches = [file for file in there or deeper if file.startswith(within)]
        if len(matches) > 1:  # what goes with images is called as they are
            matches = [
                file for file in matches if not are_beside_images(os.path.relpath(file, self.folder))
            ] or matches
        if len(matches) > 1 or (matches and not there and not self.whole):
            some = " or ".join(os.path.relpath(file, self.folder) for file in matches[:2])
            self.ambiguous = f"{name!r} may refer to {some}: write paths relative to {self.folder}, with suffixes" + (
                "" if self.whole else f", or use --dataset {self.folder} if all its images belong to the dataset"
            )
            return None
        return matches[0] if matches else None

    def _files(self) -> dict[str, list[tuple[str, str]]]:
        if self._by_name is None:
            self._by_name, self._by_path = defaultdict(list), defaultdict(list)
            for file in islice(walk_images(self.folder, PassedOver(self.folder)), _MOST):
                path = _plain(os.path.relpath(file, self.folder))
                for key in {path, os.path.splitext(path)[0]}:
                    self._by_path[key].append(str(file))
                    self._by_name[key.rpartition("/")[2]].append((path, str(file)))
        return self._by_name


def resolve_files(finder: FileFinder, names: Sequence[str], root: Path | None, where: str) -> list[str]:
    """The files of the names in a table.

    Args:
        finder ([`FileFinder`]): that searches.
        names (sequence of `str`): of images.
        root (path, *optional*): as for [`FileFinder.find`].
        where (`str`): what has the names, for messages.

    Raises:
        ValueError: names that are addresses, or of no file.
    """
    if address := next(filter(is_address, names), None):
        raise ValueError(
            f"{where} contains URLs of images, such as {address}: download the images, and write the file names "
            "instead"
        )
    files = finder.find(names, root)
    if None in files:
        raise ValueError(_missing_files(where, names, files, finder))
    return [str(file) for file in files]


def _missing_files(where: str, names: Sequence[str], files: Sequence[str | None], finder: FileFinder) -> str:
    """The message on names without a file."""
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    return (
        f"{len(missing)} of the {len(names)} images of {where} are not in {finder.folder}: "
        f"{examples([*map(repr, missing)])}; "
        + (finder.ambiguous or "the column must contain paths relative to that folder, or absolute paths")
        + "; if images are missing, remove their rows"
    )


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).replace("\\", "/").casefold().removeprefix("./")


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a null character
        return False

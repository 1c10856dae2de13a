"""What a release needs, checked with the standard library alone: `make release-check`, and the workflow of a release.

python .github/release.py versions          # the version is the same everywhere
python .github/release.py versions v0.1.0   # ... and this tag's, and the changelog and CITATION.cff have its date
python .github/release.py wheel dist        # the wheel in `dist` works in an environment that has nothing else
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A run of this recipe's setting: small enough for any machine, long enough to write a model.
TRAIN = ("train", "--max_steps", "3", "--backbone", "cifar_resnet20", "--output_dir", "run")


def disagreements(root: Path = ROOT, tag: str | None = None) -> list[str]:
    """What keeps the checkout in `root` from being the release `tag`; without a tag, which versions differ."""
    version = tomllib.loads(_read(root / "pyproject.toml"))["project"]["version"]
    citation = _read(root / "CITATION.cff")
    latest = re.search(r"^## (\S+) \((.*)\)$", _read(root / "CHANGELOG.md"), re.MULTILINE)
    released = re.search(r"^date-released: (\S+)$", citation, re.MULTILINE)
    found = {
        "paco_hf/__init__.py": re.search(r'^__version__ = "(.*)"$', _read(root / "paco_hf/__init__.py"), re.MULTILINE),
        "CITATION.cff": re.search(r"^version: (\S+)$", citation, re.MULTILINE),
        "the first heading of CHANGELOG.md": latest,
    }
    wrong = [
        f"{place} has version {match[1] if match else None}, and pyproject.toml {version}: make them equal"
        for place, match in found.items()
        if match is None or match[1] != version
    ]
    if tag is None:
        return wrong
    if tag != f"v{version}":
        wrong.append(f"the tag is {tag}, and pyproject.toml has version {version}: the tag must be v{version}")
    date = latest[2] if latest else None
    if date is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        wrong.append(f"the first heading of CHANGELOG.md has {date!r}, expected the day of the release as YYYY-MM-DD")
    elif released is None or released[1] != date:
        stated = released[1] if released else None
        wrong.append(f"CITATION.cff has date-released {stated}, and CHANGELOG.md {date}: make them equal")
    return wrong


def check_wheel(dist: Path, libraries: Path | None = None) -> None:
    """Install the one wheel in `dist` into a new environment, and train, score and predict with it.

    Args:
        dist: folder with one wheel.
        libraries: a `site-packages` folder to take the dependencies from, in place of the package index. Its `.pth`
            files, those of editable installations among them, are not read.
    """
    wheels = sorted(dist.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(
            f"{dist} has {len(wheels)} wheels, expected one: build with `python -m build --outdir {dist}`"
        )
    version = wheels[0].name.split("-")[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        venv.create(folder / "venv", with_pip=True)
        commands = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        paco_hf = commands / "paco-hf"
        python = commands / "python"
        _run(folder, python, "-m", "pip", "install", *(["--no-deps"] if libraries else []), wheels[0])
        site = _run(
            folder, commands / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
        ).strip()
        if libraries:
            (Path(site) / "dependencies.pth").write_text(f"{libraries}\n", encoding="utf-8")
        else:
            _run(folder, python, "-m", "pip", "check")
        place = Path(_run(folder, python, "-c", "import paco_hf; print(paco_hf.__file__)").strip())
        _expect(place.is_relative_to(site), f"paco_hf was imported from {place}, not from {site}")
        printed = _run(folder, paco_hf, "--version")
        _expect(printed.startswith(f"paco-hf {version}\n"), f"paco-hf --version printed {printed!r}, not {version}")
        _expect("paco-resnet32-cifar100-lt-100" in _run(folder, paco_hf, "recipes"), "the wheel has no recipes")
        # Worker processes that are spawned must be able to load everything anew.
        workers = ("--dataloader_num_workers", "1", "--dataloader_multiprocessing_context", "spawn")
        _run(folder, paco_hf, *TRAIN, *workers)
        _expect("top-1" in _run(folder, paco_hf, "evaluate", "run"), "evaluate printed no top-1")
        photo = "from paco_hf.data.loading import load_data; load_data().test.open(0).save('photo.png')"
        _run(folder, python, "-c", photo)
        predicted = _run(folder, paco_hf, "predict", "run", "photo.png")
        _expect("photo.png" in predicted, f"predict printed {predicted!r}")
    print(f"{wheels[0].name} trains, evaluates and predicts in an environment of its own")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _run(folder: Path, *command: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)
    _expect(done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(message)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Check what a release needs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    versions = verbs.add_parser("versions", help="the version is the same everywhere")
    versions.add_argument("tag", nargs="?", help="the tag of the release, such as v0.1.0")
    wheel = verbs.add_parser("wheel", help="the wheel works in an environment that has nothing else")
    wheel.add_argument("dist", type=Path, help="folder with one wheel")
    wheel.add_argument(
        "--libraries", type=Path, help="site-packages folder with the dependencies (default: from the index)"
    )
    args = parser.parse_args(arguments)
    if args.verb == "wheel":
        check_wheel(args.dist.resolve(), args.libraries)
    elif wrong := disagreements(tag=args.tag):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()

"""What a system without POSIX refuses, refused here: modules, attributes, links, names, and files that are open.

`enforce()` goes after the imports of libraries, which have ways of their own for each system.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import filelock
from packaging.version import Version

MODULES = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")
OS = ["chown", "fork", "getgid", "getloadavg", "getuid", "killpg", "mkfifo", "register_at_fork"]
OS += ["sched_getaffinity", "setsid"]
if Version(filelock.__version__) >= Version("4"):  # before, it needs this wherever it is not on Windows itself
    OS += ["fchmod"]
SIGNALS = ["SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "alarm", "pthread_kill"]
IMPOSSIBLE = re.compile(r'[\x00-\x1f<>:"\\|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def enforce(root: Path) -> None:
    """From now on, for what is in the folder `root` (names, and files that are open) and for this whole process."""
    import fcntl

    refused: dict[str, Any] = dict.fromkeys(MODULES)
    sys.modules.update(refused)
    for module, names in ((os, OS), (signal, SIGNALS)):
        for name in names:
            delattr(module, name)
    rename, locked = os.rename, set()

    def without_overwriting(source: Any, target: Any, **options: Any) -> None:
        if os.path.lexists(target):
            raise FileExistsError(17, "a name that is taken", str(target))
        rename(source, target, **options)

    def no_link(*_: Any, **options: Any) -> None:
        raise OSError(1314, "a required privilege is not held by the client")

    os.rename, os.symlink = without_overwriting, no_link

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock" and arguments[1] & fcntl.LOCK_EX:
            locked.add(os.readlink(f"/proc/self/fd/{arguments[0]}"))
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            return
        paths = [os.path.realpath(os.fsdecode(path)) for path in arguments[:2] if isinstance(path, str | bytes | Path)]
        paths = [path for path in paths if path.startswith(f"{root}{os.sep}")]
        if event == "open":
            mine = "filelock" in sys._getframe(1).f_code.co_filename
            if paths and paths[0] in locked and not mine:
                raise PermissionError(13, "another handle has locked it", paths[0])
            if not (arguments[2] or 0) & WRITING:
                return
        for path in paths[-1:]:
            if event in ("open", "os.mkdir", "os.rename") and IMPOSSIBLE.search(os.path.basename(path)):
                raise OSError(22, "no name of Windows", path)
        for path in paths if event not in ("open", "os.mkdir") else ():
            if busy := sorted(file for file in opened() if file == path or file.startswith(f"{path}{os.sep}")):
                raise PermissionError(32, f"in use by this process: {busy}", path)

    sys.addaudithook(watch)


def opened() -> set[str]:
    """The files that this process has open, or mapped into memory."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    files = {line.split(maxsplit=5)[5] for line in maps if "/" in line}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            files.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return files


def import_libraries() -> None:
    """Those that the verbs below use, and that are not told to do without what is refused."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import timm  # noqa: F401
    import torch._dynamo
    import torch.onnx  # noqa: F401
    from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer  # noqa: F401


def import_package() -> None:
    """Every module of it."""
    import paco_hf

    for module in pkgutil.walk_packages(paco_hf.__path__, "paco_hf."):
        if not module.name.endswith((".app", "__main__")):
            importlib.import_module(module.name)


def round_trip(images: Path, root: Path) -> list[dict[str, Any]]:
    """What `predict` says of the images, after all the other verbs."""
    from paco_hf.cli import main

    run, shards, frozen = root / "run", root / "shards", root / "frozen"
    train = ["--backbone", "resnet10t", "--image_size", "32", "--max_steps", "3", "--save_steps", "1"]
    train += ["--per_device_train_batch_size", "8", "--precision", "fp32", "--dataloader_num_workers", "0"]
    workers = ["--dataloader_num_workers", "1", "--augment_backend", "pil"]
    for words in (
        ["train", "--dataset", images, *train, *workers, "--save_total_limit", "2", "--output_dir", run],
        ["train", "--dataset", images, *train, "--save_total_limit", "2", "--output_dir", run, "--overwrite"],
        ["train", "--dataset", images, *train, "--resume_from_checkpoint", run / "checkpoint-2", "--output_dir", run],
        ["train", "--dataset", images, *train, "--freeze_backbone", "true", "--output_dir", frozen],
        ["evaluate", run, "--calibrate"],
        ["embed", run, images, "--output", root / "é.safetensors"],
        ["export", run, "--to", "onnx", root / "onnx"],
        ["export", run, "--to", "timm", root / "timm"],
        ["index", run, "--dataset", images],
        ["index", run, "--dataset", images, "--overwrite"],
        ["card", run],
        ["report", run, frozen, "--output", root / "report.html"],
        ["data", "prepare", images, "--out", shards],
        ["train", "--dataset", shards, "--streaming", "true", *train, "--output_dir", root / "stream"],
    ):
        assert main([str(word) for word in words]) == 0, words
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["predict", str(run), str(images), "--json"]) == 0
    answers: list[dict[str, Any]] = json.loads(shown.getvalue())
    return answers


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    import_libraries()
    warnings.filterwarnings("error", category=EncodingWarning, module="paco_hf")
    enforce(Path(sys.argv[2]))
    answers = round_trip(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(answers))

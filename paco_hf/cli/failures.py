"""Turn errors into one line and an exit status; an unexpected error also gets a file for a bug report."""

import errno
import os
import re
import shlex
import sys
import tempfile
import traceback

from ..utils.versions import system_lines

_FORESEEN = (ValueError, OSError, FloatingPointError, ImportError, RuntimeError, MemoryError, EOFError)
# Packages whose errors are about files and data, and need not be of these types.
_LIBRARIES = {
    "safetensors",
    "safetensors_rust",
    "datasets",
    "pyarrow",
    "yaml",
    "zlib",
    "_lzma",
    "zipfile",
    "tarfile",
    "struct",
}
LOST_STATUS = 1  # where another process has ended
_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")


def how_to_go_on(argv: list[str]) -> str:
    """How to go on with what a command has written so far; empty where there is no such thing.

    Args:
        argv (list of `str`): the verb and its arguments.
    """
    if argv[:1] == ["predict"] and any(word.partition("=")[0] == "--output" for word in argv):
        return "resume with --resume"
    return "resume from the last checkpoint with --resume" if argv[:1] == ["train"] else ""


def how_to_try_again(argv: list[str]) -> str:
    """As [`how_to_go_on`], after an end that may have come within a checkpoint.

    Args:
        argv (list of `str`): the verb and its arguments.
    """
    return how_to_go_on(argv).replace("last", "last complete") or "run the command again"


def explain_loss(again: str) -> str | None:
    """In one line that another process has ended; `None` where another one says so.

    Args:
        again (`str`): how to go on.
    """
    from ..utils.distributed import describe_lost

    names, first = describe_lost()
    return f"{names} exited, so this process exits, too; {again}" if first else None


def explain(error: Exception, verb: str, again: str) -> tuple[str, int]:
    """An error in one line, and the status to exit with: 2 for what is known to go wrong, 1 for what is not.

    Args:
        error (`Exception`): that ended the verb.
        verb (`str`): that it ended.
        again (`str`): how to go on.
    """
    text = _text(error)
    if isinstance(error, MemoryError | RuntimeError) and (advice := _shortage(error, text, verb)):
        return advice, 2
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    foreseen = isinstance(error, _FORESEEN) or not _LIBRARIES.isdisjoint(libraries)
    if foreseen and type(error) is not RuntimeError:
        return text, 2
    name = type(error).__name__
    text = text if foreseen else f"unexpected {name}" + (f": {text}" if text != name else "")
    return f"{text} ({_report(error, verb)})", 2 if foreseen else 1


def plain_text(error: Exception) -> str:
    """The text of an error; of what the system says of a path that none can be, with what to do.

    Args:
        error (`Exception`): of a library, or of this package.
    """
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:40]}... is too long ({len(str(error.filename))} characters): use a shorter path"
    if "embedded null" in str(error):
        return "a path contains a null character: remove it from the flags or the recipe"
    return str(error)


def _text(error: Exception) -> str:
    text = plain_text(error).strip() or type(error).__name__
    if "Original Traceback" in text:
        # An error of a data loader's worker comes with the worker's whole traceback; its last line is the message.
        text = text.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
    if type(error).__module__.startswith("datasets.") and error.__cause__:
        text = f"{text}: {error.__cause__}"
    return " ".join(text.split())


def _shortage(error: Exception, text: str, verb: str) -> str | None:
    """What to do where memory is short; `None` where it is not."""
    if "DataLoader worker" in text:
        return (
            f"a data loader process exited ({text.partition('. ')[0]}): if it ran out of memory or shared memory "
            "(/dev/shm), provide more (docker run --shm-size)"
            + (", or use fewer processes (--dataloader_num_workers, 0 for none)" if verb == "train" else "")
        )
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        wanted = re.search(r"\w+ to allocate [\d.]+ \w+", text)
        batch = "--per_device_train_batch_size (and compensate with --gradient_accumulation_steps)"
        smaller = batch if verb == "train" else "--batch_size, if the command has it"
        return f"out of memory ({wanted[0] if wanted else text:.100}): use a smaller {smaller}"
    return None


def _report(error: Exception, verb: str) -> str:
    """Where the traceback is: in a new file of the system's folder for temporary ones, where that can be written."""
    command = shlex.join(["paco-hf", *sys.argv[1:]]) if verb in sys.argv else f"paco-hf {verb}"
    text = _without_secrets("\n".join([command, *system_lines(), "", "".join(traceback.format_exception(error))]))
    try:
        folder = tempfile.gettempdir()
        if folder == os.getcwd() and folder not in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):
            raise OSError("there is no temporary folder")
        number, file = tempfile.mkstemp(".txt", "paco-hf-", folder)
        with open(number, "w", encoding="utf-8", errors="replace") as opened:
            opened.write(text)
    except OSError:
        return "set PACO_HF_DEBUG=1 to show the traceback for a bug report"
    return f"traceback and versions for a bug report: {file}"


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if len(value) > 5 and re.search("TOKEN|SECRET|PASSWORD|KEY", name, re.IGNORECASE):
            text = text.replace(value, "***")
    text = re.sub(r"(--\w*(?:token|secret|password)\w*[= ])\S+", r"\1***", text)
    return re.sub(r"\bhf_\w{6,}|(?<=://)[^/@\s]+(?=@)", "***", text)

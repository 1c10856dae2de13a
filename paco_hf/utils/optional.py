"""Packages that some features need, and an installation may lack."""

import importlib
from typing import Any


def optional_package(name: str, feature: str, extra: str) -> Any:
    """Import a package that is no requirement.

    Args:
        name (`str`): what is imported.
        feature (`str`): what needs it, for the error.
        extra (`str`): the extra of this package that installs it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{feature} needs {name}, which is not installed: pip install 'paco-hf[{extra}]'") from error

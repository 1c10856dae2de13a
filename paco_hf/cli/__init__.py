"""The `paco-hf` command, a file for each verb."""

from .main import main as main

"""`finetune.py` as a command."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from finetuning.config import FinetuningConfig
from finetuning.run import run_finetuning
from groundwork.configuration import ConfigurationParser
from groundwork.user_errors import report_user_errors


def parse_config(arguments: Sequence[str] | None = None) -> FinetuningConfig:
    """Read a `FinetuningConfig` from YAML files and the command line.

    Exits with status 2 and a message for an unknown key or an impossible value.
    """
    description = "Fine-tune a language model. Set any field below in the --config file or here; a value here wins."
    parser = ConfigurationParser(FinetuningConfig, "python 06_finetuning/finetune.py", description)
    return parser.parse(arguments)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, fine-tune, and return the exit status."""
    config = parse_config(arguments)
    return report_user_errors(lambda: run_finetuning(config, Console()))

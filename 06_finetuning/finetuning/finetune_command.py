"""`finetune.py` as a command."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from finetuning.config import FinetuningConfig
from finetuning.run import run_finetuning
from groundwork.user_errors import report_user_errors
from training.train_command import OneLineErrorParser


def parse_config(arguments: Sequence[str] | None = None) -> FinetuningConfig:
    """Read a `FinetuningConfig` from YAML files and the command line.

    Exits with status 2 and a message for an unknown key or an impossible value.
    """
    parser = OneLineErrorParser(
        prog="python 06_finetuning/finetune.py",
        description="Fine-tune a language model. Any field below can be set in the --config file or here; here wins.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below.")
    parser.add_class_arguments(FinetuningConfig)
    parsed = parser.parse_args(arguments)
    try:
        fields = parser.instantiate_classes(parsed).as_dict()
        fields.pop("config", None)
        return FinetuningConfig(**fields)
    except (ValueError, TypeError) as error:
        parser.error(str(error).strip().splitlines()[-1].strip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, fine-tune, and return the exit status."""
    config = parse_config(arguments)
    return report_user_errors(lambda: run_finetuning(config, Console()))

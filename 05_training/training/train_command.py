"""`train.py` as a command: arguments in, one clear line out when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from jsonargparse import ArgumentParser
from rich.console import Console

from groundwork.user_errors import report_user_errors
from training.run.config import RunConfig
from training.run.pretraining import Task, run_training


class OneLineErrorParser(ArgumentParser):
    """Says what is wrong in one line, where the default prints every option first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        line = " ".join(message.split()).replace("typing.", "")
        self.exit(2, f"error: {line}\nFor all options: {self.prog} --help\n")


def parse_config(arguments: Sequence[str] | None = None) -> RunConfig:
    """The configuration of `parse_command`."""
    return parse_command(arguments)[0]


def parse_command(arguments: Sequence[str] | None = None) -> tuple[RunConfig, Task]:
    """Read a `RunConfig` from YAML files and the command line, and what to do with it.

    Exits with status 2 and a message for an unknown key or an impossible value.
    """
    parser = OneLineErrorParser(
        prog="python 05_training/train.py",
        description="Train a language model. Any field below can be set in the --config file or here; here wins.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below.")
    parser.add_argument("--dry-run", action="store_true", help="Prepare the data, print what the run costs, and stop.")
    parser.add_argument("--find-lr", action="store_true", help="Try learning rates for some steps, draw, and stop.")
    parser.add_argument("--profile", action="store_true", help="Write a profiler trace of a few steps, and stop.")
    parser.add_class_arguments(RunConfig)
    parsed = parser.parse_args(arguments)
    try:
        fields = parser.instantiate_classes(parsed).as_dict()
        fields.pop("config", None)
        task = Task(**{name: fields.pop(name) for name in ("dry_run", "find_lr", "profile")})
        return RunConfig(**fields), task
    except (ValueError, TypeError) as error:
        parser.error(str(error).strip().splitlines()[-1].strip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and return the exit status."""
    config, task = parse_command(arguments)
    return report_user_errors(lambda: run_training(config, Console(), task))

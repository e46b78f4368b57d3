"""`train.py` as a command: arguments in, one clear line out when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from groundwork.configuration import ConfigurationParser
from groundwork.user_errors import report_user_errors
from training.run.config import RunConfig
from training.run.pretraining import Task, run_training

FLAGS = {
    "--dry-run": "Prepare the data, print what the run costs, and stop.",
    "--find-lr": "Try learning rates for some steps, draw, and stop.",
    "--profile": "Write a profiler trace of a few steps, and stop.",
}


def parse_command(arguments: Sequence[str] | None = None) -> tuple[RunConfig, Task]:
    """Read a `RunConfig` from YAML files and the command line, and what to do with it.

    Exits with status 2 and a message for an unknown key or an impossible value.
    """
    description = "Train a language model. Set any field below in the --config file or here; a value here wins."
    parser = ConfigurationParser(RunConfig, "python 05_training/train.py", description, FLAGS)
    config, switches = parser.parse(arguments)
    return config, Task(**switches)


def parse_config(arguments: Sequence[str] | None = None) -> RunConfig:
    """The configuration of `parse_command`."""
    return parse_command(arguments)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and return the exit status."""
    config, task = parse_command(arguments)
    return report_user_errors(lambda: run_training(config, Console(), task))

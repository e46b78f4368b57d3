"""Configurations: a dataclass whose fields come from YAML files and the command line. The command line wins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from jsonargparse import ArgumentParser

from groundwork.files import read_yaml
from groundwork.threads import HELP, use_threads

Configuration = TypeVar("Configuration")


class _OneLineErrorParser(ArgumentParser):
    """Says what is wrong in one line, while the default would print every option first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        line = " ".join(message.split()).replace("typing.", "")
        self.exit(2, f"error: {line}\nFor all options: {self.prog} --help\n")


class ConfigurationParser(Generic[Configuration]):
    """Reads a dataclass from `--config FILE.yaml` and from an option for each of its fields.

    Args:
        kind: the dataclass. Its docstring is the help of its fields, and its checks raise `ValueError`.
        program: how the command is called, such as `python 05_training/train.py`.
        description: the first lines of `--help`.
        flags: further switches of the command, such as `--dry-run`, each with its help.
    """

    def __init__(self, kind: type[Configuration], program: str, description: str, flags: dict[str, str] | None = None):
        self._kind, self._flags = kind, flags or {}
        self._parser = _OneLineErrorParser(prog=program, description=description)
        self._parser.add_argument("--config", action="config", help="YAML file with any of the fields below.")
        for flag, meaning in self._flags.items():
            self._parser.add_argument(flag, action="store_true", help=meaning)
        self._parser.add_argument("--threads", type=int, help=HELP)
        self._parser.add_class_arguments(kind)

    def parse(self, arguments: Sequence[str] | None = None) -> tuple[Configuration, dict[str, bool]]:
        """The configuration, and which of the switches were given (`--dry-run` as `dry_run`).

        Exits with status 2 and one line for an unknown field or an impossible value.
        """
        given = [self._as_field(a) for a in (sys.argv[1:] if arguments is None else arguments)]
        try:
            self._check_files(given)
            parsed = self._parser.parse_args(given)
            fields: dict[str, Any] = self._parser.instantiate_classes(parsed).as_dict()
            fields.pop("config", None)
            if (threads := fields.pop("threads")) is not None:
                use_threads(threads)
            names = [flag.removeprefix("--").replace("-", "_") for flag in self._flags]
            switches = {name: fields.pop(name) for name in names}
            return self._kind(**fields), switches
        except (ValueError, TypeError) as error:
            self._parser.error(str(error).strip().splitlines()[-1].strip())

    def _check_files(self, given: list[str]) -> None:
        """Refuse a `--config` file that is nested without end, or stands for more values than memory holds.

        Raises:
            TextError: it is such a file, or not YAML.
        """
        files = [after for before, after in pairwise(given) if before == "--config"]
        files += [argument.removeprefix("--config=") for argument in given if argument.startswith("--config=")]
        for file in files:
            if Path(file).is_file():  # jsonargparse says what else it cannot be
                read_yaml(file)

    def _as_field(self, argument: str) -> str:
        """Change `--output-dir` to `--output_dir`, the name of the field in YAML files; both spellings are allowed."""
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        field = "--" + name.removeprefix("--").replace("-", "_")
        return f"{field}{equals}{value}" if field in self._parser._option_string_actions else argument

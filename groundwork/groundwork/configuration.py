"""Configurations: a dataclass whose fields come from YAML files and the command line. The command line wins."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from groundwork.files import SURPRISING_NUMBER, read_yaml
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
            parsed = self._parser.parse_args(self._with_contents(given))
            fields: dict[str, Any] = self._parser.instantiate_classes(parsed).as_dict()
            fields.pop("config", None)
            if (threads := fields.pop("threads")) is not None:
                use_threads(threads)
            names = [flag.removeprefix("--").replace("-", "_") for flag in self._flags]
            switches = {name: fields.pop(name) for name in names}
            return self._kind(**fields), switches
        except (ValueError, TypeError) as error:
            self._parser.error(str(error).strip().splitlines()[-1].strip())

    def _with_contents(self, given: list[str]) -> list[str]:
        """The arguments with the contents of `--config` files, read strictly, instead of their names.

        A section without lines, because all of them are commented out, has its defaults.

        Raises:
            TextError: a file is not YAML, has a key twice, is nested without end, or stands for more than memory holds.
            ValueError: YAML would read a number in another way than people.
        """
        result, flag = list[str](), ""
        for argument in given:
            before, equals, value = argument.partition("=") if argument.startswith("--") else (flag, "", argument)
            if before == "--config" and (path := Path(value).expanduser()).is_file():
                content = {
                    name: v for name, v in read_yaml(path).items() if v is not None or not self._is_section(name)
                }
                self._check_numbers(content)
                value = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
                argument = f"{before}={value}" if equals else value
            else:  # jsonargparse says what else a file cannot be
                self._check_numbers({before.removeprefix("--"): value})
            result.append(argument)
            flag = argument
        return result

    def _kind_of(self, field: str) -> Any:
        """The type of a field such as `training.max_steps`, or None."""
        kind: Any = self._kind
        for name in field.split("."):
            kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
        return kind

    def _is_section(self, name: str) -> bool:
        return dataclasses.is_dataclass(self._kind_of(name))

    def _check_numbers(self, values: dict[str, Any], section: str = "") -> None:
        """Refuse texts such as 0500 and 2:30 where numbers belong: jsonargparse would read the second as 150."""
        for name, value in values.items():
            field = f"{section}{name}"
            kind = self._kind_of(field) or str  # jsonargparse refuses an unknown field
            if isinstance(value, dict):
                self._check_numbers(value, f"{field}.")
            elif isinstance(value, str) and SURPRISING_NUMBER.fullmatch(value) and str not in (kind, *get_args(kind)):
                raise ValueError(f"{field} is {value}, which can be read in several ways: write a decimal number")

    def _as_field(self, argument: str) -> str:
        """Change `--output-dir` to `--output_dir`, the name of the field in YAML files; both spellings are allowed."""
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        field = "--" + name.removeprefix("--").replace("-", "_")
        return f"{field}{equals}{value}" if field in self._parser._option_string_actions else argument

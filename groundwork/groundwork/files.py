"""Write files completely or not at all, valid JSON among them, and read JSON and YAML files with clear errors.

Every JSON or YAML file of this project or another is read here, so that whatever stands in it, a user gets one line.
"""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from groundwork.text_sources import TextError, parse_json, read_text

LARGEST_YAML = 100_000  # values, each counted as often as it occurs
# Numbers that YAML 1.1 reads as octal or as minutes and seconds: 0500 would be 320, and 2:30 would be 150.
SURPRISING_NUMBER = re.compile(r"[-+]?(0[0-7_]*[0-7]|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")


def expand_home(config: Any, *fields: str) -> None:
    """Replace `~` in paths of a frozen dataclass. The shell does it only where a word of the command begins with it.

    Args:
        config: called in its `__post_init__`.
        fields: names of fields that are paths, as texts.
    """
    for name in fields:
        if (path := getattr(config, name)).startswith("~"):
            object.__setattr__(config, name, str(Path(path).expanduser()))


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it at the end, so that no half file is left.

    The folder is made. If the block raises, the temporary file is removed, and a file that was there before stays.
    A temporary file that a killed process of this machine left for the same path is removed too.

    Args:
        path: the file to write. Write to the path that the block gets; it is in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of a path whose processes, on this machine, do not run any more."""
    for abandoned in path.parent.glob(f".{glob.escape(f'{path.name}.{platform.node()}')}.*.tmp"):
        process = abandoned.suffixes[-2][1:]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            abandoned.unlink(missing_ok=True)


def write_atomically(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8 with `replacing`; line ends stay as they are."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def to_json(content: Any, **options: Any) -> str:
    """Values as JSON text. JSON has no word for nan and the infinities, so that each becomes null.

    >>> to_json({"loss": [0.5, float("nan")]})
    '{"loss": [0.5, null]}'

    Args:
        content: objects, lists, tuples, texts, numbers, true, false and null.
        options: of `json.dumps`.
    """
    return json.dumps(_only_finite(content), allow_nan=False, **options)


def _only_finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _only_finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_only_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write an object for programs and people with `write_atomically`; see `to_json`."""
    write_atomically(path, to_json(content, indent=2) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        TextError: it cannot be read, is not JSON, or contains something else. The message names the file.
    """
    content = parse_json(read_text(path), path)
    if not isinstance(content, dict):
        raise TextError(f"{path} should hold a JSON object, it holds a {type(content).__name__}")
    return content


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that contains named fields. Nothing in it is executed.

    Raises:
        TextError: it cannot be read, is not YAML, has a key twice, or contains something else. The message names the
            file.
    """
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
    except RecursionError:
        raise TextError(f"{path}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        raise TextError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    content = {} if content is None else content  # there are only comments
    if not isinstance(content, dict):
        raise TextError(f"{path} should hold named fields, it holds a {type(content).__name__}")
    _refuse_bomb(content, path)
    return content


class _Loader(yaml.SafeLoader):
    """YAML without two surprises: PyYAML takes the last of two equal keys, and reads 0500 as 320."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The pairs of a mapping, in which every key may occur once. Keys of `<<` may be given again."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} in line {key.start_mark.line + 1} is there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_number(self, node: yaml.ScalarNode) -> int | float | str:
        """A number, or the text of one that people would read as another number."""
        if SURPRISING_NUMBER.fullmatch(node.value):
            return node.value
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_yaml_number)


def _refuse_bomb(content: Any, path: Path | str) -> None:
    """Refuse a few lines whose references to each other stand for more values than memory holds, once printed."""
    waiting, counted = [content], 0
    while waiting:
        value = waiting.pop()
        counted += 1
        if counted > LARGEST_YAML:
            raise TextError(f"{path} holds more than {LARGEST_YAML:,} values, counting every use of an anchor")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value

"""Write files completely or not at all, and read JSON files with clear errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundwork.text_sources import TextError, parse_json, read_text


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it at the end, so that no half file is left.

    The folder is made. If the block raises, the temporary file is removed, and a file that was there before stays.

    Args:
        path: the file to write. Write to the path that the block gets; it is in the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8 with `replacing`; line ends stay as they are."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        TextError: it cannot be read, is not JSON, or contains something else. The message names the file.
    """
    content = parse_json(read_text(path), path)
    if not isinstance(content, dict):
        raise TextError(f"{path} should hold a JSON object, it holds a {type(content).__name__}")
    return content

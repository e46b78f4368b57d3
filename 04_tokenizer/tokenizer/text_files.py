"""Text files: read whole, read in blocks where they may be larger than memory, written all or nothing."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizer.errors import TokenizerError

BLOCK_BYTES = 1 << 22


def read_blocks(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[str]:
    """A UTF-8 file in blocks, without its byte order mark; line ends stay as they are.

    Args:
        path: of the file.
        on_bytes: called with the bytes of each block as it is read.

    Raises:
        TokenizerError: the file is not UTF-8 or cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read = 0
    try:
        with open(path, "rb") as file:
            while True:
                data = file.read(BLOCK_BYTES)
                held_back = len(decoder.getstate()[0])  # the beginning of a character
                if text := decoder.decode(data, final=not data):
                    yield text
                if not data:
                    return
                read += len(data)
                if on_bytes is not None:
                    on_bytes(len(data))
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {read - held_back + error.start}; "
            "convert it first, for example with: iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None


def read_documents(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[Iterator[str]]:
    """The documents of a file, each as its parts in order: a JSONL file has one a line, any other is one.

    Raises:
        TokenizerError: see `read_blocks`; a line of a JSONL file is no object with a string `text`.
    """
    if path.suffix.lower() != ".jsonl":
        yield read_blocks(path, on_bytes)
        return
    for number, line in enumerate(_lines(read_blocks(path, on_bytes)), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise TokenizerError(f"{path}, line {number}: not JSON ({error.msg})") from None
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise TokenizerError(f'{path}, line {number}: expected an object with a string field "text"')
            yield iter([record["text"]])


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    begun = ""
    for block in blocks:
        # Not splitlines: U+2028 and others may stand within a JSON string.
        *complete, begun = (begun + block).split("\n")
        yield from complete
    yield begun


def read_text(path: Path | str) -> str:
    """A small UTF-8 file; a `TokenizerError` that names it if that fails."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TokenizerError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON file that holds an object; a `TokenizerError` that names it if not."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} should hold a JSON object, it holds a {type(content).__name__}")
    return content


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it, so that no half file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""Text from the user's files: found in folders, read in blocks, taken apart into documents and records.

Every stage reads text through this file, so that a file means the same everywhere. A byte order mark is dropped. Line ends
stay as they are. Only "\\n" ends a line of a JSONL file, because characters such as U+2028 and U+0085 may stand inside a JSON
string. What cannot be read raises a `TextError` that names the file and the line.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 22
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".jsonl", ""})


class TextError(ValueError):
    """A file of text that cannot be used, in one line that names the file and the way out."""


def find_text_files(path: Path | str, suffixes: Collection[str] = TEXT_SUFFIXES) -> list[Path]:
    """The file itself, or the text files below a folder in the order of their paths.

    Hidden files and hidden folders below the folder are left out, such as `.git` and `.ipynb_checkpoints`.

    Args:
        path: of a file, taken whatever its suffix, or of a folder.
        suffixes: which files of a folder are text, in lower case with the dot.

    Raises:
        TextError: nothing is there, or the folder holds no such file.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TextError(f"there is no file or folder '{path}'")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in suffixes)
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise TextError(f"the folder {path} holds no text files ({', '.join(sorted(suffixes))})")
    return files


def read_blocks(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[str]:
    """Read a UTF-8 file in blocks of about 4 MB, in memory that does not grow with the file.

    Args:
        path: of the file.
        on_bytes: called with the bytes of each block as it is read.

    Raises:
        TextError: the file is not UTF-8 or cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read, lines = 0, 1
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
                lines += data.count(b"\n")
                if on_bytes is not None:
                    on_bytes(len(data))
    except UnicodeDecodeError as error:
        lines += error.object[: error.start].count(b"\n")
        raise TextError(
            f"{path}, line {lines}, is not UTF-8: byte {error.object[error.start]:#04x} at offset "
            f"{read - held_back + error.start}; convert the file first, for example with: iconv -f LATIN1 -t UTF-8"
        ) from None
    except FileNotFoundError:
        raise TextError(f"there is no file {path}") from None
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None


def read_text(path: Path | str, may_be_empty: bool = False) -> str:
    """Read a whole UTF-8 file.

    Args:
        path: of the file.
        may_be_empty: whether a file without any text is good too.

    Raises:
        TextError: see `read_blocks`; or there is no text in it.
    """
    text = "".join(read_blocks(Path(path)))
    if not (may_be_empty or text.strip()):
        raise TextError(f"{path} is empty: there is no text in it")
    return text


def read_lines(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    r"""The lines of a file that are not blank, each with its number, without its "\n".

    Raises:
        TextError: see `read_blocks`.
    """
    number, begun = 1, ""
    for block in read_blocks(path, on_bytes):
        *complete, begun = (begun + block).split("\n")  # not splitlines, which splits at U+2028 too
        for line in complete:
            if line.strip():
                yield number, line
            number += 1
    if begun.strip():
        yield number, begun


def read_jsonl(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    """The records of a JSONL file, each with the number of its line.

    Raises:
        TextError: see `read_blocks`; or a line is not JSON.
    """
    for number, line in read_lines(path, on_bytes):
        yield number, parse_json_line(line, path, number)


def parse_json_line(line: str, path: Path, number: int) -> Any:
    """The record of one line.

    Raises:
        TextError: the line is not JSON, or has half of a surrogate pair, which no UTF-8 text can hold.
    """
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise TextError(f"{path}, line {number}: not JSON ({reason})") from None
    if "\\u" in line:
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise TextError(
                f"{path}, line {number}: \\u{ord(error.object[error.start]):04x} is half of a surrogate pair, not a "
                "character; remove it, or write the whole character"
            ) from None
    return record


def read_parquet(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, each with its number from 1 on, read in batches.

    Args:
        path: of the file.
        columns: to read; None for all.

    Raises:
        TextError: the package pyarrow is missing, the file is not Parquet, or a column is not there.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise TextError(f"{path} is a Parquet file, which needs pyarrow: pip install pyarrow") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        present = file.schema_arrow.names
        for column in columns or ():
            if column not in present:
                raise TextError(f'{path} has no column "{column}"; its columns are {", ".join(present)}')
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise TextError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def read_documents(path: Path, on_bytes: Callable[[int], None] | None = None) -> Iterator[Iterator[str]]:
    """The documents of a file, each as its parts in order.

    A JSONL file has one document a line and a Parquet file one a row, in the field `text`. Any other file is one document.

    Args:
        path: of the file.
        on_bytes: called with the bytes of each block as it is read; for Parquet with those of each text.

    Raises:
        TextError: see `read_blocks`, `read_jsonl` and `read_parquet`; or a record has no text.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        for number, row in read_parquet(path, ["text"]):
            if not isinstance(row["text"], str):
                raise TextError(f'{path}, row {number}: "text" is {row["text"]!r}, not a string')
            yield iter([row["text"]])
            if on_bytes is not None:
                on_bytes(len(row["text"].encode("utf-8")))
    elif suffix == ".jsonl":
        for number, record in read_jsonl(path, on_bytes):
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise TextError(f'{path}, line {number}: expected an object with a string field "text"')
            yield iter([record["text"]])
    else:
        yield read_blocks(path, on_bytes)

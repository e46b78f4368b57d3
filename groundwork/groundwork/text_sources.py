"""Text from the user's files: find them in folders, read them in blocks, split them into documents and records.

Every stage reads text with this module, so that a file means the same everywhere. A byte order mark is dropped.
Line ends stay as they are. Only "\\n" ends a line of a JSONL file, because characters such as U+2028 and U+0085
may occur inside a JSON string. If something cannot be read, a `TextError` names the file and the line.
What can be read only in part (a folder that also holds programs, half of a surrogate pair) is read, and said once.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from groundwork.machine_memory import in_gib, memory_limit
from groundwork.user_errors import UserError, notice

BLOCK_BYTES = 1 << 22
BATCH_BYTES = 1 << 26  # of the rows of a Parquet file that are unpacked together
RECORD_SUFFIXES = frozenset(
    {".jsonl", ".parquet"}
)  # files of one document after the other; any other file is one document
TEXT_SUFFIXES = RECORD_SUFFIXES | {".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ""}
# Escapes in a JSON string. The first alternative takes a whole surrogate pair, so that group 1 is half of one.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F]..)|.)")
_ADVICE = "convert the file first, for example with:"
# The first bytes of packed files → what they are, the suffix they have, and what unpacks them.
_PACKED = {
    b"\x1f\x8b": ("gzip", ".gz", "gunzip -k"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", ".zst", "unzstd"),
    b"\xfd7zXZ\0": ("xz", ".xz", "unxz -k"),
    b"BZh": ("bzip2", ".bz2", "bunzip2 -k"),
    b"PK\x03\x04": ("zip", ".zip", "unzip"),
}


class TextError(UserError):
    """A text cannot be used; the message is one line that names the file and the way out."""


def find_text_files(path: Path | str, suffixes: Collection[str] = TEXT_SUFFIXES) -> list[Path]:
    """The file itself, or the text files below a folder in the order of their paths.

    Hidden files and hidden folders below the folder are left out, such as `.git` and `.ipynb_checkpoints`, and what
    was installed there: virtual environments and `node_modules`. Files that have a suffix of text (or none) but are not
    UTF-8 text from beginning to end are left out too, and so are packed files. These are said in one line.

    Args:
        path: a file with any suffix, or a folder.
        suffixes: suffixes of the text files in a folder, in lower case with the dot.

    Raises:
        TextError: there is no such path, or the folder contains no such file.
    """
    if path == "":  # which `Path` takes for the current folder
        raise TextError('"" is no path: name a file or a folder; "." is this folder')
    try:
        path = Path(path).expanduser()
    except RuntimeError:
        raise TextError(f"there is no user whose home folder {path} could be in") from None
    if not path.is_dir():
        _check_file(path)
        return [path]
    files: list[Path] = []
    for folder, folders, names in os.walk(path, onerror=_refuse_folder):  # does not follow links to folders
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_installed(Path(folder, name))]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    packed = {suffix for _, suffix, _ in _PACKED.values()}
    files = sorted(file for file in files if file.suffix.lower() in {*suffixes, *packed} and file.is_file())
    readable: list[Path] = []
    left_out: list[Path] = []
    for file in files:
        is_text = file.suffix.lower() in suffixes and _is_text(file)
        (readable if is_text else left_out).append(file)
    if left_out:
        some = ", ".join(str(file.relative_to(path)) for file in left_out[:3])
        more = f" and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
        notice(f"{path}: left out, because packed or not UTF-8 text: {some}{more}")
    if not readable:
        raise TextError(f"the folder {path} holds no file that ends in {', '.join(sorted(filter(None, suffixes)))}")
    return readable


def _is_installed(folder: Path) -> bool:
    """Whether other people's programs were installed into a folder."""
    return folder.name == "node_modules" or (folder / "pyvenv.cfg").exists() or (folder / "conda-meta").exists()


def _is_text(file: Path) -> bool:
    """Whether a file of a folder can be read as text; files of records are always read.

    All of it is looked at: a single character in Latin-1 near its end would stop the reading of the whole folder.
    """
    if file.suffix.lower() in RECORD_SUFFIXES:
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(file, "rb") as opened:
            while data := opened.read(BLOCK_BYTES):
                if b"\0" in data:
                    return False
                decoder.decode(data)
        decoder.decode(b"", final=True)
    except (UnicodeDecodeError, OSError):
        return False
    return True


def _refuse_folder(error: OSError) -> None:
    raise TextError(f"the folder {error.filename} cannot be read: {error.strerror}")


def _check_file(path: Path) -> None:
    """Raise a `TextError` unless the path is a file. To open a pipe could take for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise TextError(f"there is no file or folder {path}") from None
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise TextError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise TextError(f"{path} is a pipe or a device, not a file: save what it gives in a file first")


def read_blocks(path: Path | str, on_bytes: Callable[[int], None] | None = None) -> Iterator[str]:
    """Read a UTF-8 file in blocks of about 4 MB. The memory needed does not grow with the file.

    Args:
        path: the file to read.
        on_bytes: called with the number of bytes of each block that is read.

    Raises:
        TextError: the file is packed, is not UTF-8 or cannot be read.
    """
    path = Path(path)
    _check_file(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, lines, begins = 0, 1, True
    try:
        with open(path, "rb") as file:
            while True:
                data = file.read(BLOCK_BYTES)
                held_back = len(decoder.getstate()[0])  # the beginning of a character
                text = decoder.decode(data, final=not data)
                if begins and text:
                    text, begins = text.removeprefix("\ufeff"), False  # the byte order mark
                if text:
                    yield text
                if not data:
                    return
                read += len(data)
                lines += data.count(b"\n")
                if on_bytes is not None:
                    on_bytes(len(data))
    except UnicodeDecodeError as error:
        at, found = read - held_back + error.start, error.object[error.start :]
        if packed := _packed_as(path):
            raise TextError(
                f"{path} is packed with {packed[0]}: unpack it first, for example with: {packed[2]}"
            ) from None
        if at == 0 and found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TextError(f"{path}, line 1, is UTF-16, not UTF-8; {_ADVICE} iconv -f UTF-16 -t UTF-8") from None
        lines += error.object[: error.start].count(b"\n")
        raise TextError(
            f"{path}, line {lines}, is not UTF-8: byte {found[0]:#04x} at offset {at}; {_ADVICE} "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None


def _packed_as(path: Path) -> tuple[str, str, str] | None:
    with open(path, "rb") as file:
        head = file.read(8)
    return next((packed for begin, packed in _PACKED.items() if head.startswith(begin)), None)


def read_text(path: Path | str) -> str:
    """Read a whole UTF-8 file.

    Args:
        path: the file to read.

    Raises:
        TextError: see `read_blocks`; or there is no text in the file.
    """
    text = "".join(read_blocks(path))
    if not text.strip():
        raise TextError(f"{path} is empty: there is no text in it")
    return text


def read_lines(path: Path | str, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    r"""The lines of a file that are not blank, each with its number, without its "\n".

    Raises:
        TextError: see `read_blocks`.
    """
    number = 1
    line: list[str] = []  # parts of the line, joined once, so that a line as long as the file takes linear time
    for block in read_blocks(path, on_bytes):
        end_of_line, *following = block.split("\n")  # not splitlines, which splits at U+2028 too
        line.append(end_of_line)
        for begin_of_line in following:
            if (text := "".join(line)).strip():
                yield number, text
            line = [begin_of_line]
            number += 1
    if (text := "".join(line)).strip():
        yield number, text


def read_jsonl(path: Path | str, on_bytes: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    """The records of a JSONL file, each with the number of its line; see `parse_record`.

    Raises:
        TextError: see `read_blocks`; or a line is not JSON.
    """
    for number, line in read_lines(path, on_bytes):
        yield number, parse_record(line, path, number)


def parse_record(text: str, path: Path | str, line: int = 1) -> Any:
    r"""Text of a user's data as JSON. Half of a surrogate pair, such as \ud83d, becomes U+FFFD, and that is said once.

    Programs that cut texts to a length leave such halves. All tokenizers here read them as U+FFFD too.

    Args:
        text: a line of a JSONL file, or a whole JSON file.
        path: the file, for messages.
        line: number of the line in the file where the text begins.

    Raises:
        TextError: the text is not JSON.
    """
    if "\\u" in text and any(escape[1] for escape in _ESCAPE.finditer(text)):
        notice(f"{path}: half of a surrogate pair, such as \\ud83d, is not a character; each is read as U+FFFD")
        text = _ESCAPE.sub(lambda escape: "\\ufffd" if escape[1] else escape[0], text)
    return parse_json(text, path, line)


def parse_json(text: str, path: Path | str, line: int = 1) -> Any:
    r"""The content of a JSON text from a file that must be exact, such as a vocabulary; see also `parse_record`.

    Args:
        text: a whole JSON file, or a part of it.
        path: the file, for messages.
        line: number of the line in the file where the text begins.

    Raises:
        TextError: the text is not JSON, or has half of a surrogate pair such as \ud800, which UTF-8 cannot express.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TextError(f"{path}, line {line + error.lineno - 1}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of more than 4,300 digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TextError(f"{path}, line {line}: not valid JSON: {reason}") from None
    for escape in _ESCAPE.finditer(text) if "\\u" in text else ():
        if escape[1]:
            raise TextError(
                f"{path}, line {line + text.count(chr(10), 0, escape.start())}: \\u{escape[1]} is half of a surrogate "
                "pair, not a character; remove it, or write the whole character"
            )
    return content


def read_parquet(
    path: Path | str, columns: list[str] | None = None, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, read in batches, each with its number, which begins at 1.

    Args:
        path: the file to read.
        columns: which columns to read; None for all.
        on_bytes: called with the share of the file's bytes that each batch has among the rows.

    Raises:
        TextError: the package pyarrow or a column is missing, the file is not Parquet or unpacks to more than the memory,
            or a text is not UTF-8.
    """
    path = Path(path)
    _check_file(path)
    try:
        import pyarrow.parquet
    except ImportError:
        raise TextError(f"{path} is a Parquet file, which needs pyarrow: pip install pyarrow") from None
    try:
        file = _open_parquet(Path(path))
        present = file.schema_arrow.names
        for column in columns or ():
            if column not in present:
                raise TextError(f'{path} has no column "{column}"; its columns are {", ".join(present)}')
        number = told = 0
        size, total = path.stat().st_size, file.metadata.num_rows
        for batch in file.iter_batches(batch_size=_rows_at_once(file), columns=columns):
            cells = dict(zip(batch.schema.names, batch.columns, strict=True))
            for row in range(len(batch)):  # one at a time: many rows may share one text, and each gets a copy of it
                number += 1
                try:
                    values = {name: column[row].as_py() for name, column in cells.items()}
                except UnicodeDecodeError:
                    raise TextError(f"{path}, row {number}: a text is not UTF-8") from None
                yield number, values
            if on_bytes is not None:
                on_bytes(size * number // total - told)
                told = size * number // total
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        raise TextError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _open_parquet(path: Path) -> Any:
    """Open a Parquet file so that a text that many rows share is held once, and check that its parts fit the memory."""
    import pyarrow.parquet
    import pyarrow.types

    file = pyarrow.parquet.ParquetFile(path)
    memory = memory_limit()
    for group in range(file.metadata.num_row_groups):
        if (needed := file.metadata.row_group(group).total_byte_size) > memory:
            raise TextError(
                f"{path} unpacks to {in_gib(needed)} at once, and this process may use {in_gib(memory)}: write it in "
                "smaller row groups"
            )
    texts = [
        f.name for f in file.schema_arrow if pyarrow.types.is_string(f.type) or pyarrow.types.is_large_string(f.type)
    ]
    return pyarrow.parquet.ParquetFile(path, read_dictionary=texts)


def _rows_at_once(file: Any) -> int:
    """How many rows of a Parquet file take about 64 MB, at most 1,024."""
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
    return max(1, min(1024, int(BATCH_BYTES / max(largest, 1.0))))


def read_documents(path: Path | str, on_bytes: Callable[[int], None] | None = None) -> Iterator[Iterator[str]]:
    """The documents of a file, each as its parts in order.

    In a JSONL file each line is a document, and in a Parquet file each row, in the field `text`. Any other file is one.

    Args:
        path: the file to read.
        on_bytes: called with the number of bytes of the file that were read; together, the size of the file.

    Raises:
        TextError: see `read_blocks`, `read_jsonl` and `read_parquet`; or a record has no text.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        for number, row in read_parquet(path, ["text"], on_bytes):
            if not isinstance(row["text"], str):
                raise TextError(f'{path}, row {number}: expected a string in "text", got {type(row["text"]).__name__}')
            yield iter([row["text"]])
    elif suffix == ".jsonl":
        for number, record in read_jsonl(path, on_bytes):
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise TextError(f'{path}, line {number}: expected an object with a string field "text"')
            yield iter([record["text"]])
    else:
        yield read_blocks(path, on_bytes)

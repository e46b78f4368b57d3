"""Documents one after the other, from files or data sets that do not fit into memory.

Sources: a text file (one document, in pieces), a JSONL or Parquet file with a column `text`, a folder of
them, or `hub:NAME` (also `hub:NAME/CONFIG`) for a data set of the Hugging Face hub, read over the network as
it goes. Which documents are held out is decided by each one's hash, so that it is the same however many
are taken and in whatever order they come.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neural_networks.corpora import TEXT_SUFFIXES, CorpusError

HUB = "hub:"
# A text file has no documents; it is cut at line ends into pieces of about this many characters.
PIECE_CHARACTERS = 1 << 16


def stream_documents(source: str) -> Iterator[str]:
    """Documents of a source, in order.

    Raises:
        CorpusError: there is no such source, a package for it is missing, or a record holds no text.
    """
    if source.startswith(HUB):
        yield from _stream_hub(source.removeprefix(HUB))
        return
    path = Path(source).expanduser()
    if not path.exists():
        raise CorpusError(
            f"there is no file or folder {source!r} to stream; name one, or a data set of the Hugging Face hub "
            f"as {HUB}NAME"
        )
    suffixes = TEXT_SUFFIXES | {".parquet"}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if path.is_dir():
        files = [file for file in files if file.suffix.lower() in suffixes and not file.name.startswith(".")]
        if not files:
            raise CorpusError(f"the folder {path} holds no text files ({', '.join(sorted(suffixes))})")
    for file in files:
        if file.suffix.lower() == ".parquet":
            yield from _stream_parquet(file)
        elif file.suffix.lower() == ".jsonl":
            yield from _stream_jsonl(file)
        else:
            yield from _stream_text(file)


def is_held_out(document: str, fraction: float) -> bool:
    """Whether a document belongs to the validation part.

    >>> sum(is_held_out(f"document {i}", 0.1) for i in range(10_000))
    1005
    """
    digest = hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") < fraction * 2**64


def _stream_text(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            while lines := file.readlines(PIECE_CHARACTERS):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 near byte {error.start}; convert it first") from None


def _stream_jsonl(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record: Any = json.loads(line)
            except ValueError as error:
                raise CorpusError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise CorpusError(f'{path}, line {number}: expected an object with a string field "text"')
            yield record["text"]


def _stream_parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise CorpusError(f"{path} is a Parquet file, which needs pyarrow: pip install pyarrow") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    if "text" not in file.schema_arrow.names:
        raise CorpusError(f'{path} has no column "text"; its columns are {", ".join(file.schema_arrow.names)}')
    row = 0
    for batch in file.iter_batches(batch_size=1024, columns=["text"]):
        for text in batch.column(0).to_pylist():
            row += 1
            if not isinstance(text, str):
                raise CorpusError(f'{path}, row {row}: "text" is {text!r}, not a string')
            yield text


def _stream_hub(name: str) -> Iterator[str]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise CorpusError(f"{HUB}{name} needs the package datasets: pip install datasets") from None
    parts = name.split("/")
    path, config = ("/".join(parts[:2]), "/".join(parts[2:]) or None) if len(parts) > 1 else (name, None)
    try:
        rows = datasets.load_dataset(path, config, split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get("text"), str):
                raise CorpusError(f'{HUB}{name}, row {number}: expected a string field "text", found {sorted(row)}')
            yield row["text"]
    except CorpusError:
        raise
    except Exception as error:  # the network's and the hub's errors have no common ancestor
        raise CorpusError(f"{HUB}{name} could not be read: {str(error).splitlines()[0]}") from None

"""Documents one after the other, from files or data sets that do not fit into memory.

Sources: a text file (one document, in pieces), a JSONL or Parquet file with a column `text`, a folder of
them, or `hub:NAME` (also `hub:NAME/CONFIG`) for a data set of the Hugging Face hub, read over the network
piece by piece. The hash of each document decides whether it is held out. So this does not depend on how many
documents are taken, or on their order.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from typing import Any

from groundwork.text_sources import RECORD_SUFFIXES, TextError, find_text_files, read_documents
from neural_networks.corpus import CorpusError

HUB = "hub:"
# A text file has no documents; it is cut at line ends into pieces of about this many characters.
PIECE_CHARACTERS = 1 << 16


def stream_documents(source: str) -> Iterator[str]:
    """Documents of a source, in order.

    Raises:
        CorpusError, TextError: there is no such source, a package for it is missing, or a record holds no text.
    """
    if source.startswith(HUB):
        yield from _stream_hub(source.removeprefix(HUB))
        return
    try:
        files = find_text_files(source)
    except TextError as error:
        raise CorpusError(f"{error}; name one, or a data set of the Hugging Face hub as {HUB}NAME") from None
    for file in files:
        for parts in read_documents(file):
            yield from parts if file.suffix.lower() in RECORD_SUFFIXES else _pieces(parts)


def is_held_out(document: str, fraction: float) -> bool:
    """Whether a document belongs to the validation part.

    >>> sum(is_held_out(f"document {i}", 0.1) for i in range(10_000))
    1005
    """
    digest = hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") < fraction * 2**64


def _pieces(blocks: Iterator[str]) -> Iterator[str]:
    """A text cut at line ends into pieces of about `PIECE_CHARACTERS`; a line that is longer stays whole."""
    held: list[str] = []  # joined once, so that a line as long as the file takes linear time
    length = 0
    for block in blocks:
        start = 0
        while end := block.find("\n", start + max(0, PIECE_CHARACTERS - length - 1)) + 1:
            yield "".join([*held, block[start:end]])
            held, length, start = [], 0, end
        held.append(block[start:])
        length += len(block) - start
    if length:
        yield "".join(held)


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
    except Exception as error:  # the network's and the hub's errors have no common base class
        raise CorpusError(f"{HUB}{name} could not be read: {str(error).splitlines()[0]}") from None

"""Corpora: where the text comes from, and which part of it no model may train on.

A corpus is a list of documents in two parts, training and validation. It has a name (`python_docs`,
`tiny_shakespeare`) or is a path to the user's own files. The same split serves every stage, so that
a bigram of stage 1 and a chat model of stage 6 are measured on the same held-out text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

TINY_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".jsonl", ""})


class CorpusError(ValueError):
    """A corpus that cannot be used, said in one line that names the file and the way out."""


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and documents held out.

    Args:
        name: how the corpus was asked for.
        train: training documents.
        validation: held-out documents; no document is in both.
    """

    name: str
    train: tuple[str, ...] = field(repr=False)
    validation: tuple[str, ...] = field(repr=False)

    @cached_property
    def train_bytes(self) -> int:
        """UTF-8 bytes of the training documents, separators not counted."""
        return sum(len(document.encode("utf-8")) for document in self.train)

    @cached_property
    def validation_bytes(self) -> int:
        """UTF-8 bytes of the validation documents, separators not counted."""
        return sum(len(document.encode("utf-8")) for document in self.validation)

    @cached_property
    def sha256(self) -> str:
        """Hash of every document in order: two runs with one hash saw the same text and split."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(len(part).to_bytes(8, "little"))
            for document in part:
                data = document.encode("utf-8")
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()


def load_corpus(name: str, validation_fraction: float = 0.1, cache_dir: Path | str = "datasets") -> Corpus:
    """Load a corpus by name, or from the user's own files.

    Args:
        name: `python_docs`, `tiny_shakespeare`, or the path of a text file, a JSONL file (one
            `{"text": …}` object a line) or a folder of such files.
        validation_fraction: share of the text held out, between 0 and 0.5.
        cache_dir: where a downloaded corpus is kept.

    Raises:
        CorpusError: nothing has that name, or a file is empty, not UTF-8 or not readable.
    """
    if not 0.0 < validation_fraction <= 0.5:
        raise CorpusError(f"the validation fraction must be above 0 and at most 0.5, got {validation_fraction}")
    if name == "python_docs":
        from neural_networks.python_docs import gather_python_docs

        return gather_python_docs(validation_fraction)
    if name == "tiny_shakespeare":
        text = read_text(_fetch_tiny_shakespeare(Path(cache_dir)))
        return _split(name, [text], validation_fraction)
    path = Path(name).expanduser()
    if not path.exists():
        raise CorpusError(
            f"there is no corpus called {name!r} and no such file or folder; "
            "the named ones are python_docs and tiny_shakespeare"
        )
    return _split(name, _read_documents(path), validation_fraction)


def _split(name: str, documents: list[str], validation_fraction: float) -> Corpus:
    """Hold out the tail of the text, cutting one document if need be.

    A single document is cut at its tail, as is usual for Tiny Shakespeare. Several are first put
    in the order of their hashes, so that the tail is a fair sample of a folder rather than
    whatever sorts last, and so that adding a file moves few of the others across the cut.
    """
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise CorpusError(f"the corpus {name!r} holds no text: every document is empty")
    if len(documents) > 1:
        documents.sort(key=lambda document: hashlib.sha256(document.encode("utf-8")).digest())
    cut = int(sum(map(len, documents)) * (1.0 - validation_fraction))  # in characters
    train, validation, seen = [], [], 0
    for document in documents:
        here = min(max(cut - seen, 0), len(document))
        if here:
            train.append(document[:here])
        if here < len(document):
            validation.append(document[here:])
        seen += len(document)
    if not train or not validation:
        raise CorpusError(f"the corpus {name!r} is too short to split: {seen} characters")
    return Corpus(name, tuple(train), tuple(validation))


def _read_documents(path: Path) -> list[str]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if path.is_dir():
        files = [p for p in files if p.suffix.lower() in TEXT_SUFFIXES and not p.name.startswith(".")]
        if not files:
            raise CorpusError(f"the folder {path} holds no text files ({', '.join(sorted(TEXT_SUFFIXES))})")
    documents: list[str] = []
    for file in files:
        documents += _read_jsonl(file) if file.suffix.lower() == ".jsonl" else [read_text(file)]
    return documents


def read_text(path: Path) -> str:
    """A UTF-8 file, byte for byte, without its byte order mark.

    Raises:
        CorpusError: it is empty, not UTF-8 or not readable.
    """
    try:
        # Bytes first: text mode would turn \r\n into \n, and the byte count with it.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; "
            "convert it first, for example with: iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise CorpusError(f"{path} is empty: a corpus needs text")
    return text


def _read_jsonl(path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise CorpusError(f'{path}, line {number}: expected an object with a string field "text"')
        documents.append(record["text"])
    return documents


def _fetch_tiny_shakespeare(cache_dir: Path) -> Path:
    import pooch  # imported here: it takes longer to import than this module, and is rarely needed

    file = cache_dir / "tinyshakespeare.txt"
    try:
        with_progress = pooch.HTTPDownloader(progressbar=False, timeout=30)
        return Path(
            pooch.retrieve(
                TINY_SHAKESPEARE_URL,
                known_hash=f"sha256:{TINY_SHAKESPEARE_SHA256}",
                fname=file.name,
                path=str(cache_dir),
                downloader=with_progress,
            )
        )
    except Exception as error:  # pooch raises ValueError for a hash, requests its own for the network
        raise CorpusError(
            f"Tiny Shakespeare could not be downloaded ({type(error).__name__}); put the file by hand at {file} "
            f"(SHA-256 {TINY_SHAKESPEARE_SHA256[:12]}…), or pass its path as the corpus"
        ) from None

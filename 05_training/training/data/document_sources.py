"""A corpus as the preparation sees it: documents to iterate over as often as needed, train and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from groundwork.user_errors import counted, notice
from neural_networks.bits_per_byte import xz_bits_per_byte
from neural_networks.corpus import Corpus, CorpusError
from training.data.document_stream import is_held_out, stream_documents

# Bytes of a stream that the tokenizer is trained on. More text would change few of its merges.
TOKENIZER_BYTES = 64_000_000


class DocumentSource(Protocol):
    """Documents of one corpus."""

    @property
    def name(self) -> str:
        """How the corpus was asked for."""
        ...

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Each document, and whether it is held out."""
        ...

    def tokenizer_documents(self) -> Iterator[str]:
        """Training documents that a tokenizer should learn from."""
        ...

    def sha256(self) -> str:
        """Hash of the documents and their split; asked for after the documents were read."""
        ...

    def baselines(self) -> tuple[float, float] | None:
        """Size of the held-out documents under xz, in bits per byte: alone, and after the training documents."""
        ...


@dataclass
class LoadedSource:
    """A corpus in memory."""

    corpus: Corpus

    @property
    def name(self) -> str:
        """How the corpus was asked for."""
        return self.corpus.name

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Each document, and whether it is held out."""
        for document in self.corpus.train:
            yield document, False
        for document in self.corpus.validation:
            yield document, True

    def tokenizer_documents(self) -> Iterator[str]:
        """All training documents."""
        return iter(self.corpus.train)

    def sha256(self) -> str:
        """See `Corpus.sha256`."""
        return self.corpus.sha256

    def baselines(self) -> tuple[float, float] | None:
        """Measured by `xz_bits_per_byte`."""
        held_out = self.corpus.validation
        return xz_bits_per_byte(held_out), xz_bits_per_byte(held_out, self.corpus.train)


class StreamedSource:
    """A corpus that is read again for each pass over it.

    Args:
        name: see `stream_documents`.
        validation_fraction: share of documents held out.
        max_documents: the most documents to take; None for all.
    """

    def __init__(self, name: str, validation_fraction: float, max_documents: int | None):
        self._name, self.validation_fraction, self.max_documents = name, validation_fraction, max_documents
        self.trained_elsewhere, self.held_out_elsewhere = set[str](), set[str]()  # left out of the other part
        self._digest = hashlib.sha256()

    @property
    def name(self) -> str:
        """How the corpus was asked for."""
        return self._name

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Each document, and whether it is held out."""
        self._digest = hashlib.sha256()
        left_out = 0
        for document in islice(stream_documents(self._name), self.max_documents):
            if not document.strip():
                continue
            held_out = is_held_out(document, self.validation_fraction)
            if document in (self.trained_elsewhere if held_out else self.held_out_elsewhere):
                left_out += 1
                continue
            self._digest.update(bytes([held_out]) + hashlib.sha256(document.encode("utf-8")).digest())
            yield document, held_out
        if left_out:
            notice(
                f"{counted(left_out, 'document')} of {self._name} left out, because trained on in one corpus and held "
                "out in another"
            )

    def tokenizer_documents(self) -> Iterator[str]:
        """Training documents from the beginning, `TOKENIZER_BYTES` of them."""
        size = 0
        for document, held_out in self.documents():
            if size > TOKENIZER_BYTES:
                return
            if not held_out:
                size += len(document.encode("utf-8"))
                yield document

    def sha256(self) -> str:
        """Hash of the documents that the last pass read."""
        return self._digest.hexdigest()

    def baselines(self) -> tuple[float, float] | None:
        """None: xz would take longer than the training."""
        return None


def never_trained_on(sources: Sequence[DocumentSource]) -> list[DocumentSource]:
    """The corpora of a mixture, without documents that would be trained on in one and held out in another.

    A corpus in memory keeps what it trains on, and leaves out of its held-out part what another one trains on. Streams
    leave out what is in the other part of a corpus in memory. Among streams nothing is compared: the hash of a document
    decides, so that equal documents go the same way.

    Raises:
        CorpusError: nothing that is held out is left in one of them.
    """
    loaded = [source.corpus for source in sources if isinstance(source, LoadedSource)]
    kept: list[DocumentSource] = []
    for source in sources:
        if isinstance(source, LoadedSource):
            trained = {document for corpus in loaded if corpus is not source.corpus for document in _parts(corpus)[0]}
            kept.append(LoadedSource(_without_trained(source.corpus, trained)))
        elif isinstance(source, StreamedSource):
            parts = [_parts(corpus) for corpus in loaded]
            source.trained_elsewhere.update(*(train for train, _ in parts))
            source.held_out_elsewhere.update(*(held_out for _, held_out in parts))
            kept.append(source)
    return kept


def _parts(corpus: Corpus) -> tuple[set[str], set[str]]:
    """The whole documents of each part; the one at the cut belongs to both."""
    at_cut = corpus.train[-1] + corpus.validation[0]
    return {*corpus.train, at_cut}, {*corpus.validation, at_cut}


def _without_trained(corpus: Corpus, trained: set[str]) -> Corpus:
    whole = (corpus.train[-1] + corpus.validation[0], *corpus.validation[1:])
    held_out = tuple(
        document
        for document, as_whole in zip(corpus.validation, whole, strict=True)
        if document not in trained and as_whole not in trained
    )
    if missing := len(corpus.validation) - len(held_out):
        notice(
            f"{counted(missing, 'held-out document')} of {corpus.name} left out, because trained on in another corpus"
        )
    if not held_out:
        raise CorpusError(f"all held-out documents of {corpus.name} are trained on in another corpus")
    return replace(corpus, validation=held_out)

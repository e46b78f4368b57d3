"""A corpus as the preparation sees it: documents to iterate over as often as needed, train and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from groundwork.user_errors import notice
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
        self._digest = hashlib.sha256()

    @property
    def name(self) -> str:
        """How the corpus was asked for."""
        return self._name

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Each document, and whether it is held out."""
        self._digest = hashlib.sha256()
        for document in islice(stream_documents(self._name), self.max_documents):
            if not document.strip():
                continue
            held_out = is_held_out(document, self.validation_fraction)
            self._digest.update(bytes([held_out]) + hashlib.sha256(document.encode("utf-8")).digest())
            yield document, held_out

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
    """The corpora of a mixture, without held-out documents that are training documents of another one.

    Only corpora in memory are compared. In streams the hash of a document decides, so equal documents go the same way.

    Raises:
        CorpusError: nothing that is held out is left in one of them.
    """
    trained = {document for source in sources if isinstance(source, LoadedSource) for document in source.corpus.train}
    kept: list[DocumentSource] = []
    for source in sources:
        if isinstance(source, LoadedSource):
            held_out = tuple(document for document in source.corpus.validation if document not in trained)
            if missing := len(source.corpus.validation) - len(held_out):
                notice(
                    f"{missing:,} held-out documents of {source.name} are trained on in another corpus, and left out"
                )
            if not held_out:
                raise CorpusError(f"all held-out documents of {source.name} are trained on in another corpus")
            source = LoadedSource(replace(source.corpus, validation=held_out))
        kept.append(source)
    return kept

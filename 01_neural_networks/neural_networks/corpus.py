"""A corpus: documents in two parts, one to train on and one that no model may see before it is measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from groundwork.user_errors import counted, notice, require_texts


class CorpusError(ValueError):
    """A corpus cannot be used; the message is one line that names the file and the way out."""


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and documents held out.

    Args:
        name: the name or path that was asked for.
        train: training documents.
        validation: held-out documents; no document is in both. One may begin in `train` and end here.
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


def split_documents(name: str, documents: list[str], validation_fraction: float) -> Corpus:
    """Hold out the end of the text; one document may be cut in two.

    A single document is cut near its end, as is usual for Tiny Shakespeare. Several documents are
    first put in the order of their hashes. Then the end is a fair sample of a folder, not only the
    last files by name, and a new file moves few of the others across the cut. Equal documents come
    together in this order. Copies of the document at the cut are left out, because otherwise the model
    would be measured on a document that it was trained on.

    Raises:
        CorpusError: there is too little text.
        UserError: `documents` is a single text instead of a list.
    """
    require_texts(documents)
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise CorpusError(f"the corpus {name!r} holds no text: every document is empty")
    if len(documents) > 1:
        documents.sort(key=lambda document: hashlib.sha256(document.encode("utf-8")).digest())
    given = len(documents)
    cut = int(sum(map(len, documents)) * (1.0 - validation_fraction))  # in characters
    while documents.count(at_cut := _document_at(documents, cut)) > 1:
        first = documents.index(at_cut)
        documents[first : first + documents.count(at_cut)] = [at_cut]
        cut = int(sum(map(len, documents)) * (1.0 - validation_fraction))
    if left_out := given - len(documents):
        notice(
            f"the corpus {name}: {counted(left_out, 'copy', 'copies')} of a document at the cut between training and "
            "held-out text left out"
        )
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


def _document_at(documents: list[str], character: int) -> str:
    """The document that holds a character of all of them together."""
    for document in documents:
        if character < len(document):
            return document
        character -= len(document)
    return documents[-1]

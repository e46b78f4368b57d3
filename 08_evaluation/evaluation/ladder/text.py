"""The text of the ladder and the sizes of its models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from neural_networks.corpus import Corpus


@dataclass(frozen=True)
class LadderTier:
    """How much work the ladder may take.

    Args:
        name: name of the tier.
        train_bytes: the most bytes to train on.
        validation_bytes: the most bytes to measure.
        ngram_order: order of the Kneser-Ney model.
        mlp_steps: steps of the NumPy network, with 256 predictions each.
        vocab_size: vocabulary size of BPE.
        context_length: context of the transformers, in tokens.
        d_model: width of the transformers.
        num_layers: blocks of the transformers.
        steps: optimizer steps of the transformers.
        batch_size: windows in each step.
    """

    name: str
    train_bytes: int
    validation_bytes: int
    ngram_order: int
    mlp_steps: int
    vocab_size: int
    context_length: int
    d_model: int
    num_layers: int
    steps: int
    batch_size: int


TIERS = {
    "quick": LadderTier("quick", 2_000_000, 60_000, 6, 5000, 1024, 128, 128, 3, 500, 8),
    "full": LadderTier("full", 100_000_000, 400_000, 6, 20_000, 4096, 256, 256, 4, 720, 8),
}


def ladder_text(corpus: Corpus, tier: LadderTier) -> Corpus:
    """Documents of a corpus, spread evenly over it, within the sizes of a tier."""
    return Corpus(
        corpus.name, _spread(corpus.train, tier.train_bytes), _spread(corpus.validation, tier.validation_bytes)
    )


def text_sha256(text: Corpus) -> str:
    """Hash of all documents in order, as the files of results hold it; `Corpus.sha256` is another."""
    digest = hashlib.sha256()
    for document in (*text.train, "\0", *text.validation):
        digest.update(document.encode("utf-8") + b"\0")
    return digest.hexdigest()


def _spread(documents: tuple[str, ...], max_bytes: int) -> tuple[str, ...]:
    if len(documents) == 1:  # a single text, such as Tiny Shakespeare: its beginning
        return (documents[0].encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore"),)
    sizes = np.array([len(document.encode("utf-8")) for document in documents])
    share = min(1.0, max_bytes / sizes.sum())
    # A document is taken where the running sum of shares passes a whole number: evenly, one in every 1 / share.
    taken = np.floor(np.arange(1, len(documents) + 1) * share) > np.floor(np.arange(len(documents)) * share)
    return tuple(document for document, take in zip(documents, taken, strict=True) if take)

"""Where the bits go: the loss by place in the context, kind and frequency of the token, and the hardest places.

One number for a text hides that half of the tokens cost almost nothing, and that a few cost most of the bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.sliding_window import TextScores
from groundwork.user_errors import UserError
from tokenizer.interface import Tokenizer

# The first pattern that matches gives the kind of a token. Spaces before a word belong to the word.
_KINDS = (
    ("line break", re.compile(r"\s*\n\s*")),
    ("spaces", re.compile(r"\s+")),
    ("word", re.compile(r"[ ]?[A-Za-z]+")),
    ("number", re.compile(r"[ ]?\d+")),
    ("punctuation", re.compile(r"[ ]?[^\w\s]+")),
)
KINDS = (*(name for name, _ in _KINDS), "mixed", "part of a character", "end of text")


@dataclass(frozen=True)
class Group:
    """Tokens that have something in common.

    Args:
        name: what they have in common.
        tokens: how many tokens.
        bits: mean bits per token.
        share_of_bits: share of all the bits of the text.
        accuracy: share of places where the most likely token was the right one.
    """

    name: str
    tokens: int
    bits: float
    share_of_bits: float
    accuracy: float


@dataclass(frozen=True)
class Span:
    """A stretch of text and its cost.

    Args:
        before: the text before it.
        text: the stretch.
        bits: its cost.
        expected: what the model thought most likely at the hardest token.
    """

    before: str
    text: str
    bits: float
    expected: str


def token_kind(tokenizer: Tokenizer, token: int) -> str:
    """The kind of a token, one of `KINDS`."""
    if token == tokenizer.end_of_text_id:
        return "end of text"
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        return "part of a character"
    return next((name for name, pattern in _KINDS if pattern.fullmatch(text)), "mixed")


def loss_by_kind(scores: TextScores, tokenizer: Tokenizer) -> list[Group]:
    """Groups by `token_kind`; the groups that take most of the bits come first."""
    kind_of_id = {int(token): KINDS.index(token_kind(tokenizer, int(token))) for token in np.unique(scores.ids)}
    kinds = np.array([kind_of_id[int(token)] for token in scores.ids])
    groups = [_group(name, kinds == index, scores) for index, name in enumerate(KINDS)]
    return sorted((group for group in groups if group.tokens), key=lambda group: -group.share_of_bits)


def loss_by_frequency(scores: TextScores, counts: NDArray[np.int64]) -> list[Group]:
    """Groups by how often a token occurred in training, in powers of ten, the rarest first.

    Args:
        scores: scores of any text.
        counts: (vocab_size,) occurrences in the training text.
    """
    decades = np.where(counts > 0, np.log10(np.maximum(counts, 1)).astype(np.int64) + 1, 0)[scores.ids]
    names = ["never", *(f"{10**k:,} to {10 ** (k + 1) - 1:,}" for k in range(int(decades.max()) + 1))]
    groups = [_group(names[decade], decades == decade, scores) for decade in range(int(decades.max()) + 1)]
    return [group for group in groups if group.tokens]


def loss_by_context(scores: TextScores) -> list[Group]:
    """Groups by the number of tokens before the token, in powers of two. They show what more context is worth."""
    powers = np.log2(scores.context_sizes).astype(np.int64)
    groups = [
        _group(str(2**k) if k == 0 else f"{2**k} to {2 ** (k + 1) - 1}", powers == k, scores)
        for k in range(int(powers.max()) + 1)
    ]
    return [group for group in groups if group.tokens]


def _group(name: str, members: NDArray[np.bool_], scores: TextScores) -> Group:
    count = int(members.sum())
    bits = float(scores.nats[members].sum()) / math.log(2)
    return Group(
        name,
        count,
        bits / max(1, count),
        bits * math.log(2) / scores.total_nats,
        float(scores.correct[members].mean()) if count else 0.0,
    )


def token_counts(tokenizer: Tokenizer, documents: Sequence[str]) -> NDArray[np.int64]:
    """How often each token occurs in the documents, (vocab_size,)."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for document in documents:
        counts += np.bincount(tokenizer.encode_to_array(document), minlength=tokenizer.vocab_size)
    return counts


def worst_spans(scores: TextScores, tokenizer: Tokenizer, length: int = 8, count: int = 10) -> list[Span]:
    """The stretches of `length` tokens that cost most, without overlap.

    Args:
        scores: scores of any text.
        tokenizer: the model's tokenizer.
        length: tokens in a stretch.
        count: how many stretches.

    Raises:
        UserError: the text is shorter than one stretch.
    """
    if len(scores.ids) < length:
        raise UserError(f"the text has {len(scores.ids)} tokens, fewer than a stretch of {length}")
    sums = np.convolve(scores.nats, np.ones(length), mode="valid")  # (tokens - length + 1,)
    same_document = scores.documents[: len(sums)] == scores.documents[length - 1 :]
    sums = np.where(same_document, sums, -np.inf)
    spans: list[Span] = []
    while len(spans) < count and np.isfinite(sums.max()):
        start = int(sums.argmax())
        hardest = start + int(scores.nats[start : start + length].argmax())
        lead = max(0, start - 3 * length)
        inside = scores.documents[lead:start] == scores.documents[start]
        spans.append(
            Span(
                tokenizer.decode(scores.ids[lead:start][inside].tolist()),
                tokenizer.decode(scores.ids[start : start + length].tolist()),
                float(sums[start]) / math.log(2),
                tokenizer.decode([int(scores.top_ids[hardest])]),
            )
        )
        sums[max(0, start - length + 1) : start + length] = -np.inf
    return spans

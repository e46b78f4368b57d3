"""Texts and reference implementations that the tokenizer's tests share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import tiktoken
from hypothesis import strategies as st

from tokenizer.bpe_tokenizer import BPETokenizer

TEXT = Path(__file__).read_text(encoding="utf-8") * 2 + "naïve café — 東京 🙂👩‍👩‍👧 don't  stop\n\n\t end   "

# Pre-tokenization depends on these: contractions in upper and lower case (ſ folds to s), every kind of white
# space (U+001C is not white space for Unicode), digits and numbers, letters with and without case, marks, emoji.
_EDGES = [
    *"aZéßſ中ǅªʰ́'sSdTlLvVeErR 0٣Ⅷ½!/._\n\r\t\x0b\x1c\x85\xa0\u2028\u3000\u200d",
    "🙂",
    "👩‍👩‍👧",
    "𝒜",
    "𝟘",
    "\x00",
    "\ud800",
    "\udc00",
]
edge_texts = st.lists(st.sampled_from(_EDGES), max_size=40).map("".join)
any_texts = st.one_of(st.text(max_size=100), edge_texts)


def tiktoken_with(tokenizer: BPETokenizer, pattern: str | None = None) -> tiktoken.Encoding:
    """tiktoken with our merges."""
    count = 256 + len(tokenizer.merges)
    return tiktoken.Encoding(
        "ours",
        pat_str=tokenizer.pattern if pattern is None else pattern,
        mergeable_ranks={tokenizer.decode_bytes([index]): index for index in tokenizer.ids[:count]},
        special_tokens=tokenizer.special_tokens,
    )


def slow_merges(counts: Mapping[bytes, int], num_merges: int) -> list[tuple[int, int]]:
    """The definition of BPE: count everything, merge the best pair everywhere, repeat."""
    words = Counter({tuple(word): count for word, count in counts.items()})
    names, merges = [bytes([byte]) for byte in range(256)], []
    for new in range(256, 256 + num_merges):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], names[pair[0]], names[pair[1]]))
        merges.append(best)
        names.append(names[best[0]] + names[best[1]])
        words = Counter({tuple(replace_pair(word, best, new)): count for word, count in words.items()})
    return merges


def slow_encode(merges: list[tuple[int, int]], pre_token: bytes) -> list[int]:
    """The definition of encoding: apply each merge everywhere, in the order learned, from left to right."""
    tokens = list(pre_token)
    for index, pair in enumerate(merges):
        tokens = replace_pair(tokens, pair, 256 + index)
    return tokens


def replace_pair(tokens, pair, new) -> list[int]:
    replaced, index = [], 0
    while index < len(tokens):
        if tuple(tokens[index : index + 2]) == pair:
            replaced.append(new)
            index += 2
        else:
            replaced.append(tokens[index])
            index += 1
    return replaced

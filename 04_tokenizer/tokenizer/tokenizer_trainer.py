"""Learn BPE merges from text, fast enough for megabytes in plain Python.

The definition: count all adjacent pairs, merge the most frequent one everywhere, repeat. Doing just
that recounts the whole text for every merge. Three facts make it fast:

1. Text is made of few different pre-tokens. Count each once, then work on the distinct ones.
2. A merge changes only the words that hold the pair. An index from pair to words finds them, and
   the counts are corrected by what those words lose and gain.
3. The largest count is at the top of a heap. Counts in the heap go stale; an entry is checked when
   it comes up, and put back with its true count if it was stale.

A tie goes to the pair whose bytes are lexicographically greater (first token, then second).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

import regex

from tokenizer.bpe_tokenizer import BPETokenizer, Pair, replace_pair, to_utf8
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.patterns import GPT2_PATTERN


def train_bpe(
    documents: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str] = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
    on_merge: Callable[[int, int], None] | None = None,
) -> BPETokenizer:
    """Train a byte-level BPE tokenizer.

    Args:
        documents: training texts; merges never cross from one to the next.
        vocab_size: ids wanted: 256 bytes + merges + special tokens. Where the text has fewer pairs
            than asked for, the vocabulary is smaller; look at the result's `vocab_size`.
        special_tokens: texts that get ids of their own, after the merges.
        pattern: cuts text into pre-tokens.
        on_merge: called with (merges done, merges wanted), for a progress bar.

    Raises:
        TokenizerError: `vocab_size` has no room for the bytes and the special tokens.
    """
    specials = list(special_tokens)
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise TokenizerError(
            f"the vocabulary size must be at least {smallest}: 256 bytes + {len(specials)} special tokens, "
            f"got {vocab_size}"
        )
    counts = count_pre_tokens(documents, pattern)
    merges = learn_merges(counts, vocab_size - smallest, on_merge)
    return BPETokenizer(merges, specials, pattern)


def count_pre_tokens(documents: Iterable[str], pattern: str = GPT2_PATTERN) -> Counter[bytes]:
    """How often each pre-token occurs, as UTF-8 bytes."""
    compiled = regex.compile(pattern)
    texts: Counter[str] = Counter()
    for document in documents:
        texts.update(compiled.findall(document))
    counts: Counter[bytes] = Counter()
    for text, count in texts.items():
        counts[to_utf8(text)] += count
    return counts


def learn_merges(
    pre_token_counts: Counter[bytes], num_merges: int, on_merge: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """The merges of greedy BPE, in order; fewer than asked for where no pair is left.

    >>> learn_merges(Counter({b"low": 5, b"lower": 2}), 2)  # "lo" and "ow" tie; "ow" is greater
    [(111, 119), (108, 256)]
    """
    words = [list(word) for word in pre_token_counts]
    frequency = list(pre_token_counts.values())
    pair_counts: dict[Pair, int] = defaultdict(int)
    words_with: dict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += frequency[index]
            words_with[pair].add(index)

    # heapq pops the smallest, so counts are negated, and bytes turned round: 255 - byte, with a 256
    # at the end so that of "a" and "ab" the longer one counts as the greater.
    descending: list[tuple[int, ...]] = [(255 - byte, 256) for byte in range(256)]
    heap = [(-count, descending[a], descending[b], (a, b)) for (a, b), count in pair_counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        negative_count, _, _, pair = heapq.heappop(heap)
        count = pair_counts.get(pair, 0)
        if count <= 0:
            continue
        if count != -negative_count:  # stale: it has changed since it was put there
            heapq.heappush(heap, (-count, descending[pair[0]], descending[pair[1]], pair))
            continue
        new_id = 256 + len(merges)
        merges.append(pair)
        descending.append(descending[pair[0]][:-1] + descending[pair[1]])

        changed: set[Pair] = set()
        for index in words_with.pop(pair):
            before = words[index]
            after = replace_pair(before, pair, new_id)
            times = frequency[index]
            for old in pairwise(before):
                pair_counts[old] -= times
            for new in pairwise(after):
                pair_counts[new] += times
                if new_id in new:  # only pairs with the new token are new to this word
                    words_with[new].add(index)
                    changed.add(new)
            words[index] = after
        del pair_counts[pair]
        for new in changed:
            heapq.heappush(heap, (-pair_counts[new], descending[new[0]], descending[new[1]], new))
        if on_merge is not None:
            on_merge(len(merges), num_merges)
    return merges

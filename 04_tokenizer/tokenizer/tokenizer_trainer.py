"""Train a byte-level BPE tokenizer: count pre-tokens, learn merges.

`pre_token_counts` does the first, `merge_learner` the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import END_OF_TEXT, TokenizerError, check_special_tokens
from tokenizer.merge_learner import learn_merges
from tokenizer.patterns import GPT2_PATTERN
from tokenizer.pre_token_counts import count_pre_tokens


def train_bpe(
    documents: Iterable[str | Iterable[str]],
    vocab_size: int,
    special_tokens: Iterable[str] = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
    on_merge: Callable[[int, int], None] | None = None,
    on_characters: Callable[[int], None] | None = None,
    workers: int = 1,
    max_distinct: int | None = None,
) -> BPETokenizer:
    """Train a byte-level BPE tokenizer.

    Args:
        documents: training texts, or iterators over the parts of a text, such as `read_blocks` of a file that
            does not fit into memory; merges never cross from one document to the next.
        vocab_size: number of ids wanted: 256 bytes + merges + special tokens. Where the text has fewer pairs
            than asked for, the vocabulary is smaller; look at the result's `vocab_size`.
        special_tokens: texts that get ids of their own, after the merges. Where the documents hold one, nothing
            is learned from it, and no merge is learned across it.
        pattern: cuts text into pre-tokens.
        on_merge: called with (merges done, merges wanted), for a progress bar.
        on_characters: called with the number of characters of each part that has been counted.
        workers: processes for the counting; see `parallel.map_in_order` for what more than one needs.
        max_distinct: see `count_pre_tokens`.

    Raises:
        TokenizerError: `vocab_size` has no room for the bytes and the special tokens, or special tokens repeat.
        TextError: the documents are a single text.
    """
    specials = check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, specials)
    counts = count_pre_tokens(documents, pattern, specials, workers, max_distinct, on_characters)
    return train_from_counts(counts, vocab_size, specials, pattern, on_merge)


def train_from_counts(
    counts: Mapping[bytes, int] | Counter[bytes],
    vocab_size: int,
    special_tokens: Iterable[str] = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
    on_merge: Callable[[int, int], None] | None = None,
) -> BPETokenizer:
    """Train from pre-tokens that have been counted; arguments and errors as in `train_bpe`."""
    specials = check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, specials)
    return BPETokenizer(learn_merges(counts, vocab_size - 256 - len(specials), on_merge), specials, pattern)


def check_vocab_size(vocab_size: int, special_tokens: list[str]) -> None:
    """Raise a `TokenizerError` if there is no room for the bytes and the special tokens."""
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise TokenizerError(
            f"the vocabulary size must be at least {smallest}: 256 bytes + {len(special_tokens)} special tokens, "
            f"got {vocab_size}"
        )

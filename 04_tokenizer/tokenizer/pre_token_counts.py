"""Counting the pre-tokens of a text of any size, in as many processes as wanted.

The text comes in documents. Each is a text or an iterator over its parts, and is cut into chunks where that
changes no pre-token. A chunk is counted in one process; the counts are added up in the main process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import regex

from groundwork.user_errors import require_texts
from tokenizer.interface import check_special_tokens
from tokenizer.loop_encoder import count_by_loop
from tokenizer.parallel import map_in_order
from tokenizer.patterns import GPT2_PATTERN, PreTokenizer
from tokenizer.streaming import join_safely

CHUNK_LENGTH = 1 << 22  # characters that one process counts at a time

Chunk = list[str]  # texts that are independent of each other


def count_pre_tokens(
    documents: Iterable[str | Iterable[str]],
    pattern: str = GPT2_PATTERN,
    special_tokens: Iterable[str] = (),
    workers: int = 1,
    max_distinct: int | None = None,
    on_characters: Callable[[int], None] | None = None,
) -> Counter[bytes]:
    """How often each pre-token occurs, as UTF-8 bytes.

    >>> count_pre_tokens(["to be or not to be"])[b" be"]
    2

    Args:
        documents: texts, or iterators over the parts of a text.
        pattern: cuts text into pre-tokens.
        special_tokens: not counted; no pre-token goes across one.
        workers: processes. See `parallel.map_in_order` for what more than one needs.
        max_distinct: bounds the memory. When there are more than twice this many different pre-tokens, the
            rarest are dropped until this many are left. The result is then no longer exact.
        on_characters: called with the number of characters of each chunk that has been counted.
    """
    require_texts(documents)
    counts: Counter[bytes] = Counter()
    chunks = _chunks(documents, PreTokenizer(pattern), check_special_tokens(special_tokens))
    for found, characters in map_in_order(partial, (_count_chunk, pattern), chunks, workers):
        counts.update(found)
        if max_distinct is not None and len(counts) > 2 * max_distinct:
            counts = Counter(dict(counts.most_common(max_distinct)))
        if on_characters is not None:
            on_characters(characters)
    return counts


def _chunks(
    documents: Iterable[str | Iterable[str]], pre_tokenizer: PreTokenizer, special_tokens: list[str]
) -> Iterator[Chunk]:
    """Lists of texts of about `CHUNK_LENGTH` characters together."""
    separators = regex.compile("|".join(map(regex.escape, sorted(special_tokens, key=len, reverse=True))))
    chunk: Chunk = []
    length = 0
    for document in documents:
        parts: Iterable[str] = [document] if isinstance(document, str) else document
        for text in join_safely(parts, pre_tokenizer.last_safe_cut, special_tokens, CHUNK_LENGTH):
            if any(special in text for special in special_tokens):
                chunk += [piece for piece in separators.split(text) if piece]
            else:
                chunk.append(text)
            length += len(text)
            if length >= CHUNK_LENGTH:
                yield chunk
                chunk, length = [], 0
    if chunk:
        yield chunk


def _count_chunk(pattern: str, chunk: Chunk) -> tuple[Counter[bytes], int]:
    """How often each pre-token of a chunk occurs, and the number of characters."""
    return count_by_loop(chunk, PreTokenizer(pattern)), sum(map(len, chunk))

"""Text in parts: encoded without changing an id, decoded without splitting a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

CHUNK_LENGTH = 1 << 20  # characters


def join_safely(
    parts: Iterable[str],
    last_safe_cut: Callable[[str, int, int], int],
    special_tokens: Collection[str] = (),
    length: int = CHUNK_LENGTH,
) -> Iterator[str]:
    """Join the parts of a text into chunks whose ids, one after the other, are the ids of the whole text.

    Args:
        parts: the text in order, cut anywhere.
        last_safe_cut: see `Tokenizer.last_safe_cut`.
        special_tokens: texts that no cut may go through.
        length: characters of a chunk; it is longer where there is no safe place to cut.
    """
    longest = max(map(len, special_tokens), default=1)
    held: list[str] = []
    waiting, wanted = 0, length
    for part in parts:
        held.append(part)
        waiting += len(part)
        if waiting < wanted:
            continue
        text = "".join(held)
        start = 0
        while len(text) - start > length:
            cut = _cut_between(text, start, start + length, last_safe_cut, special_tokens, longest)
            if cut == -1:  # look at all of the rest
                cut = _cut_between(text, start, len(text), last_safe_cut, special_tokens, longest)
            if cut == -1:
                break
            yield text[start:cut]
            start = cut
        held = [text[start:]]
        waiting = len(held[0])
        # Doubled where nothing could be cut off, so that a text without a safe place takes linear time.
        wanted = length if waiting <= length else 2 * waiting
    if waiting:
        yield "".join(held)


def _cut_between(
    text: str,
    start: int,
    end: int,
    last_safe_cut: Callable[[str, int, int], int],
    special_tokens: Collection[str],
    longest: int,
) -> int:
    # Near the end of what has been read, the beginning of a special token may not be recognised yet.
    cut = last_safe_cut(text, start, min(end, len(text) - longest))
    while cut != -1 and any(
        special in text[max(cut - longest + 1, 0) : cut + longest - 1] for special in special_tokens
    ):
        cut = last_safe_cut(text, start, cut - 1)
    return cut


class _DecodesBytes(Protocol):
    def decode_bytes(self, ids: Iterable[int]) -> bytes: ...

    def continue_bytes(self, ids: Iterable[int]) -> bytes: ...


class StreamingDecoder:
    """Turns ids into text as they come; a character spread over several ids appears when it is complete.

    All pieces joined, with that of `finish`, are `tokenizer.decode` of all ids.

    >>> from tokenizer.byte_tokenizer import ByteTokenizer
    >>> decoder = StreamingDecoder(ByteTokenizer())
    >>> [decoder.decode([byte]) for byte in "aé".encode()], decoder.finish()
    (['a', '', 'é'], '')

    Args:
        tokenizer: anything with `decode_bytes` and `continue_bytes`.
        continues: whether the ids stand after others, as what a model writes stands after its prompt.
    """

    def __init__(self, tokenizer: _DecodesBytes, continues: bool = False):
        self._tokenizer = tokenizer
        self._first = tokenizer.continue_bytes if continues else tokenizer.decode_bytes
        self._read = self._first
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; may be empty.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        ids = list(ids)
        data = self._read(ids)
        if ids:
            self._read = self._tokenizer.continue_bytes
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left at the end: U+FFFD if the last character is incomplete. The decoder then starts again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._read = self._first
        return rest

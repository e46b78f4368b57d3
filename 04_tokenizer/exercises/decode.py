"""Exercise 4.5: From ids to text, whatever the ids."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizer.interface import Tokenizer


def decode(self: Tokenizer, ids: Iterable[int]) -> str:
    """Turn ids into text; bytes that are not valid UTF-8 become U+FFFD, the replacement character.

    A character outside ASCII has two to four bytes, and a token may hold only some of them. A model may also write
    tokens whose bytes do not form any character. Decoding must never fail on those.

    Args:
        self: any tokenizer; `self.decode_bytes(ids)` gives the exact bytes.
        ids: in order.
    """
    raise NotImplementedError("Exercise 4.5: bytes to text")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake
from tokenizer.byte_tokenizer import ByteTokenizer


def cases() -> Iterator[Case]:
    """ASCII; a character over several tokens; broken characters."""
    yield Case("'hi!'", [ByteTokenizer(), list(b"hi!")])
    yield Case("'é', which is two tokens here", [ByteTokenizer(), list("é".encode())])
    yield Case("'naïve 😀'", [ByteTokenizer(), list("naïve 😀".encode())])
    yield Case("half of a character at the end", [ByteTokenizer(), [104, 195]])
    yield Case("a byte that cannot begin a character", [ByteTokenizer(), [104, 255, 105]])
    yield Case("no ids", [ByteTokenizer(), []])
    yield Case("ids that can be read once", [ByteTokenizer(), iter(b"hi!")])
    yield Case("line breaks and tabs stay as they are", [ByteTokenizer(), list(b"a\r\nb\rc\td\x00")])
    yield Case("a byte order mark stays too", [ByteTokenizer(), list("\ufeffhi".encode())])
    yield Case("half of an emoji, a letter, and a surrogate", [ByteTokenizer(), [240, 159, 97, 237, 160, 128]])


def _one_by_one(self: Tokenizer, ids: Iterable[int]) -> str:
    return "".join(self.decode_bytes([index]).decode("utf-8", errors="replace") for index in ids)


def _strict(self: Tokenizer, ids: Iterable[int]) -> str:
    return self.decode_bytes(ids).decode("utf-8")


def _ignored(self: Tokenizer, ids: Iterable[int]) -> str:
    return self.decode_bytes(ids).decode("utf-8", errors="ignore")


def _latin(self: Tokenizer, ids: Iterable[int]) -> str:
    return self.decode_bytes(ids).decode("latin-1")


EXERCISE = Exercise(
    stub=decode,
    reference="tokenizer.interface:Tokenizer.decode",
    cases=cases,
    hints=(
        "First get all bytes, then decode them once: a character may lie across two tokens.",
        "bytes.decode has an argument `errors`. Which of its values puts U+FFFD where bytes do not form a character?",
        'self.decode_bytes(ids).decode("utf-8", errors="replace").',
    ),
    mistakes=(
        Mistake(
            _one_by_one, "decoding token by token loses a character that lies across two tokens: join the bytes first"
        ),
        Mistake(_strict, "bytes that are not valid UTF-8 must not raise an error: a model can write any tokens"),
        Mistake(_ignored, "broken bytes are dropped; they should become U+FFFD"),
        Mistake(_latin, "the bytes are UTF-8: a character may have several"),
    ),
)

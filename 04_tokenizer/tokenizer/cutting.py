"""Where each pre-token ends, found by looking at one character after the other.

A regular expression is a small program that a general machine interprets. Here the known patterns are written as the
loops that they mean, over classes of characters. The class of a character comes from a table, so that nothing depends on
the script. `patterns.PreTokenizer` cuts with the expression itself, and the tests compare the two.

The text is UTF-8. `windows[i]` is the eight bytes that begin at byte i as one integer, so that eight characters can be
looked at in a few steps, without a branch that the processor could guess wrong.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from groundwork.compiled import compiled
from tokenizer import patterns

# Classes of characters, one bit each, so that one comparison asks for several.
UPPER, LOWER, OTHER_LETTER, MARK, NUMBER, SPACE, LINE_END, SYMBOL = (1 << bit for bit in range(8))
END = 0  # after the text
_REGEX_CLASSES = {
    r"[\p{Lu}\p{Lt}]+": UPPER,
    r"\p{Ll}+": LOWER,
    r"[\p{Lm}\p{Lo}]+": OTHER_LETTER,
    r"\p{M}+": MARK,
    r"\p{N}+": NUMBER,
    r"[^\S\r\n]+": SPACE,
    r"[\r\n]+": LINE_END,
}
LETTER = UPPER | LOWER | OTHER_LETTER
BLANK = SPACE | LINE_END
# What `[^\s\p{L}\p{N}]` matches, and what may stand before a word in all patterns but GPT-2's: `[^\r\n\p{L}\p{N}]`.
OTHER = MARK | SYMBOL
BEFORE_WORD = OTHER | SPACE
# Runs of GPT-4o's words: what may stand in the upper-case part and in the lower-case part.
HIGH = UPPER | OTHER_LETTER | MARK
LOW = LOWER | OTHER_LETTER | MARK

# For eight bytes at once: a 1 in each, and the numbers 7 to 0 from the lowest byte to the highest.
_BYTES, _NUMBERS = np.uint64(0x0101010101010101), np.uint64(0x0001020304050607)
_1, _05, _7, _1F, _20, _56, _7F = map(np.uint64, (1, 0x05, 7, 0x1F, 0x20, 56, 0x7F))
CODE_POINTS = 0x110000
PADDING = 16  # bytes after a text that may be looked at
_PART = 0x10000
GPT2, DIGITS, CL100K, LLAMA3, QWEN, O200K = range(6)  # kinds of cutting
KINDS = {
    getattr(patterns, f"{name}_PATTERN"): kind
    for kind, name in enumerate(("GPT2", "DIGITS", "CL100K", "LLAMA3", "QWEN", "O200K"))
}


@lru_cache(maxsize=2)
def class_table(size: int) -> NDArray[np.uint8]:
    """The class of each code point below `size`, as `regex` defines it."""
    table = np.full(size, SYMBOL, dtype=np.uint8)
    for start in range(0, size, _PART):
        # Decoded from an array, not joined from single characters: a list of a million of them takes 100 MB.
        codes = np.arange(start, min(start + _PART, size), dtype="<u4")
        characters = codes.tobytes().decode("utf-32-le", errors="surrogatepass")
        for expression, number in _REGEX_CLASSES.items():
            for match in regex.finditer(expression, characters):
                table[start + match.start() : start + match.end()] = number
    return table


def windows_of(data: bytes) -> NDArray[np.int64]:
    """For each byte of the data, the eight bytes that begin there, as one integer: `(bytes + 8,)`, without a copy.

    Args:
        data: UTF-8, with `PADDING` more bytes after it.
    """
    return np.ndarray(len(data) - 7, "<i8", data, 0, (1,))


@compiled(forceinline=True, allocates=False)
def class_at(windows: Any, at: int, stop: int, classes: Any) -> Any:
    """Class of the character at a place, and its number of bytes."""
    if not 0 <= at < stop:
        return END, 0
    window = windows[at]
    lead = window & 0xFF
    if lead < 0x80:
        return int(classes[lead]), 1
    second, third = window >> 8 & 0x3F, window >> 16 & 0x3F
    if lead < 0xE0:
        return int(classes[(lead & 0x1F) << 6 | second]), 2
    if lead < 0xF0:
        return int(classes[(lead & 0x0F) << 12 | second << 6 | third]), 3
    return int(classes[(lead & 0x07) << 18 | second << 12 | third << 6 | window >> 24 & 0x3F]), 4


@compiled(allocates=False)
def run_end(windows: Any, at: Any, stop: int, classes: Any, wanted: int) -> int:
    """End of the run of characters of the wanted classes that begins at a place."""
    while True:
        kind, size = class_at(windows, at, stop, classes)
        if not kind & wanted:
            return at
        at += size


@compiled(forceinline=True, allocates=False)
def letters_end(windows: Any, at: int, stop: int, classes: Any) -> Any:
    """`run_end` for letters, eight at a time where they are letters of English.

    Each byte of the window is tested in its own eight bits of the integer: adding 0x80 - "a" sets the highest bit of
    those that are at least "a". No sum goes over into the next byte, because the highest bit is cleared before.
    """
    while True:
        window = np.uint64(windows[at])  # unsigned, so that what goes over the highest bit is dropped
        small = (window | _BYTES * _20) & (_BYTES * _7F)
        at_least_a, above_z = small + _BYTES * _1F, small + _BYTES * _05
        other = (~(at_least_a & ~above_z & ~window) >> _7) & _BYTES  # a bit for each byte that is not a letter
        if other:
            # The lowest bit, by this multiplication, puts the number of its byte into the highest byte.
            lowest = other & (~other + _1)
            end = at + np.int64(lowest * _NUMBERS >> _56)
            if end >= stop:
                return stop
            if windows[end] & 0x80:
                return run_end(windows, end, stop, classes, LETTER)
            return end
        at += 8
        if at >= stop:
            return stop


@compiled(allocates=False)
def contraction(windows: Any, at: int, stop: int, any_case: bool) -> int:
    """Bytes of 's 't 'm 'd 're 've 'll at a place where an apostrophe is; 0 if there is none."""
    two = windows[at] >> 8 & 0xFFFF  # the bytes after it, the first in the lower half
    if any_case and two == 0xBFC5 and at + 2 < stop:  # ſ, the long s, is an s in another case
        return 3
    if any_case:
        two |= 0x2020  # lower case
    if at + 1 < stop and two & 0xFF in (0x73, 0x74, 0x6D, 0x64):  # s t m d
        return 2
    return 3 if at + 2 < stop and two in (0x6572, 0x6576, 0x6C6C) else 0  # re ve ll


@compiled(allocates=False)
def cased_word_ends(windows: Any, at: int, stop: int, classes: Any) -> Any:
    """Two ends of a word of GPT-4o's pattern: with at least one character of its lower-case part, and without any.

    Upper case comes before lower case. Letters without case, and marks, belong to both parts, so the last of them can be
    the character that the lower-case part needs. An end is `at` if there is no such word.
    """
    end, last_low = at, at
    while True:
        kind, size = class_at(windows, end, stop, classes)
        if not kind & HIGH:
            break
        end += size
        if kind & LOW:
            last_low = end
    return run_end(windows, end, stop, classes, LOW) if kind & LOWER else last_low, end


@compiled(allocates=False)
def o200k_word_end(windows: Any, at: int, stop: int, classes: Any, first: int, after: int) -> int:
    """End of GPT-4o's word at a place, with what may stand before and after it; `at` if there is none."""
    begin = after if first & BEFORE_WORD else at
    end, upper_end = cased_word_ends(windows, begin, stop, classes)
    if end == begin and first & MARK:  # a mark may stand before a word, and may be one
        end, _ = cased_word_ends(windows, at, stop, classes)
    elif end == begin:
        end = upper_end
        if end == begin:
            return at
    if end < stop and windows[end] & 0xFF == 0x27:
        end += contraction(windows, end, stop, True)
    return end


@compiled(allocates=False)
def blank_end(windows: Any, at: int, stop: int, classes: Any, kind: int) -> int:
    """End of a pre-token of white space."""
    end, last, line_end = at, at, at  # of the run; where its last character begins; after its last line end
    while True:
        found, size = class_at(windows, end, stop, classes)
        if not found & BLANK:
            break
        last, end = end, end + size
        if found & LINE_END:
            line_end = end
    if kind == CL100K and end == stop:
        return end
    if kind >= CL100K and line_end > at:
        return line_end
    if end == stop or last == at or (kind == DIGITS and found & NUMBER):
        return end
    return last  # the last character is left to what follows


@compiled(allocates=False, forceinline=True)
def next_end(windows: Any, at: int, stop: int, classes: Any, kind: int) -> int:
    """End of the pre-token that begins at a place.

    Args:
        windows: see `windows_of`.
        at: byte at which the pre-token begins.
        stop: end of the text, after `at`.
        classes: see `class_table`; of ASCII only if the text is.
        kind: one of `KINDS`.
    """
    byte = windows[at] & 0xFF
    first, size = class_at(windows, at, stop, classes)
    after = at + size
    second, _ = class_at(windows, after, stop, classes)
    if byte == 0x27 and kind != O200K:
        length = contraction(windows, at, stop, kind >= CL100K)
        if length:
            return at + length
    if kind == O200K:
        end = o200k_word_end(windows, at, stop, classes, first, after)
        if end > at:
            return end
    elif kind >= CL100K and first & LETTER:
        return letters_end(windows, at, stop, classes)
    elif kind >= CL100K and first & BEFORE_WORD and second & LETTER:
        return letters_end(windows, after, stop, classes)
    begin, following = (after, second) if byte == 0x20 else (at, first)  # the run after a space, if there is one
    if kind <= DIGITS and following & LETTER:
        return letters_end(windows, begin, stop, classes)
    if kind == GPT2 and following & NUMBER:
        return run_end(windows, begin, stop, classes, NUMBER)
    if first & NUMBER:
        for _ in range(0 if kind in (QWEN, DIGITS) else 2):
            second, size = class_at(windows, after, stop, classes)
            after += size if second & NUMBER else 0
        return after
    if following & OTHER:
        end = run_end(windows, begin, stop, classes, OTHER)
        while kind >= CL100K and end < stop and windows[end] & 0xFF in (0x0A, 0x0D, 0x2F if kind == O200K else 0x0A):
            end += 1
        return end
    return blank_end(windows, at, stop, classes, kind)

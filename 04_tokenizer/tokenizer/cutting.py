"""Where each pre-token ends, found by looking at one character after the other.

A regular expression is a small program that a general machine interprets. Here the known patterns are written as the
loops that they mean, over classes of characters. The class of a character comes from a table, so that nothing depends on
the script. `patterns.PreTokenizer` cuts with the expression itself, and the tests compare the two.

The text is UTF-8. `windows[i]` is the eight bytes that begin at byte i as one integer, so that eight characters can be
looked at in a few steps, without a branch that the processor could guess wrong.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

from groundwork.compiled import compiled
from tokenizer.patterns import (
    CL100K_PATTERN,
    DIGITS_PATTERN,
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    QWEN_PATTERN,
)

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
WHOLE, GPT2, DIGITS, CL100K, LLAMA3, QWEN, O200K = range(7)  # kinds of cutting; WHOLE does not cut
KINDS = {
    GPT2_PATTERN: GPT2,
    DIGITS_PATTERN: DIGITS,
    CL100K_PATTERN: CL100K,
    LLAMA3_PATTERN: LLAMA3,
    QWEN_PATTERN: QWEN,
    O200K_PATTERN: O200K,
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
def class_at(windows, at, stop, classes):
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
def run_end(windows, at, stop, classes, wanted):
    """End of the run of characters of the wanted classes that begins at a place."""
    while True:
        kind, size = class_at(windows, at, stop, classes)
        if not kind & wanted:
            return at
        at += size


@compiled(forceinline=True, allocates=False)
def letters_end(windows, at, stop, classes):
    """`run_end` for letters, eight at a time where they are letters of English.

    Each byte of the window is tested in its own eight bits of the integer: adding 0x80 - "a" sets the highest bit of
    those that are at least "a". No sum goes over into the next byte, because the highest bit is cleared before.
    """
    while True:
        window = np.uint64(windows[at])  # unsigned, so that what goes over the highest bit is dropped
        small = (window | _BYTES * _20) & (_BYTES * _7F)
        at_least_a, above_z = small + _BYTES * _1F, small + _BYTES * _05
        other = (~(at_least_a & ~above_z & ~window) >> _7) & _BYTES  # a bit for each byte that is no letter
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
def contraction(windows, at, stop, any_case):
    """Bytes of 's 't 'm 'd 're 've 'll at a place where an apostrophe is; 0 if there is none."""
    window = windows[at] >> 8
    first, second = window & 0xFF, window >> 8 & 0xFF
    if any_case:
        if window & 0xFFFF == 0xBFC5 and at + 2 < stop:  # ſ, the long s, is an s in another case
            return 3
        first, second = first | 0x20, second | 0x20
    if at + 1 < stop and (first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64):  # s t m d
        return 2
    if at + 2 < stop and (
        (first == 0x6C and second == 0x6C) or ((first == 0x72 or first == 0x76) and second == 0x65)  # ll re ve
    ):
        return 3
    return 0


@compiled(allocates=False)
def cased_word_end(windows, at, stop, classes, lower_needed):
    """End of a word of GPT-4o's pattern, upper case before lower case; `at` if there is none.

    Args:
        lower_needed: whether a character of the lower-case part must be there. Letters without case, and marks, belong to
            both parts, so the last of them can be that character.
    """
    end, last_low = at, at  # of the upper-case part; of its last character that could be in the lower-case part
    while True:
        kind, size = class_at(windows, end, stop, classes)
        if not kind & HIGH:
            break
        end += size
        if kind & LOW:
            last_low = end
    if kind & LOWER:
        return run_end(windows, end, stop, classes, LOW)
    return last_low if lower_needed else end


@compiled(allocates=False)
def blank_end(windows, at, stop, classes, kind):
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


@compiled(forceinline=True, allocates=False)
def next_end(windows, at, stop, classes, kind):
    """End of the pre-token that begins at a place.

    Args:
        windows: see `windows_of`.
        at: byte at which the pre-token begins.
        stop: end of the text, after `at`.
        classes: see `class_table`; of ASCII only if the text is.
        kind: one of `KINDS`.
    """
    if kind == WHOLE:
        return stop
    first, size = class_at(windows, at, stop, classes)
    after = at + size
    if windows[at] & 0xFF == 0x27 and kind != O200K:
        length = contraction(windows, at, stop, kind >= CL100K)
        if length:
            return at + length
    begin, behind = at, first  # where the run begins, after a space; and the class of its first character
    if windows[at] & 0xFF == 0x20:
        begin = after
        behind, size = class_at(windows, begin, stop, classes)
    if kind == GPT2 or kind == DIGITS:
        if behind & LETTER:
            return letters_end(windows, begin, stop, classes)
        if behind & NUMBER and kind == GPT2:
            return run_end(windows, begin, stop, classes, NUMBER)
    else:
        if kind == O200K:
            end = o200k_word_end(windows, at, stop, classes)
            if end > at:
                return end
        elif first & LETTER:
            return letters_end(windows, at, stop, classes)
        elif first & BEFORE_WORD:
            if begin == at:
                behind, size = class_at(windows, after, stop, classes)
            if behind & LETTER:
                return letters_end(windows, after, stop, classes)
            if begin == at:
                behind = first
    if first & NUMBER:
        end = after
        for _ in range(0 if kind == QWEN or kind == DIGITS else 2):
            found, size = class_at(windows, end, stop, classes)
            if not found & NUMBER:
                break
            end += size
        return end
    if behind & OTHER:
        end = run_end(windows, begin, stop, classes, OTHER)
        if kind >= CL100K:
            while end < stop and (
                windows[end] & 0xFF == 0x0A
                or windows[end] & 0xFF == 0x0D
                or (kind == O200K and windows[end] & 0xFF == 0x2F)
            ):
                end += 1
        return end
    return blank_end(windows, at, stop, classes, kind)


@compiled(allocates=False)
def o200k_word_end(windows, at, stop, classes):
    """End of GPT-4o's word at a place, with what may stand before and after it; `at` if there is none."""
    first, size = class_at(windows, at, stop, classes)
    begin = at + size if first & BEFORE_WORD else at
    end = cased_word_end(windows, begin, stop, classes, True)
    if end == begin and first & MARK:  # a mark may stand before a word, and may be one
        begin = at
        end = cased_word_end(windows, begin, stop, classes, True)
    if end == begin:
        end = cased_word_end(windows, begin, stop, classes, False)
    if end == begin:
        return at
    if end < stop and windows[end] & 0xFF == 0x27:
        end += contraction(windows, end, stop, True)
    return end

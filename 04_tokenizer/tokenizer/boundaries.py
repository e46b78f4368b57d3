"""Where the pre-tokens of GPT-2's pattern begin, found for a whole text at once with NumPy.

A regular expression goes from match to match. But whether a pre-token of GPT-2's pattern begins at a
character depends only on the class of the character (letter, number, white space, other) and on the
classes of its neighbours. So a few comparisons of arrays find all beginnings:

- a run of letters, numbers or others begins where the class changes, unless one space stands before
  it: then it begins at the space;
- a run of white space begins where the class changes, and its last character begins a pre-token of
  its own when something follows, because `\\s+(?!\\S)` leaves that character to what follows.

Only contractions ('s, 'll, …) look further, and they are few.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

LETTER, NUMBER, SPACE, OTHER, BARRIER = range(5)
_PART = 0x10000


@lru_cache(maxsize=2)
def class_table(size: int) -> NDArray[np.uint8]:
    """The class of each code point below `size`, as `regex` defines it."""
    table = np.full(size, OTHER, dtype=np.uint8)
    for start in range(0, size, _PART):
        # Decoded from an array, not joined from single characters: a list of a million of them takes 100 MB.
        codes = np.arange(start, min(start + _PART, size), dtype="<u4")
        characters = codes.tobytes().decode("utf-32-le", errors="surrogatepass")
        for number, name in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
            for match in regex.finditer(name, characters):
                table[start + match.start() : start + match.end()] = number
    return table


def gpt2_boundaries(codes: NDArray[Any], barriers: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark the characters that begin a pre-token of `GPT2_PATTERN`.

    Args:
        codes: code points of the text, `(characters,)`, unsigned.
        barriers: positions, in order, that stand between two texts. The text on each side of one is cut
            as if the other side did not exist. The last character must be a barrier.

    Returns:
        `(characters,)`, True where a pre-token begins. A barrier is a pre-token of its own.
    """
    classes = class_table(128 if codes.dtype == np.uint8 else 0x110000).take(codes)
    classes[barriers] = BARRIER
    is_space = classes == SPACE
    begins = np.ones(len(codes), dtype=np.bool_)
    changes = classes[1:] != classes[:-1]
    # A run begins where the class changes, but not after a plain space, which belongs to it …
    begins[1:] = changes & (codes[:-1] != ord(" "))
    # … and at the last white-space character before anything but a barrier.
    begins[:-1] |= is_space[:-1] & changes & (classes[1:] != BARRIER)
    begins[barriers] = True
    begins[barriers[:-1] + 1] = True
    _cut_contractions(codes, classes, begins)
    return begins


def _cut_contractions(codes: NDArray[Any], classes: NDArray[np.uint8], begins: NDArray[np.bool_]) -> None:
    """Join 's 't 'm 'd 'll 've 're into one pre-token each; what follows them begins another."""
    apostrophes = np.flatnonzero((codes[:-2] == ord("'")) & begins[:-2])
    first, second = codes[apostrophes + 1], codes[apostrophes + 2]
    one_letter = np.isin(first, [ord(letter) for letter in "sdmt"])
    two_letters = np.zeros(len(apostrophes), dtype=np.bool_)
    for ending in ("ll", "ve", "re"):
        two_letters |= (first == ord(ending[0])) & (second == ord(ending[1]))
    for length, found in ((2, apostrophes[one_letter]), (3, apostrophes[two_letters])):
        begins[found + 1] = False
        after = found + length  # exists: the last character is a barrier
        begins[after[classes[after] == LETTER]] = True

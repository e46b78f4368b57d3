"""Turn texts into pre-tokens as numbers, many thousands at once.

Text repeats its pre-tokens: a megabyte of English has 250,000, of which 15,000 are different. Training and
encoding need only know *which* pre-token stands where. `PreTokenTable` gives each distinct one a
number. A pre-token of at most 15 bytes fits, with its length, into two 64-bit integers, so that NumPy can
compare and look up all pre-tokens of a text in a few calls. The few longer ones go through a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tokenizer.boundaries import gpt2_boundaries
from tokenizer.key_table import KeyTable
from tokenizer.patterns import GPT2_PATTERN, PreTokenizer, replace_surrogates

LONGEST_KEY = 15  # bytes
PIECE_LENGTH = 1 << 16  # characters; the arrays made from this many still fit into a processor's cache
_BARRIER = "\n"  # stands between two texts of a batch; any character of one byte would do
_LENGTH_SHIFT = np.uint64(56)  # the highest byte of the second word holds the length
# By the number of bytes of a pre-token: the bits of the two words that belong to it. A longer one has its own key.
_LOW_MASK = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(LONGEST_KEY + 2)], dtype=np.uint64)
_HIGH_MASK = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(LONGEST_KEY + 1)] + [0], dtype=np.uint64)


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Put texts together until they have about `PIECE_LENGTH` characters."""
    batch: list[str] = []
    length = 0
    for text in texts:
        if batch and length + len(text) > PIECE_LENGTH:
            yield batch
            batch, length = [], 0
        batch.append(text)
        length += len(text)
    if batch:
        yield batch


class PreTokenTable:
    """Gives each distinct pre-token a number: 0, 1, 2, …

    >>> table = PreTokenTable(PreTokenizer(GPT2_PATTERN))
    >>> numbers, ends = table.number(["to be or not", "to be"])
    >>> [table.pre_tokens()[number] for number in numbers[ends[0] :]]
    [b'to', b' be']

    Args:
        pre_tokenizer: cuts the text.
    """

    def __init__(self, pre_tokenizer: PreTokenizer):
        self.pre_tokenizer = pre_tokenizer
        self._keys = KeyTable()
        self._long: dict[bytes, int] = {}  # pre-token → the number that is the first word of its key

    def __len__(self) -> int:
        return len(self._keys)

    def number(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """The pre-tokens of some texts, each independent of the others.

        Args:
            texts: ideally as many as `in_batches` puts together.

        Returns:
            numbers: `(pre-tokens,)`, those of all texts one after the other.
            ends: `(texts,)`, for each text the position in `numbers` after its last.
        """
        joined = _BARRIER.join(texts) + _BARRIER
        try:
            data = joined.encode("utf-8")
        except UnicodeEncodeError:
            return self.number([replace_surrogates(text) for text in texts])
        barriers = np.cumsum([len(text) + 1 for text in texts]) - 1
        is_ascii = len(data) == len(joined)
        codes = np.frombuffer(data if is_ascii else joined.encode("utf-32-le"), dtype=np.uint8 if is_ascii else "<u4")
        if self.pre_tokenizer.pattern == GPT2_PATTERN:
            starts = np.flatnonzero(gpt2_boundaries(codes, barriers))
        else:
            starts = self._search_starts(texts)
        which = np.searchsorted(starts, barriers)  # the barriers among the pre-tokens
        lengths = np.diff(starts, append=len(codes))
        if not is_ascii:  # from characters to bytes
            after = np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))
            starts, lengths = np.append(0, after)[starts], np.append(0, after)[starts + lengths]
            lengths -= starts
        numbers = self._look_up(data, np.delete(starts, which), np.delete(lengths, which))
        return numbers, which - np.arange(len(which))

    def packed(self, first: int = 0) -> NDArray[np.uint8]:
        """The pre-tokens from number `first` on, `(pre-tokens, 16)`: their bytes, and in the last column their length.

        A length of 16 says that the pre-token is longer than `LONGEST_KEY`; the other bytes then mean nothing.
        """
        words = np.stack([self._keys.low[first:], self._keys.high[first:]], axis=1)
        return words.astype("<u8", copy=False).view(np.uint8)

    def pre_tokens(self) -> list[bytes]:
        """All pre-tokens, by number."""
        packed, long = self.packed(), list(self._long)
        data, which = packed.tobytes(), self._keys.low.tolist()
        return [
            data[16 * row : 16 * row + size] if size <= LONGEST_KEY else long[which[row]]
            for row, size in enumerate(packed[:, -1].tolist())
        ]

    def long_pre_tokens(self, numbers: list[int]) -> list[bytes]:
        """The pre-tokens with these numbers, which must be longer than `LONGEST_KEY`."""
        long, which = list(self._long), self._keys.low
        return [long[which[number]] for number in numbers]

    def _search_starts(self, texts: list[str]) -> NDArray[np.intp]:
        found: list[int] = []
        for text in texts:
            found += map(len, self.pre_tokenizer.split(text))
            found.append(len(_BARRIER))
        lengths = np.array(found, dtype=np.intp)
        return np.cumsum(lengths) - lengths

    def _look_up(self, data: bytes, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.int32]:
        sizes = np.minimum(lengths, LONGEST_KEY + 1)
        # The 8 bytes that begin at each byte of the data; padded so that 16 follow the last one.
        windows = np.ndarray(len(data) + 9, dtype="<u8", buffer=data + bytes(16), strides=(1,)).copy()
        low = windows.take(starts) & _LOW_MASK.take(sizes)
        high = windows.take(starts + 8) & _HIGH_MASK.take(sizes)
        high |= sizes.astype(np.uint64) << _LENGTH_SHIFT
        long = np.flatnonzero(lengths > LONGEST_KEY)
        if len(long):
            begin, end = starts[long].tolist(), (starts[long] + lengths[long]).tolist()
            known = self._long
            low[long] = [known.setdefault(data[i:j], len(known)) for i, j in zip(begin, end, strict=True)]
        return self._keys.add(low, high)

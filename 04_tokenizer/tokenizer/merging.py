"""Applying merges to one pre-token.

While some pair of neighbours has a merge, apply the merge that was learned first, leftmost occurrence first. `Merger.merge`
is this definition in plain Python; `pair_merging` does the same in machine code, and for a pre-token of any length. Tokens are numbered as `BPETokenizer` numbers them: 0–255 are the bytes, then
each merge has one number. So the merge that was learned first is the one that makes the smallest number.

In some vocabularies several merges make the same token, as in Llama 3's: `ab` + `c` and `a` + `bc`. There, the number of a
merge says only when it is applied, and another list says which token it makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenizer.pair_merging import make_pair_table, merge_tokens

Pair = tuple[int, int]
_LONG = 200  # bytes; for longer pre-tokens, searching all of it for each merge is the slower way
_NO_MERGE = 1 << 30  # above every token number


class Merger:
    """Applies merges.

    >>> merger = Merger([(104, 105), (32, 256)])  # "h" + "i", " " + "hi"
    >>> merger.merge(b" hihi")
    [257, 256]

    Args:
        merges: pairs of token numbers, in the order learned.
        made: the number of the token that each merge makes; None where each makes a token of its own.
        missing: bytes that the vocabulary lacks. They are left out before anything is merged, as `tokenizers` does.
    """

    def __init__(self, merges: Sequence[Pair], made: Sequence[int] | None = None, missing: bytes = b""):
        self._merged = {pair: 256 + index for index, pair in enumerate(merges)}
        self._made: Sequence[int] = range(256 + len(merges)) if made is None else [*range(256), *made]
        self._missing = missing

    @cached_property
    def pair_table(self) -> NDArray[np.int64]:
        """The merges as `pair_merging` reads them."""
        pairs = np.array(list(self._merged), np.int64).reshape(-1, 2)
        return make_pair_table(pairs, np.array(self._made[256:], np.int64))

    @property
    def first_tokens(self) -> NDArray[np.int64]:
        """The token that each byte begins as, `(256,)`; -1 where the byte is left out."""
        return np.array([-1 if byte in self._missing else byte for byte in range(256)], np.int64)

    def merge(self, pre_token: Sequence[int]) -> list[int]:
        """The tokens of one pre-token, which is given as bytes, or as the numbers of its first tokens."""
        find, token_of, tokens = self._merged.get, self._made, self._first_tokens(pre_token)
        if len(tokens) > _LONG:
            array = np.array(tokens, np.int64)
            return array[: merge_tokens(array, self.pair_table)].tolist()
        made = [find(pair, _NO_MERGE) for pair in pairwise(tokens)]  # by the pair that begins at each token
        while made and (best := min(made)) != _NO_MERGE:
            at, new = made.index(best), token_of[best]
            tokens[at : at + 2] = [new]
            del made[at]
            if at < len(made):
                made[at] = find((new, tokens[at + 1]), _NO_MERGE)
            if at:
                made[at - 1] = find((tokens[at - 1], new), _NO_MERGE)
        return tokens

    def _first_tokens(self, pre_token: Sequence[int]) -> list[int]:
        if self._missing and isinstance(pre_token, bytes):
            pre_token = pre_token.translate(None, self._missing)
        return list(pre_token)

    def steps(self, pre_token: bytes) -> list[list[int]]:
        """The tokens before the first merge, and after each merge."""
        steps = [self._first_tokens(pre_token)]
        while True:
            tokens = steps[-1]
            made = [self._merged.get(pair, _NO_MERGE) for pair in pairwise(tokens)]
            if not made or min(made) == _NO_MERGE:
                return steps
            at = made.index(min(made))
            steps.append([*tokens[:at], self._made[made[at]], *tokens[at + 2 :]])

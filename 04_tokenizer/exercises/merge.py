"""Exercise 4.4: Encode a pre-token, and quickly if it is long."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizer.merging import Merger


def merge(self: Merger, pre_token: Sequence[int]) -> list[int]:
    """The tokens of one pre-token after all merges; exercise 4.3 says in which order merges are made.

    If you search the whole list again for each merge, the time grows with the square of the length. For words this is
    quick. For the last question, a few thousand bytes without a space, it is slow. It still passes within the time limit
    if each step looks at each pair only once. (The package keeps the possible places in a heap.)

    Args:
        self: `self._merged` maps a pair of tokens to the token it becomes.
        pre_token: the tokens of its bytes, which are the bytes themselves; it may be empty.
    """
    raise NotImplementedError("Exercise 4.4: merge until nothing can be merged")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator
from itertools import pairwise

from learn.exercise import Case, Exercise, Mistake

# "hi" 256, " hi" 257, "aa" 258, "aaaa" 259, "bc" 260, "ab" 261, "cd" 262
_MERGES = [(104, 105), (32, 256), (97, 97), (258, 258), (98, 99), (97, 98), (99, 100)]


def cases() -> Iterator[Case]:
    """Short words; the order of learning; repetitions; a long word. Each question names the merges that matter."""
    yield Case("nothing", [Merger(_MERGES), b""])
    yield Case("32 104 105 104 105, with 104 + 105 = 256, 32 + 256 = 257", [Merger(_MERGES), b" hihi"])
    yield Case("98 99 100, with 98 + 99 = 260, learned before 99 + 100 = 262", [Merger(_MERGES), b"bcd"])
    bc_before_ab = "97 98 99, with 98 + 99 = 260, learned before 97 + 98 = 261"
    yield Case(f"{bc_before_ab}, and 97 + 260 = 263", [Merger([*_MERGES, (97, 260)]), b"abc"])
    yield Case(bc_before_ab, [Merger(_MERGES), b"abc"])
    yield Case("seven times 97, with 97 + 97 = 258, 258 + 258 = 259", [Merger(_MERGES), b"aaaaaaa"])
    yield Case("a single byte", [Merger(_MERGES), b"h"])
    yield Case("bytes above 127, without a merge", [Merger(_MERGES), b"\xff\x80\xff"])
    yield Case("no merges at all", [Merger([]), b"hihi"])
    yield Case("a merge at the very end: 120 104 105, with 104 + 105 = 256", [Merger(_MERGES), b"xhi"])
    yield Case("the whole table at work", [Merger(_MERGES), b" hiaaaabcdab hi"])
    yield Case("2,000 bytes without a space", [Merger(_MERGES), b"abcaaabhiaab" * 166])


def _longest_first(self: Merger, pre_token: bytes) -> list[int]:
    spelled = {bytes([byte]): byte for byte in range(256)}
    by_token = {byte: bytes([byte]) for byte in range(256)}
    for (left, right), new in self._merged.items():
        by_token[new] = by_token[left] + by_token[right]
        spelled[by_token[new]] = new
    tokens, start = [], 0
    while start < len(pre_token):
        end = max(e for e in range(start + 1, min(len(pre_token), start + 8) + 1) if pre_token[start:e] in spelled)
        tokens.append(spelled[pre_token[start:end]])
        start = end
    return tokens


def _left_to_right(self: Merger, pre_token: bytes) -> list[int]:
    tokens: list[int] = []
    for byte in pre_token:
        tokens.append(byte)
        while len(tokens) > 1 and (tokens[-2], tokens[-1]) in self._merged:
            tokens[-2:] = [self._merged[tokens[-2], tokens[-1]]]
    return tokens


def _largest(self: Merger, pre_token: bytes) -> list[int]:
    tokens = list(pre_token)
    while places := [(self._merged[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._merged]:
        new, at = max(places)
        tokens[at : at + 2] = [new]
    return tokens


def _one_round(self: Merger, pre_token: bytes) -> list[int]:
    tokens = list(pre_token)
    for pair, new in self._merged.items():
        if pair in pairwise(tokens):
            at = next(i for i, found in enumerate(pairwise(tokens)) if found == pair)
            tokens[at : at + 2] = [new]
    return tokens


EXERCISE = Exercise(
    stub=merge,
    reference="tokenizer.merging:Merger.merge",
    cases=cases,
    hints=(
        "The last list of exercise 4.3 is the answer, but you do not need to keep the lists before it.",
        "Beside the tokens, keep a list of the token that each pair of neighbours would make (a very large number if it has no "
        "merge). Take the minimum; after a merge only the two entries beside it change.",
        "made = [find(pair, BIG) for pair in pairwise(tokens)]; best = min(made); at = made.index(best); tokens[at:at + 2] "
        "= [best]; del made[at]; look up made[at] and made[at - 1] again, where they exist.",
    ),
    mistakes=(
        Mistake(
            _longest_first,
            "this takes the longest token that fits, as WordPiece does; BPE applies merges in the order of learning",
        ),
        Mistake(
            _left_to_right,
            "this merges while it reads; the merge that was learned first must be made first, wherever it stands",
        ),
        Mistake(_largest, "the merge learned first makes the smallest token number; this takes the largest"),
        Mistake(_one_round, "each merge is applied at one place only; go on until no pair of neighbours has a merge"),
    ),
)

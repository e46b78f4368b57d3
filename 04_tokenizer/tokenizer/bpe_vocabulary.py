"""The tokens of a byte-level BPE vocabulary, numbered: the 256 bytes first, then the others.

BPE as it is trained makes one token with each merge, in order. Vocabularies in the world are more varied. In Llama 3's,
several merges make the same token, in any order, and some tokens are made by no merge. SmolLM2's lacks some bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizer.interface import TokenizerError
from tokenizer.merging import Pair

NO_ID = -1  # of a byte that the vocabulary lacks
_FEWEST_BYTES = 128


@dataclass(frozen=True)
class NumberedVocabulary:
    """Tokens by number.

    Args:
        tokens: the bytes of each token; the first 256 are the single bytes.
        ids: the id of each token, `NO_ID` for a byte that the vocabulary lacks.
        merges: pairs of token numbers, in the order learned.
    """

    tokens: list[bytes]
    ids: list[int]
    merges: list[Pair]

    @property
    def is_plain(self) -> bool:
        """Whether each merge makes the next token, as a trainer writes them."""
        made = [self.tokens[left] + self.tokens[right] for left, right in self.merges]
        return made == self.tokens[256:] and all(
            max(pair) < 256 + index for index, pair in enumerate(self.merges)
        )  # fmt: skip


def number_tokens(ids: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]]) -> NumberedVocabulary:
    """Number the tokens of a vocabulary: bytes, then what the merges make, in order, then the rest.

    Args:
        ids: the id of each token, special tokens left out.
        merges: pairs of tokens, in the order learned.

    Raises:
        TokenizerError: most bytes have no id, or a merge joins or makes what is not in the vocabulary.
    """
    missing = [byte for byte in range(256) if bytes([byte]) not in ids]
    if len(missing) > 256 - _FEWEST_BYTES:
        raise TokenizerError(
            f"the vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[0]:#04x}: it is not byte-level"
        )
    number = {bytes([byte]): byte for byte in range(256)}
    pairs: list[tuple[bytes, bytes]] = []
    for left, right in merges:
        if left not in ids or right not in ids or left + right not in ids:
            raise TokenizerError(f"merge {len(pairs)} joins {left!r} and {right!r}, which the vocabulary lacks")
        pairs.append((left, right))
        number.setdefault(left + right, len(number))
    for token in sorted(ids.keys() - number.keys(), key=ids.__getitem__):
        number[token] = len(number)
    return NumberedVocabulary(
        list(number),
        [ids.get(token, NO_ID) for token in number],
        [(number[left], number[right]) for left, right in pairs],
    )


def spell_tokens(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes of each token where each merge makes the next one: the 256 single ones, then those of the merges.

    Raises:
        TokenizerError: a merge uses a token that does not exist yet.
    """
    token_bytes = [bytes([byte]) for byte in range(256)]
    for index, (left, right) in enumerate(merges):
        if not (0 <= left < 256 + index and 0 <= right < 256 + index):
            raise TokenizerError(f"merge {index} joins ({left}, {right}), but only tokens below {256 + index} exist")
        token_bytes.append(token_bytes[left] + token_bytes[right])
    return token_bytes


def made_tokens(tokens: Sequence[bytes], merges: Sequence[Pair]) -> list[int]:
    """The number of the token that each merge makes.

    Raises:
        TokenizerError: a merge uses or makes a token that is not among the tokens.
    """
    number = {token: index for index, token in enumerate(tokens)}
    made = []
    for index, (left, right) in enumerate(merges):
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)) or tokens[left] + tokens[right] not in number:
            raise TokenizerError(f"merge {index} joins ({left}, {right}), which makes none of the {len(tokens)} tokens")
        made.append(number[tokens[left] + tokens[right]])
    return made


def check_distinct(merges: Sequence[Pair]) -> None:
    """Raise a `TokenizerError` if a merge is listed twice."""
    if len(set(merges)) != len(merges):
        twice = next(pair for index, pair in enumerate(merges) if pair in merges[:index])
        raise TokenizerError(f"the merge {twice} is listed twice")

"""Patterns that cut text into pre-tokens; BPE merges within a pre-token and never across two.

Without the cut, merges would learn "dog." and "dog!" as words of their own.

The patterns need Unicode classes such as \\p{L}, which the `regex` package has and the standard library's `re` does not
have. For the patterns of this module, `cutting` finds the same pre-tokens by a compiled loop.
"""

from __future__ import annotations

import regex

from tokenizer.interface import TokenizerError

# GPT-2 (Radford et al., 2019): contractions; letters, digits or other symbols, each run with at
# most one space before it; white space, whose last space is left to the word that follows.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# GPT-4 (tiktoken's cl100k_base): digits in groups of three; a word takes any one symbol before it;
# contractions in either case; line ends stay with the punctuation before them.
CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s+(?!\s|\S)|\s*[\r\n]|\s+(?!\S)|\s"""
)

# GPT-4o (tiktoken's o200k_base): words are also cut where lower case changes to upper case.
O200K_PATTERN = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)

# Llama 3 and Qwen (2, 2.5 and 3), which has each digit by itself.
_WORDS_AND_LINES = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
LLAMA3_PATTERN, QWEN_PATTERN = _WORDS_AND_LINES % r"\p{N}{1,3}", _WORDS_AND_LINES % r"\p{N}"

# SmolLM2 and StarCoder: each digit by itself, then GPT-2's pattern on what is between the digits.
DIGITS_PATTERN = r"""\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""

# Where a text may be cut so that its parts give the pre-tokens of the whole, searched from the end.
# In each of these patterns white space after such a character begins a pre-token, and nothing
# before it depends on what follows. Nothing can be said about an unknown pattern.
_SAFE_CUTS = {
    GPT2_PATTERN: r"(?r)\S(?=\s)",
    CL100K_PATTERN: r"(?r)[\p{L}\p{N}](?=\s)",
    O200K_PATTERN: r"(?r)[\p{L}\p{N}](?=\s)",
    LLAMA3_PATTERN: r"(?r)[\p{L}\p{N}](?=\s)",
    QWEN_PATTERN: r"(?r)[\p{L}\p{N}](?=\s)",
    DIGITS_PATTERN: r"(?r)\S(?=\s)",
}


def to_utf8(text: str) -> bytes:
    """UTF-8 bytes; a lone surrogate becomes U+FFFD, as in tokenizers written in Rust."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return replace_surrogates(text).encode("utf-8")


def replace_surrogates(text: str) -> str:
    """The text with pairs of surrogates joined to characters, and lone ones replaced by U+FFFD."""
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


class PreTokenizer:
    """Cuts text by a pattern.

    >>> PreTokenizer(GPT2_PATTERN).split("I'll pay  12 euros")
    ['I', "'ll", ' pay', ' ', ' 12', ' euros']

    Args:
        pattern: a regular expression in the syntax of the `regex` package. It should match every
            character of every text; what it leaves out cannot be encoded.

    Raises:
        TokenizerError: the pattern is not a regular expression.
    """

    def __init__(self, pattern: str = GPT2_PATTERN):
        self.pattern = pattern
        try:
            self._regex = regex.compile(pattern)
        except regex.error as error:
            raise TokenizerError(f"the pattern {pattern!r} is not a regular expression: {error}") from None
        self._cut = regex.compile(_SAFE_CUTS[pattern]) if pattern in _SAFE_CUTS else None
        self._has_groups = self._regex.groups > 0  # then findall would give the groups

    def split(self, text: str) -> list[str]:
        """The pre-tokens of a text, in order.

        Raises:
            TokenizerError: the pattern leaves characters of the text out.
        """
        if self._cut is not None:  # a known pattern, which leaves nothing out
            return self._regex.findall(text)
        if self._has_groups:
            pieces = [match.group() for match in self._regex.finditer(text) if match.group()]
        else:
            pieces = [piece for piece in self._regex.findall(text) if piece]
        if sum(map(len, pieces)) != len(text):
            raise TokenizerError(f"the pattern {self.pattern!r} leaves characters out; end it with |. or |\\s+")
        return pieces

    def last_safe_cut(self, text: str, start: int, end: int) -> int:
        """The last position in (start, end] where the text can be cut without changing a pre-token; -1: none."""
        if self._cut is None:
            return -1
        # One character more, so that the white space after the cut can be seen.
        match = self._cut.search(text, start, min(end + 1, len(text)))
        return match.end() if match else -1

"""Patterns that cut text into pre-tokens; BPE merges within a pre-token and never across two.

Without the cut, merges would learn "dog." and "dog!" as words of their own. The patterns need the
`regex` package: the standard library's `re` has no \\p{…} classes.
"""

from __future__ import annotations

# GPT-2 (Radford et al., 2019): contractions; letters, digits or other symbols, each run with at
# most one space before it; white space, whose last space is left to the word that follows.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

"""Regular expressions of `tokenizer.json`, which are in the syntax of Oniguruma, for the `regex` package.

The two agree on nearly everything that tokenizers use. They differ in `^` and `$`, which for Oniguruma stand at the
beginning and end of every line, and in `&&` within brackets, which for `regex` needs another mode.
"""

from __future__ import annotations

from typing import Any

import regex

from tokenizer.interface import TokenizerError


def translate(pattern: str) -> str:
    """The pattern in the syntax of `regex`.

    Raises:
        TokenizerError: `regex` cannot read it, or it matches where there is nothing.
    """
    flags = ""
    if "&&" in pattern:
        flags += "(?V1)(?-f:"
    outside = regex.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", pattern)  # without escapes and brackets
    if "^" in outside or "$" in outside:
        flags = "(?m)" + flags
    pattern = flags + pattern + (")" if flags.endswith(":") else "")
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise TokenizerError(f"its pattern {pattern!r} cannot be read: {error}") from None
    if compiled.fullmatch(""):
        raise TokenizerError(f"its pattern {pattern!r} matches where there is nothing, which is not supported")
    return pattern


def pattern_text(pattern: dict[str, str]) -> str:
    """The regular expression of `{"Regex": …}` or `{"String": …}`."""
    if "Regex" in pattern:
        return translate(pattern["Regex"])
    if not pattern["String"]:
        raise TokenizerError("an empty text to look for is not supported")
    return regex.escape(pattern["String"])


def compile_pattern(pattern: dict[str, str]) -> Any:
    """The same, compiled."""
    return regex.compile(pattern_text(pattern))

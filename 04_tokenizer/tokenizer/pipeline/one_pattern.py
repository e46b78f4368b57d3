"""Which pre-tokenizers can be written as one pattern. Then a `BPETokenizer` can cut a text in one go.

`Digits` and `Split` cut a text first, and the pattern after them sees the pieces: what they cut out, and what is between.
If they cut at single classes of characters, such as `\\p{N}{1,3}` or `[一-龥]+`, the last pattern can be rewritten so that it
stops where such a character begins. Where it looks at the next character (`(?!\\S)`), such a one is like the end of the text.
"""

from __future__ import annotations

from typing import Any

import regex

from tokenizer.patterns import DIGITS_PATTERN, GPT2_PATTERN
from tokenizer.pipeline.foreign_patterns import pattern_text

# One class of characters, and how many of them: \p{N}{1,3}, [一-龥]+, \d.
_ONE_CLASS = regex.compile(r"(\\p\{\w+\}|\\[dswDSW]|\[(?:\\.|[^\]\\])+\])(?:\+|\{1,\d+\})?")
# The parts of a pattern that stand for one character, and the rest.
_PART = regex.compile(
    r"(?P<ahead>\(\?!\\S\))|(?P<group>\(\?[a-z:]+)|(?P<one>\\p\{\^?\w+\}|\\P\{\w+\}|\[\^?(?:\\.|[^\]\\])+\]|\\.|\.)"
    r"|(?P<count>[?*+]\+?|\{\d+(?:,\d*)?\})|(?P<other>\((?!\?)|[)|])|(?P<letter>[^\\\[\](){}?*+|.^$])"
)


def as_one_pattern(steps: list[dict[str, Any]]) -> str | None:
    """The pattern that cuts a text as these pre-tokenizers do; None where none can be found.

    Args:
        steps: as `tokenizer.json` describes them; see `flatten`.

    Raises:
        TokenizerError: a pattern of theirs cannot be read.
    """
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space", True):
        return None
    patterns = [_isolating(step) for step in steps[:-1]]
    if steps[-1].get("use_regex", True):
        patterns.append(GPT2_PATTERN)
    if not patterns or None in patterns:
        return None
    if patterns == [r"\p{N}", GPT2_PATTERN]:
        return DIGITS_PATTERN
    return patterns[0] if len(patterns) == 1 else _combine([pattern for pattern in patterns if pattern is not None])


def _isolating(step: dict[str, Any]) -> str | None:
    """The pattern of a step that makes each match a piece of its own."""
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
        return pattern_text(step["pattern"])
    return None


def _combine(patterns: list[str]) -> str | None:
    stops: list[str] = []  # classes of characters at which the later patterns stop
    combined: list[str] = []
    for pattern in patterns[:-1]:
        match = _ONE_CLASS.fullmatch(pattern)
        if match is None:
            return None
        combined.append(_stopping(pattern, stops) or "")
        stops.append(match.group(1))
    combined.append(_stopping(patterns[-1], stops) or "")
    if "" in combined:
        return None
    # What no pattern matches is a piece as well, up to the next match.
    return "|".join(combined) + rf"|(?:(?!{'|'.join(combined)})[\s\S])+"


def _stopping(pattern: str, stops: list[str]) -> str | None:
    """The pattern, which matches no character of these classes; None where it has parts that are not understood."""
    if not stops:
        return pattern
    stop = "|".join(stops)
    parts: list[str] = []
    place = 0
    while place < len(pattern):
        match = _PART.match(pattern, place)
        if match is None:
            return None
        text, kind = match.group(), match.lastgroup
        place = match.end()
        if kind == "ahead":
            parts.append(rf"(?!(?!{stop})\S)")
        elif kind in ("one", "letter"):
            parts.append(f"(?:(?!{stop}){text})")
        elif kind == "group" and not text.endswith(":"):
            return None
        else:
            parts.append(text)
    return "".join(parts)

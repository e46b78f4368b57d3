"""How generated text fails: it loops, stops at once, never stops, or names things that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.diversity import loop_length, repetition
from evaluation.text_generation import GeneratedText

CATEGORIES = ("repetition", "early stop", "no end", "format", "hallucinated symbol")
MAX_REPETITION = 0.3  # share of 4-grams seen before; documentation has its own repetitions
MIN_CHARACTERS = 40  # shorter documents are not in the corpus

_DOTTED_NAME = re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_FENCES = (("(", ")"), ("[", "]"), ("{", "}"))


@dataclass(frozen=True)
class Failure:
    """Something wrong with one generated text.

    Args:
        category: one of `CATEGORIES`.
        detail: what exactly.
    """

    category: str
    detail: str


class SymbolTable:
    """The dotted names that the documentation knows.

    A name counts as real if it, or a longer name that begins with it, occurs anywhere in the documents. Where the
    documents do not mention a module at all, its names cannot be judged and are accepted.

    Args:
        documents: the documents of the training part and of the held-out part.
    """

    def __init__(self, documents: Iterable[str]):
        self._names: set[str] = set()
        for document in documents:
            for name in _DOTTED_NAME.findall(document):
                parts = name.split(".")
                # A method is often written without its module: remember every tail of two names or more.
                for start in range(len(parts) - 1):
                    for stop in range(start + 2, len(parts) + 1):
                        self._names.add(".".join(parts[start:stop]))
        self._roots = {name.partition(".")[0] for name in self._names}

    def unknown(self, text: str) -> list[str]:
        """Dotted names in a text that look like documented names and do not exist, each once, in order."""
        names = dict.fromkeys(_DOTTED_NAME.findall(text))
        return [name for name in names if name.partition(".")[0] in self._roots and name not in self._names]


def find_failures(prompt: str, generated: GeneratedText, symbols: SymbolTable) -> list[Failure]:
    """What is wrong with a text; an empty list if nothing is.

    Args:
        prompt: the text that was continued.
        generated: the continuation.
        symbols: names that exist.
    """
    text, failures = generated.text, list[Failure]()
    loop = loop_length(text)
    if loop:
        failures.append(Failure("repetition", f"ends in a loop of {loop} characters: {text[-loop:].strip()[:60]!r}"))
    elif repetition(text) > MAX_REPETITION:
        failures.append(Failure("repetition", f"{repetition(text):.0%} of its 4-grams occurred before"))
    if generated.ended and len(text.strip()) < MIN_CHARACTERS:
        failures.append(Failure("early stop", f"ends after {len(text.strip())} characters"))
    if not generated.ended:
        failures.append(Failure("no end", f"goes on after {generated.num_tokens} tokens"))
    if broken := _broken_format(prompt + text) if generated.ended else "":
        failures.append(Failure("format", broken))
    failures += [Failure("hallucinated symbol", name) for name in symbols.unknown(prompt + text) if name not in prompt]
    return failures


def _broken_format(text: str) -> str:
    if "\ufffd" in text:
        return "holds bytes that are not a character"
    for opening, closing in _FENCES:
        missing = text.count(opening) - text.count(closing)
        if missing > 0:
            return f"{missing} of {text.count(opening)} {opening!r} are not closed"
    return ""


def failure_rates(failures: Sequence[Sequence[Failure]]) -> dict[str, float]:
    """Share of texts with at least one failure of each category."""
    return {
        category: sum(any(f.category == category for f in found) for found in failures) / max(1, len(failures))
        for category in CATEGORIES
    }

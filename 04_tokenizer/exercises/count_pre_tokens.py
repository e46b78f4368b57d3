"""Exercise 4.1: Count pre-tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tokenizer.patterns import GPT2_PATTERN, PreTokenizer


def count_pre_tokens(
    documents: Iterable[str | Iterable[str]],
    pattern: str = GPT2_PATTERN,
    special_tokens: Iterable[str] = (),
    workers: int = 1,
    max_distinct: int | None = None,
    on_characters: Callable[[int], None] | None = None,
) -> Counter[bytes]:
    """How often each pre-token occurs, as UTF-8 bytes. The learning of merges needs nothing else.

    `PreTokenizer(pattern).split(text)` cuts a text into pre-tokens, such as "to", " be", " or".

    Args:
        documents: texts, or iterators over the parts of a text (join them: a pre-token may lie across two parts).
        pattern: cuts text into pre-tokens.
        special_tokens: are not counted; the text before and the text after one are cut as if the other did not exist. If
            two begin with the same characters, the longer one counts.
        workers: how many processes; your function may use one.
        max_distinct: a bound on memory; your function may ignore it.
        on_characters: for a progress bar; your function may ignore it.

    >>> count_pre_tokens(["to be or not to be"])[b" be"]
    2
    """
    raise NotImplementedError("Exercise 4.1: cut into pre-tokens and count")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

import regex

from learn.exercise import Case, Exercise, Mistake
from tokenizer.patterns import CL100K_PATTERN


def _as_dictionary(result: Any, arguments: Sequence[Any]) -> dict[bytes, int]:
    return dict(result)


def cases() -> Iterator[Case]:
    """A text; several; accents; parts; special tokens; another pattern."""

    def question(what: str, *arguments: Any) -> Case:
        return Case(what, arguments, observe=_as_dictionary)

    yield question("one text", ["to be or not to be"])
    yield question("two texts; a pre-token never crosses from one to the next", ["to b", "e or not"])
    yield question("letters of more than one byte", ["naïve café, naïve"])
    yield question("a text in three parts", [iter(["to b", "e or n", "ot to be"])])
    yield question("a special token between two texts", ["one<|end|>two one"], GPT2_PATTERN, ["<|end|>"])
    yield question(
        "special tokens that begin with the same characters",
        ["a<|x|>b<|x|><|y|>c"],
        GPT2_PATTERN,
        ["<|x|>", "<|x|><|y|>"],
    )
    yield question("GPT-4's pattern, numbers in groups of three", ["12345 12345"], CL100K_PATTERN)
    yield question(
        "the same special tokens, the longer one first", ["a<|x|>b<|x|><|y|>c"], GPT2_PATTERN, ["<|x|><|y|>", "<|x|>"]
    )
    yield question("'a.b' as a special token, which is not 'axb'", ["axb a.b axb"], GPT2_PATTERN, ["a.b"])
    yield question(
        "documents and special tokens that can be read once",
        iter(["a<|x|>b", "a<|x|>b"]),
        GPT2_PATTERN,
        iter(["<|x|>"]),
    )
    yield question(
        "a special token that lies across two parts", [iter(["one<|e", "nd|> two"])], GPT2_PATTERN, ["<|end|>"]
    )
    yield question("special tokens at both ends, and two together", ["<|x|>a<|x|><|x|>b<|x|>"], GPT2_PATTERN, {"<|x|>"})
    yield question("an empty text, and no parts", ["", iter([])])
    yield question("no documents", [])
    yield question("white space at the end, and line breaks", ["a  b\n\n c \t"])


def _count(documents: Any, pattern: str, special_tokens: Any, **wrong: bool) -> Counter[bytes]:
    counts: Counter[bytes] = Counter()
    specials = sorted(special_tokens, key=len, reverse=not wrong.get("shortest_first"))
    texts: list[str] = []
    for document in documents:
        parts = [document] if isinstance(document, str) else list(document)
        texts += parts if wrong.get("parts_apart") else ["".join(parts)]
    for text in ["".join(texts)] if wrong.get("documents_joined") else texts:
        if specials and wrong.get("removed"):
            text = regex.sub("|".join(map(regex.escape, specials)), "", text)
        pieces = (
            regex.split("|".join(map(regex.escape, specials)), text)
            if specials and not wrong.get("ignored")
            else [text]
        )
        for piece in pieces:
            counts.update(word.encode("utf-8") for word in PreTokenizer(pattern).split(piece))
    return counts


def _mistaken(name: str) -> Callable[..., Any]:
    def count_pre_tokens(
        documents: Iterable[str | Iterable[str]],
        pattern: str = GPT2_PATTERN,
        special_tokens: Iterable[str] = (),
        workers: int = 1,
        max_distinct: int | None = None,
        on_characters: Callable[[int], None] | None = None,
    ) -> Counter[bytes]:
        used = GPT2_PATTERN if name == "one_pattern" else pattern
        return _count(documents, used, special_tokens, **{name: True})

    return count_pre_tokens


EXERCISE = Exercise(
    stub=count_pre_tokens,
    reference="tokenizer.pre_token_counts:count_pre_tokens",
    cases=cases,
    in_place=True,  # iterators are used up
    hints=(
        "A Counter can be updated with any iterable: counts.update(…). Keys are bytes: word.encode('utf-8').",
        "If a document is not a str, join it: ''.join(document). Before you cut into pre-tokens, cut the text at special "
        "tokens: use regex.split (or re.split) with the escaped tokens, the longest first.",
        "separators = '|'.join(re.escape(s) for s in sorted(special_tokens, key=len, reverse=True)); pieces = "
        "re.split(separators, text) if separators else [text]; for each piece update with the encoded pre-tokens.",
    ),
    mistakes=(
        Mistake(
            _mistaken("documents_joined"),
            "documents must not be joined: a pre-token never crosses from one to the next",
        ),
        Mistake(_mistaken("parts_apart"), "the parts of one text must be joined: a pre-token may lie across two parts"),
        Mistake(_mistaken("ignored"), "special tokens are counted like other text"),
        Mistake(_mistaken("removed"), "the text is cut where a special token stood, and must not be joined there"),
        Mistake(
            _mistaken("shortest_first"),
            "if special tokens begin with the same characters, the longest counts: sort by length",
        ),
        Mistake(_mistaken("one_pattern"), "the pattern is an argument: use it"),
    ),
)

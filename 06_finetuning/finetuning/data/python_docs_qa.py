"""Instruction data from the documentation on this machine: questions about symbols, with their answers.

Every documented public symbol gives some of these:

    What does collections.deque.append do?          Add x to the right side of the deque.
    Which function does this? Add x to …            collections.deque.append
    What is the signature of textwrap.dedent?       textwrap.dedent(text)
    Summarise: <the docstring's body>               <its first sentence>
    Complete this documentation: <first half>       <the rest of the sentence>

and conversations that go on: a second question refers to the first by "its" or "it".

It can teach a small model the form of a conversation, to answer what was asked and then stop, and the answers
that the model has seen. It cannot teach knowledge of symbols that are in no answer. A held-out question is about
a symbol that no training question asks about, but the documentation of that symbol may be in the pretraining
text. "What does" questions are then a test of memory, and "summarise" a test of reading. The wording of questions
comes from a dozen patterns, so do not expect the model to understand other wordings.

python -m finetuning.data.python_docs_qa
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetuning.data.chat_format import Message
from finetuning.data.record_shapes import Example, Preference
from neural_networks.python_docs import DocumentedSymbol, gather_symbols

MAX_ANSWER_CHARACTERS = 160
MAX_PASSAGE_CHARACTERS = 400
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*])")
PRIVATE = re.compile(r"(^|\.)_")
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "cf.")

WHAT = ("What does {name} do?", "What is {name} for?", "Explain {name} in one sentence.")
WHICH = ("Which function does this? {answer}", "Name the function: {answer}")
SIGNATURE = ("What is the signature of {name}?", "How do I call {name}?")
SUMMARISE = ("Summarise in one sentence: {passage}",)
COMPLETE = ("Complete this documentation of {name}: {start}",)
FOLLOW_UP = ("How do I call it?", "And its signature?")
EXPLAIN_AFTER = ("What does it do?", "And what is it for?")


@dataclass(frozen=True)
class QuestionSet:
    """Questions with answers, split by symbol.

    Args:
        train: to learn from.
        held_out: about symbols that `train` has no questions about.
        preferences: for the symbols of `train`: the right answer, and one that belongs to another symbol.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    preferences: tuple[Preference, ...]


def build_questions(symbols: Iterable[DocumentedSymbol] | None = None, held_out_fraction: float = 0.05) -> QuestionSet:
    """Make the questions.

    Args:
        symbols: the documentation; None gathers it from this installation, which takes some seconds.
        held_out_fraction: share of the symbols that are kept for testing.

    Raises:
        ValueError: the fraction is not between 0 and 1, or too few symbols have a usable summary.
    """
    if not 0.0 < held_out_fraction < 1.0:
        raise ValueError(f"held_out_fraction must be between 0 and 1, got {held_out_fraction}")
    answers: dict[str, tuple[DocumentedSymbol, str]] = {}
    seen_summaries: set[str] = set()
    for symbol in gather_symbols() if symbols is None else symbols:
        summary = first_sentence(symbol.docstring)
        # One answer must not belong to two symbols: "which function" would have two right answers.
        usable = summary and summary not in seen_summaries and symbol.name not in answers
        if usable and not symbol.module.startswith("topics.") and not PRIVATE.search(symbol.name):
            seen_summaries.add(summary)
            answers[symbol.name] = (symbol, summary)
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} symbols have a documentation with a usable first sentence; 2 are needed")
    train: list[Example] = []
    held_out: list[Example] = []
    preferences: list[Preference] = []
    names = list(answers)
    for index, name in enumerate(names):
        symbol, summary = answers[name]
        examples = _examples(symbol, summary)
        if _hash(name) % 10_000 < held_out_fraction * 10_000:
            held_out += examples
            continue
        train += examples
        other = answers[names[(index + 1 + _hash(name) % 7) % len(names)]][1]  # of a neighbour: hard to tell apart
        prompt = (Message("user", _choose(WHAT, name).format(name=name)),)
        preferences.append(Preference(prompt, summary, other))
    return QuestionSet(tuple(train), tuple(held_out), tuple(preferences))


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, or nothing where it is not a plain short one.

    >>> first_sentence("Add x to the right side of the deque.\\n\\nMore.")
    'Add x to the right side of the deque.'
    >>> first_sentence("a, b -> c")
    ''
    """
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence = SENTENCE_END.split(paragraph)[0]
    if sentence.endswith(ABBREVIATIONS):
        return ""
    plain = sentence.endswith(".") and sentence[:1].isupper() and not re.search(r"->|::|>>>|\bdeprecated\b", sentence)
    return sentence if plain and 15 <= len(sentence) <= MAX_ANSWER_CHARACTERS else ""


def _examples(symbol: DocumentedSymbol, summary: str) -> list[Example]:
    name = symbol.name
    call = f"{name}{symbol.signature}" if symbol.signature.startswith("(") else ""
    examples = [_ask(_choose(WHAT, name).format(name=name), summary)]
    examples.append(_ask(_choose(WHICH, name).format(answer=summary), name))
    if call and len(call) <= MAX_ANSWER_CHARACTERS:
        examples.append(_ask(_choose(SIGNATURE, name).format(name=name), call))
        first, second = _choose(WHAT, name, 1).format(name=name), _choose(FOLLOW_UP, name)
        turns = [(first, summary), (second, call)]
        if _hash(name) % 2:
            first, second = _choose(SIGNATURE, name, 1).format(name=name), _choose(EXPLAIN_AFTER, name)
            turns = [(first, call), (second, summary)]
        messages = [m for question, answer in turns for m in (Message("user", question), Message("assistant", answer))]
        examples.append(Example(tuple(messages)))
    passage = " ".join(symbol.docstring.split())
    if len(summary) + 80 <= len(passage) <= MAX_PASSAGE_CHARACTERS:
        examples.append(_ask(_choose(SUMMARISE, name).format(passage=passage), summary))
    words = summary.split()
    if len(words) >= 8:
        half = len(words) // 2
        start, rest = " ".join(words[:half]), " ".join(words[half:])
        examples.append(_ask(_choose(COMPLETE, name).format(name=name, start=start), rest))
    return examples


def _ask(question: str, answer: str) -> Example:
    return Example((Message("user", question), Message("assistant", answer)))


def _choose(patterns: Sequence[str], name: str, offset: int = 0) -> str:
    return patterns[(_hash(name) // 10_000 + offset) % len(patterns)]


def _hash(name: str) -> int:
    """The same on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(f"question about {name}".encode()).digest()[:6], "big")


def main() -> None:
    """Print some questions, and how many there are."""
    questions = build_questions()
    for example in questions.train[:: max(1, len(questions.train) // 8)][:8]:
        for message in example.messages:
            print(f"{message.role:>9}: {message.content[:110]}")
        print()
    print(f"{len(questions.train):,} to learn from, {len(questions.held_out):,} held out")
    print(f"{len(questions.preferences):,} preferences")


if __name__ == "__main__":
    main()

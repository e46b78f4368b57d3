"""Benchmarks made from the Python documentation on this machine, without a download and without any training text.

The questions come from the held-out documents of the corpus `python_docs`. They measure what a model has learned
about documentation from the other documents. A document is a signature, a blank line and a docstring:

    collections.deque.rotate(self, n=1)

    Rotate the deque n steps to the right.

- **docs_description** (choice): which of four descriptions belongs to this signature? The wrong ones belong to other
  held-out documents and have about the same length, so that the length does not show which is right.
- **docs_continuation** (choice): how does the description go on?
- **docs_last_word** (cloze): the last word of the first sentence.
- **docs_first_argument** (generation): the first name in the list of arguments. It is in the signature.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from groundwork.files import write_atomically
from groundwork.user_errors import UserError
from neural_networks.corpora import load_corpus

SEED = 0  # the questions of a corpus are always the same
MAX_QUESTIONS = 500
CHOICES = 4
_HEADER = re.compile(r"[\w.]+\.\w+\([^\n]*\)[^\n]*")
_ARGUMENTS = re.compile(r"(?:^|\n)(?:Parameters\n-{4,}\n|(?:Args|Arguments):\n\s+)(?=\*{0,2}(\w+)\s*(?:[:(]|\n))")

Document = tuple[str, str]  # signature, docstring
Question = dict[str, Any]


def held_out_documents() -> list[Document]:
    """Signature and docstring of every held-out document that has a signature."""
    return split_documents(load_corpus("python_docs", 0.05).validation)


def split_documents(texts: Sequence[str]) -> list[Document]:
    """The documents that are a signature, a blank line and a docstring; the others are left out."""
    parts = [text.partition("\n\n") for text in texts]
    return [(header, docstring.strip()) for header, _, docstring in parts if _HEADER.fullmatch(header)]


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`'\"][.!?]) (?![a-z])", paragraph)[0]


def description_questions(documents: Sequence[Document]) -> list[Question]:
    """Which description belongs to a signature?"""
    pairs = [(header, first_sentence(docstring)) for header, docstring in documents]
    pairs = [(header, sentence) for header, sentence in pairs if 20 <= len(sentence) <= 200]
    return _with_wrong_choices([(f"{header}\n\n", sentence) for header, sentence in pairs])


def continuation_questions(documents: Sequence[Document]) -> list[Question]:
    """How does the description go on, after its first sentence?"""
    pairs = []
    for header, docstring in documents:
        start = first_sentence(docstring)
        rest = " ".join(docstring.split("\n\n")[0].split())[len(start) :].strip()
        if 20 <= len(start) <= 300 and 20 <= len(rest) <= 300:
            pairs.append((f"{header}\n\n{start}", f" {rest}"))
    return _with_wrong_choices(pairs)


def _with_wrong_choices(pairs: Sequence[tuple[str, str]]) -> list[Question]:
    """Add three choices of other questions to each right choice, all with about the same length."""
    unique = list(dict(zip((right for _, right in pairs), pairs, strict=True)).values())
    if len(unique) < CHOICES:
        raise UserError(f"{CHOICES} different descriptions are needed for a question, there are {len(unique)}")
    by_length = sorted(unique, key=lambda pair: (len(pair[1]), pair[1]))
    rng = random.Random(SEED)
    questions = []
    for place, (context, right) in enumerate(by_length):
        first = min(max(0, place - 5), max(0, len(by_length) - 11))
        neighbours = [other for _, other in by_length[first : first + 11] if other != right]
        choices = [right, *rng.sample(neighbours, CHOICES - 1)]
        rng.shuffle(choices)
        questions.append({"context": context, "choices": choices, "answer": choices.index(right)})
    return _some(questions)


def last_word_questions(documents: Sequence[Document]) -> list[Question]:
    """The last word of the first sentence, without the full stop."""
    questions = []
    for header, docstring in documents:
        context, _, word = first_sentence(docstring).rstrip(".").rpartition(" ")
        if re.fullmatch(r"[A-Za-z_]{3,}", word) and len(context) >= 30:
            questions.append({"context": f"{header}\n\n{context}", "continuation": f" {word}"})
    return _some(questions)


def first_argument_questions(documents: Sequence[Document]) -> list[Question]:
    """The first name in the list of arguments, where the signature has that name."""
    questions = []
    for header, docstring in documents:
        found = _ARGUMENTS.search(docstring)
        if found and found.end() < 600 and re.search(rf"\b{found.group(1)}\b", header.partition("(")[2]):
            questions.append({"prompt": f"{header}\n\n{docstring[: found.end()]}", "answer": found.group(1)})
    return _some(questions)


def _some(questions: list[Question]) -> list[Question]:
    random.Random(SEED).shuffle(questions)
    return questions[:MAX_QUESTIONS]


QUESTIONS: dict[str, Callable[[Sequence[Document]], list[Question]]] = {
    "docs_description": description_questions,
    "docs_continuation": continuation_questions,
    "docs_last_word": last_word_questions,
    "docs_first_argument": first_argument_questions,
}


def build_all(folder: Path) -> None:
    """Write the data of all four tasks as JSONL. Collecting the documents takes longer than all the rest."""
    documents = held_out_documents()
    for name, make in QUESTIONS.items():
        text = "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in make(documents))
        write_atomically(folder / f"{name}.jsonl", text)

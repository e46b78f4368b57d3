"""The layouts in which benchmarks are published. Each is read into the same kind of item.

A prompt must be exactly the prompt that others use, even the space before an answer. Otherwise results cannot be
compared. These prompts follow lm-evaluation-harness. There are three kinds of item:

- **choice**: several (context, continuation) pairs, and one of them is right. The model picks the pair whose
  continuation it finds most likely. Most benchmarks vary the continuation; WinoGrande varies the context, so that
  all candidates are scored on the same words.
- **cloze**: one pair. The answer is right if greedy decoding would write exactly the continuation.
- **generation**: the model writes a text, and the answer is taken from the text and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from evaluation.tasks.records import Record

Kind = Literal["choice", "cloze", "generation"]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Item:
    """One question.

    Args:
        contexts: what the model reads, one for each candidate; a single one for cloze and generation.
        continuations: what is scored after each context; for generation the reference answer.
        answer: index of the right candidate; 0 for cloze and generation.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    answer: int = 0

    @property
    def solved(self) -> str:
        """The question with its right answer, as an example to learn from."""
        return self.contexts[self.answer] + self.continuations[self.answer]


@dataclass(frozen=True)
class Layout:
    """How to read one record.

    Args:
        kind: the kind of the items.
        read: makes an item from a record.
    """

    kind: Kind
    read: Callable[[Record], Item]


def _choice(context: str, choices: list[str], answer: int) -> Item:
    return Item((context,) * len(choices), tuple(f" {choice}" for choice in choices), answer)


def _hellaswag(record: Record) -> Item:
    """Which ending fits (Zellers et al., 2019): activity_label, ctx_a, ctx_b, endings, label."""
    endings = record.texts("endings")
    second = record.values.get("ctx_b") or ""  # without it, the context has one part
    if not isinstance(second, str):
        raise record.fail("ctx_b", f"should be a text or null, got {second!r}")
    context = f"{record.text('activity_label')}: {record.text('ctx_a')} {second.capitalize()}"
    cleaned = [_without_wikihow_marks(ending) for ending in endings]
    return _choice(_without_wikihow_marks(context), cleaned, record.index("label", len(endings)))


def _without_wikihow_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _arc(record: Record) -> Item:
    """Science questions (Clark et al., 2018), as published by AI2 or on the Hugging Face hub."""
    inner = record.values.get("question")
    if isinstance(inner, dict):  # AI2: {"question": {"stem": …, "choices": [{"text": …, "label": "A"}, …]}}
        question = Record(inner, f"{record.place}, in 'question'")
        listed = inner.get("choices")
        if not isinstance(listed, list) or not all(isinstance(choice, dict) for choice in listed):
            raise question.fail("choices", f"should be a list of objects, got {listed!r}")
        columns = Record({key: [choice.get(key) for choice in listed] for key in ("text", "label")}, question.place)
        stem = question.text("stem")
    else:  # the hub: {"question": …, "choices": {"text": […], "label": ["A", …]}}
        stem = record.text("question")
        nested = record.values.get("choices")
        if not isinstance(nested, dict):
            raise record.fail("choices", f"should be an object with 'text' and 'label', got {nested!r}")
        columns = Record(nested, f"{record.place}, in 'choices'")
    choices, labels = columns.texts("text"), columns.texts("label")
    key = record.text("answerKey")
    if key not in labels or len(labels) != len(choices):
        raise record.fail("answerKey", f"should be one of the labels {', '.join(labels)}, got {key!r}")
    return _choice(f"Question: {stem}\nAnswer:", choices, labels.index(key))


def _mmlu(record: Record) -> Item:
    """Exam questions (Hendrycks et al., 2021): question, choices, answer as an index or a letter."""
    choices = record.texts("choices")
    if len(choices) > len(LETTERS):
        raise record.fail("choices", f"should be at most {len(LETTERS)} texts, got {len(choices)}")
    letters = LETTERS[: len(choices)]
    answer = record.values.get("answer")
    if isinstance(answer, str) and len(answer) == 1 and answer.isalpha():
        if answer not in letters:
            raise record.fail("answer", f"should be one of {', '.join(letters)}, got {answer!r}")
        answer = letters.index(answer)
    else:
        answer = record.index("answer", len(choices))
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(letters, choices, strict=True))
    return _choice(f"{record.text('question').strip()}\n{listed}Answer:", list(letters), answer)


def _winogrande(record: Record) -> Item:
    """Which of two options fills the gap (Sakaguchi et al., 2021): sentence with `_`, option1, option2, answer."""
    sentence = record.text("sentence")
    if sentence.count("_") != 1:
        raise record.fail("sentence", f"should have one gap '_', got {sentence!r}")
    before, after = sentence.split("_")
    if not after.strip():
        raise record.fail("sentence", "should go on after the gap, because the text after the gap is scored")
    contexts = tuple(before + record.text(option) for option in ("option1", "option2"))
    return Item(contexts, (f" {after.strip()}",) * 2, record.index("answer", 2, first=1))


def _gsm8k(record: Record) -> Item:
    """Word problems (Cobbe et al., 2021): question, answer ending in `#### 72`."""
    answer = record.text("answer")
    if "####" not in answer:
        raise record.fail("answer", "should end with '#### ' and the number")
    return Item((f"Question: {record.text('question')}\nAnswer:",), (f" {answer}",))


def _lambada(record: Record) -> Item:
    """The last word of a passage (Paperno et al., 2016): text."""
    context, _, word = record.text("text").strip().rpartition(" ")
    if not context:
        raise record.fail("text", "should have at least two words")
    return Item((context,), (f" {word}",))


def _choices(record: Record) -> Item:
    """This project's own layout: context, choices, answer (an index from 0)."""
    choices = record.texts("choices")
    context = record.text("context")
    return Item((context,) * len(choices), tuple(choices), record.index("answer", len(choices)))


def _cloze(record: Record) -> Item:
    """This project's own layout: context, continuation."""
    return Item((record.text("context"),), (record.text("continuation"),))


def _generation(record: Record) -> Item:
    """This project's own layout: prompt, answer."""
    return Item((record.text("prompt"),), (record.text("answer"),))


LAYOUTS: dict[str, Layout] = {
    "hellaswag": Layout("choice", _hellaswag),
    "arc": Layout("choice", _arc),
    "mmlu": Layout("choice", _mmlu),
    "winogrande": Layout("choice", _winogrande),
    "gsm8k": Layout("generation", _gsm8k),
    "lambada": Layout("cloze", _lambada),
    "choices": Layout("choice", _choices),
    "cloze": Layout("cloze", _cloze),
    "generation": Layout("generation", _generation),
}

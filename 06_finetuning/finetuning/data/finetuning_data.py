"""The data of a fine-tuning run: what is learned from, and what is held out."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from finetuning.config import FinetuningConfig
from finetuning.data.instruction_data import InstructionDataError, read_instruction_data
from finetuning.data.python_docs_qa import build_questions
from finetuning.data.record_shapes import Example, Preference, said

Item = TypeVar("Item", Example, Preference)


@dataclass(frozen=True)
class FinetuningData:
    """What was read. Nothing that is held out is also learned from.

    Args:
        examples: conversations to learn from.
        held_out: conversations for validation.
        preferences: pairs to learn from.
        held_out_preferences: pairs for validation.
    """

    examples: Sequence[Example] = ()
    held_out: Sequence[Example] = ()
    preferences: Sequence[Preference] = ()
    held_out_preferences: Sequence[Preference] = ()


def load_data(config: FinetuningConfig, console: Console) -> FinetuningData:
    """Read the data of a configuration, report what was left out, and set a part aside for validation.

    Raises:
        InstructionDataError: there is nothing that the method can use.
    """
    source, fraction = config.data.source, config.data.held_out_fraction
    chance = random.Random(config.seed)
    if source == "python_docs_qa":
        with console.status("Making questions from the documentation …"):
            questions = build_questions(held_out_fraction=fraction)
        examples, held_out = list(questions.train), list(questions.held_out)
        pairs = list(questions.preferences)
    else:
        data = read_instruction_data(source)
        console.print(data.summary(), highlight=False, markup=False)
        examples, pairs, held_out = list(data.examples), list(data.preferences), []
        chance.shuffle(examples)
        if len(examples) > 1:
            held_out, examples = _split(examples, fraction)
    chance.shuffle(pairs)
    held_out_pairs, pairs = _split(pairs, fraction) if len(pairs) > 1 else ([], pairs)
    held_out = _not_learned(held_out, examples, "conversations", console)
    held_out_pairs = _not_learned(held_out_pairs, pairs, "preferences", console)
    wanted: Sequence[Example | Preference] = pairs if config.method in ("dpo", "ipo") else examples
    if not wanted:
        kind = "preferences" if config.method in ("dpo", "ipo") else "conversations"
        raise InstructionDataError(f"{source} has no {kind}, which the method {config.method} learns from")
    if config.data.max_examples is not None:
        chance.shuffle(examples)
        examples, pairs = examples[: config.data.max_examples], pairs[: config.data.max_examples]
    return FinetuningData(examples, held_out, pairs, held_out_pairs)


def _split(items: list[Item], fraction: float) -> tuple[list[Item], list[Item]]:
    cut = max(1, round(len(items) * fraction))
    return items[:cut], items[cut:]


def _not_learned(held_out: list[Item], learned: list[Item], what: str, console: Console) -> list[Item]:
    """What is held out and not also learned from: otherwise the validation would measure memory."""
    known = {_key(item) for item in learned}
    kept = [item for item in held_out if _key(item) not in known]
    if len(kept) < len(held_out):
        console.print(
            f"{len(held_out) - len(kept):,} of {len(held_out):,} held-out {what} are also learned from, and are left "
            "out of the validation",
            highlight=False,
        )
    return kept


def _key(item: Example | Preference) -> Hashable:
    """What the model would read; white space around a message is not part of it."""
    if isinstance(item, Example):
        return tuple(said(item.messages))
    return (*said(item.prompt), item.chosen.strip(), item.rejected.strip())

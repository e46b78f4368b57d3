"""Exercise 6.2: Pack conversations into rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attention.masks import document_mask
from finetuning.data.chat_format import EncodedConversation
from training.data.batches import IGNORED, Batch


def pack_rows(rows: Sequence[Sequence[EncodedConversation]], context_length: int) -> Batch:
    """Make the tensors for rows of conversations; each row has several conversations side by side.

    A conversation of n tokens takes n - 1 places. At each place the model reads one token (`inputs`) and should predict the
    next (`targets`). If the token to be predicted is not learned, the target is IGNORED. Positions begin at 0 in each
    conversation, and no conversation sees another.

    The rest of a row is padding: input 0, target IGNORED, position 0, a document of its own.

    Args:
        rows: the conversations of each row, with `ids` and `learned`; together they fit into the row.
        context_length: how many places a row has.

    Returns:
        Batch(tensors, weight). Tensors: `inputs`, `targets` and `positions`, all (rows, context_length) int64, and
        `allowed`, `document_mask(documents)`. `documents` (rows, context_length) int64 has the number of the conversation
        at each place (padding: -1). The mask (exercise 2.4) is boolean (rows, 1, context_length, context_length). The weight
        is the number of targets that are not IGNORED.
    """
    raise NotImplementedError("Exercise 6.2: inputs, targets, positions, and who sees whom")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One; padding; two in a row; two rows; id 0; a first token that is learned; one token; an empty row."""
    first = EncodedConversation([5, 6, 7, 8, 9], [False, False, False, True, True])
    second = EncodedConversation([1, 2, 3], [False, True, True])
    yield Case("one conversation of five tokens in a row of four", [[[first]], 4])
    yield Case("the same in a row of six: padding", [[[first]], 6])
    yield Case("two in one row of eight", [[[first, second]], 8])
    yield Case("two rows", [[[second], [second, first]], 7])
    zeros = EncodedConversation([0, 4, 0, 0], [False, False, True, True])
    yield Case("a conversation with the id 0 in it, then padding", [[[zeros]], 5])
    all_learned = EncodedConversation([1, 2, 3], [True, True, True])
    yield Case("a conversation whose first token is learned, though nothing predicts it", [[[all_learned]], 4])
    single = EncodedConversation([4], [True])
    yield Case("a conversation of one token, which takes no place, between two others", [[[second, single, first]], 7])
    yield Case("a row without conversations", [[[], [second]], 3])


def _pack(rows: Sequence[Sequence[EncodedConversation]], context_length: int, **wrong: bool) -> Batch:
    inputs = torch.zeros(len(rows), context_length, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORED)
    positions = torch.zeros_like(inputs)
    documents = torch.full_like(inputs, 0 if wrong.get("padding_is_first") else -1)
    for row, conversations in enumerate(rows):
        start = 0
        for number, conversation in enumerate(conversations):
            ids, learned = torch.tensor(conversation.ids), torch.tensor(conversation.learned)
            place = slice(start, start + len(ids) - 1)
            inputs[row, place] = ids[:-1]
            if wrong.get("place_too_many"):
                inputs[row, start : start + len(ids)] = ids
            mask = learned[:-1] if wrong.get("unshifted_mask") else learned[1:]
            following = ids[:-1] if wrong.get("unshifted") else ids[1:]
            targets[row, place] = torch.where(mask, following, IGNORED)
            positions[row, place] = torch.arange(len(ids) - 1) + (start if wrong.get("positions_go_on") else 0)
            documents[row, place] = 0 if wrong.get("one_document") else number
            if wrong.get("zero_is_padding"):
                documents[row, place] = torch.where(ids[:-1] == 0, -1, number)
            start = place.stop + bool(wrong.get("gap"))
    if wrong.get("zero_is_padding"):
        targets[targets == 0] = IGNORED
    weight = float((targets != IGNORED).sum())
    if wrong.get("weight_of_learned"):
        weight = float(sum(sum(conversation.learned) for row in rows for conversation in row))
    if wrong.get("weight_of_places"):
        weight = float(targets.numel())
    tensors = {"inputs": inputs, "targets": targets, "positions": positions, "allowed": document_mask(documents)}
    return Batch(tensors, weight)


def _mistaken(name: str) -> Callable[..., Any]:
    def pack_rows(rows: Sequence[Sequence[EncodedConversation]], context_length: int) -> Batch:
        return _pack(rows, context_length, **{name: True})

    return pack_rows


_ONE_FEWER = "n tokens take n - 1 places: the last one is predicted, never read"

EXERCISE = Exercise(
    stub=pack_rows,
    reference="finetuning.data.conversation_batches:pack_rows",
    cases=cases,
    hints=(
        "First make the four tensors full of padding, then write each conversation into its part of a row.",
        "A conversation goes to places start … start + n - 2. There, inputs are ids[:-1]; targets are ids[1:] where learned[1:], "
        "otherwise IGNORED; positions are 0 … n - 2; documents hold the number of the conversation in the row.",
        "place = slice(start, start + len(ids) - 1); inputs[row, place] = ids[:-1]; targets[row, place] = "
        "torch.where(learned[1:], ids[1:], IGNORED); …; start = place.stop.",
    ),
    mistakes=(
        Mistake(_mistaken("unshifted"), "the target is the next token, not the one that is read"),
        Mistake(
            _mistaken("unshifted_mask"),
            "`learned` belongs to the token that is predicted, so it is shifted like the targets",
        ),
        Mistake(_mistaken("place_too_many"), _ONE_FEWER),
        Mistake(_mistaken("gap"), _ONE_FEWER),
        Mistake(
            _mistaken("padding_is_first"), "padding is a document of its own: -1, not the number of a conversation"
        ),
        Mistake(_mistaken("weight_of_places"), "the weight counts the targets that are learned, not the places"),
        Mistake(
            _mistaken("zero_is_padding"),
            "0 is an ordinary id: padding is where no conversation is, not where ids are 0",
        ),
        Mistake(
            _mistaken("weight_of_learned"),
            "the first token of a conversation is never a target: count targets that are not IGNORED",
        ),
        Mistake(_mistaken("positions_go_on"), "positions begin at 0 in each conversation"),
        Mistake(
            _mistaken("one_document"),
            "conversations in one row must not see each other: number them for document_mask",
        ),
    ),
)

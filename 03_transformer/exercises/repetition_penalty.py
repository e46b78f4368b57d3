"""Exercise 3.8: The repetition penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Lower the probability of tokens that have occurred (Keskar et al., 2019: "CTRL").

    A positive logit is divided by the penalty, a negative one is multiplied by it: both make it smaller. However often a
    token has occurred, it is penalised once.

    Args:
        logits: (vocab,).
        seen: ids of the prompt and of the generated text; it may be empty, and ids may repeat.
        penalty: above 1 to penalise; 1 changes nothing.

    Returns:
        New logits; the given ones stay as they are.
    """
    raise NotImplementedError("Exercise 3.8: what occurred becomes less likely")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Positive; negative; repeated; nothing."""
    yield Case("one token with a positive logit", [torch.tensor([1.0, 2.0, 3.0]), [1], 2.0])
    yield Case("one token with a negative logit", [torch.tensor([1.0, -2.0, 3.0]), [1], 2.0])
    yield Case("a token that occurred three times", [torch.tensor([1.0, 2.0, 3.0]), [2, 2, 0, 2], 1.5])
    yield Case("nothing occurred yet", [torch.tensor([1.0, -2.0]), [], 1.3])
    yield Case("a penalty of 1", [torch.tensor([1.0, -2.0]), [0, 1], 1.0])
    yield Case("a logit of 0, and one of -inf", [torch.tensor([0.0, -torch.inf, 3.0]), [0, 1], 2.0])
    yield Case("a penalty of 0.5, which makes tokens more likely", [torch.tensor([1.0, -2.0, 3.0]), [1, 2], 0.5])
    yield Case("ids in a tuple, the last one included", [torch.tensor([1.0, -2.0, 3.0]), (2, 0), 1.3])
    yield Case("logits in bfloat16", [torch.tensor([1.0, -2.0, 3.0]).bfloat16(), [0, 1], 2.0])


def _variant(logits: Tensor, seen: Sequence[int], penalty: float, **wrong: bool) -> Tensor:
    out = logits if wrong.get("in_place") else logits.clone()
    for token in seen if wrong.get("repeated") else sorted(set(seen)):
        if wrong.get("subtracted"):
            out[token] -= penalty
        elif out[token] < 0 and not wrong.get("always_divided"):
            out[token] *= penalty
        else:
            out[token] /= penalty
    return out


def _mistaken(name: str) -> Callable[..., Any]:
    def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
        return _variant(logits, seen, penalty, **{name: True})

    return penalise_repetition


EXERCISE = Exercise(
    stub=penalise_repetition,
    reference="transformer.logits_processors:penalise_repetition",
    cases=cases,
    hints=(
        "Begin with a copy of the logits. Which ids must change, each once?",
        "set(seen) has each id once. For each: divide if the logit is above 0, otherwise multiply.",
        "ids = torch.tensor(sorted(set(seen))); scores = logits[ids]; logits.scatter(0, ids, torch.where(scores < 0, scores "
        "* penalty, scores / penalty)). Return early where `seen` is empty.",
    ),
    mistakes=(
        Mistake(
            _mistaken("always_divided"),
            "a negative logit that is divided comes nearer to 0, which makes the token more likely: multiply it",
        ),
        Mistake(_mistaken("repeated"), "a token is penalised once, however often it occurred"),
        Mistake(_mistaken("subtracted"), "this penalty divides; the presence penalty subtracts"),
        Mistake(_mistaken("in_place"), "the given logits are changed; work on a copy"),
    ),
)

"""Exercise 3.7: Nucleus sampling (top-p)."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al., 2020).

    Sort the tokens from the most likely down (equal ones in any order). Keep a token if the tokens before it together
    have less than p. So the most likely token always stays, and the token with which the sum reaches p stays too.

    Args:
        logits: (..., vocab), not sorted.
        p: above 0; from 1 on all tokens are kept.

    Returns:
        Logits, -inf where a token was dropped.

    >>> [round(p, 1) for p in keep_top_p(torch.tensor([0.1, 0.6, 0.3]).log(), 0.7).exp().tolist()]
    [0.0, 0.6, 0.3]
    """
    raise NotImplementedError("Exercise 3.7: keep the nucleus")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """In order; out of order; a small p; 1; a batch; a sum of exactly p."""
    yield Case("probabilities 0.5, 0.3, 0.15, 0.05 with p = 0.7", [torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), 0.7])
    yield Case("the same, out of order", [torch.tensor([0.05, 0.5, 0.15, 0.3]).log(), 0.7])
    yield Case(
        "p = 0.1, less than the probability of the most likely token", [torch.tensor([0.2, 0.5, 0.3]).log(), 0.1]
    )
    yield Case("p = 1", [torch.tensor([0.2, 0.5, 0.3]).log(), 1.0])
    batch = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    yield Case("three rows of 20 logits, p = 0.9", [batch, 0.9])
    yield Case(
        "four tokens of probability 0.25 with p = 0.5: how many stay",
        [torch.zeros(4), 0.5],
        observe=lambda result, _: int((result > -torch.inf).sum()),
    )
    yield Case(
        "p = 1, where the first token has all but 2e-13 of the probability", [torch.tensor([30.0, 0.0, 0.0]), 1.0]
    )
    yield Case("logits whose exponentials do not sum to 1", [torch.tensor([5.0, 4.0, 6.0, 1.0]), 0.8])
    yield Case("p = 1.5, which keeps all", [torch.tensor([30.0, 0.0, 0.0]), 1.5])
    yield Case("logits near 1,000, where exp overflows", [torch.tensor([1000.0, 998.0, 1001.0]), 0.7])
    yield Case("a token that was dropped before", [torch.tensor([1.0, -torch.inf, 2.0]), 0.7])
    yield Case("a vocabulary of one token", [torch.tensor([3.0]), 0.5])
    yield Case("a batch with two axes", [batch.view(3, 2, 10).clone(), 0.6])
    large = torch.randn(2, 2000, generator=torch.Generator().manual_seed(1))
    yield Case("2,000 tokens of similar probability, p = 0.9", [large, 0.9])
    yield Case("2,000 tokens, a few of them likely", [5 * large, 0.6])


def _variant(logits: Tensor, p: float, **wrong: bool) -> Tensor:
    if p >= 1.0 and not wrong.get("no_early_return"):
        return logits
    ordered, indices = logits.sort(dim=-1, descending=not wrong.get("ascending"))
    probabilities = ordered.exp() if wrong.get("not_normalised") else ordered.softmax(dim=-1)
    total = probabilities.cumsum(dim=-1)
    before = total - probabilities
    dropped = before > p if wrong.get("one_more") else before >= p
    if wrong.get("without_crossing"):
        dropped = total > p
    if wrong.get("sorted"):
        return ordered.masked_fill(dropped, -torch.inf)
    if not wrong.get("not_unsorted"):
        dropped = dropped.scatter(-1, indices, dropped)
    if wrong.get("zero"):
        return logits.masked_fill(dropped, 0.0)
    return logits.masked_fill(dropped, -torch.inf)


def _mistaken(name: str) -> Callable[..., Any]:
    def keep_top_p(logits: Tensor, p: float) -> Tensor:
        return _variant(logits, p, **{name: True})

    return keep_top_p


EXERCISE = Exercise(
    stub=keep_top_p,
    reference="transformer.logits_processors:keep_top_p",
    cases=cases,
    hints=(
        "Sort from most to least likely. Then the question is about sums of probabilities from the left.",
        "cumsum includes the token itself. Subtract the token's own probability to get the sum of the more likely tokens. "
        "Drop where that is >= p. Then move the answer back to the places from before sorting.",
        "ordered, indices = logits.sort(descending=True); q = ordered.softmax(-1); drop = q.cumsum(-1) - q >= p; "
        "logits.masked_fill(drop.scatter(-1, indices, drop), -torch.inf).",
    ),
    mistakes=(
        Mistake(
            _mistaken("without_crossing"), "the token with which the sum reaches p stays: look at the sum before it"
        ),
        Mistake(_mistaken("ascending"), "sort from the most likely on: descending=True"),
        Mistake(_mistaken("zero"), "a dropped token has the logit -inf; with 0 it can still be drawn"),
        Mistake(_mistaken("not_unsorted"), "the result in sorted order must be moved back to the original places"),
        Mistake(_mistaken("sorted"), "the logits come back in sorted order; each must stay at its token's place"),
        Mistake(
            _mistaken("one_more"), "a token is kept if those before it have *less* than p: at exactly p it is dropped"
        ),
        Mistake(
            _mistaken("no_early_return"),
            "from p = 1 on all tokens are kept: a sum of floats may reach 1 before the last token, so check this first",
        ),
        Mistake(_mistaken("not_normalised"), "logits become probabilities by a softmax, not by exp alone"),
    ),
)

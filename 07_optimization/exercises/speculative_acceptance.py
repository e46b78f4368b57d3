"""Exercise 7.7: Accept a guess or replace it, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from transformer.sampling import draw_token


def accept_or_replace(
    probabilities: Tensor, guess: int, guessed_with: Tensor | None, generator: torch.Generator
) -> tuple[int, bool]:
    """Accept a guess x with probability min(1, p(x) / q(x)); otherwise draw from max(0, p - q), normalised.

    The resulting token then has the distribution p for any q (Leviathan et al., 2023). The reason: x is the result as an
    accepted guess with probability q(x) · min(1, p(x) / q(x)) = min(p(x), q(x)), which is less
    than p(x) by max(0, p(x) - q(x)).

    Draw in the following way, so that a seed gives the same text everywhere. First draw one number u from 0 to 1 by
    `torch.rand((), generator=generator, dtype=torch.float64)`, and accept if u · q(x) < p(x). Draw the replacement by
    `draw_token(weights, generator)`, only if the guess is not accepted. The weights may have any sum above 0. If p and q are
    equal except for rounding, p - q may be nowhere above 0; then draw from p.

    Args:
        probabilities: (vocab,) the model's distribution p.
        guess: the token x.
        guessed_with: (vocab,) the distribution q that x was drawn from; None for a certain guess: q(x) = 1, 0 elsewhere.
        generator: the random generator for the draws.

    Returns:
        The token, and whether it is the guess.
    """
    raise NotImplementedError("Exercise 7.7: accept or replace")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _with_the_next_number(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    # The next token is drawn with the same generator: a number too many or too few changes the rest of the text.
    return {"result": result, "next number of the generator": torch.rand((), generator=arguments[3]).item()}


def _first_number(seed: int) -> float:
    return torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()


def cases() -> Iterator[Case]:
    """Each with several seeds: too sure; not sure enough; certain guesses; p(x) = 0; p and q alike."""
    # In this order, what each mistake below draws first shows which one it is.
    seeds = [14, 9, 4, 6, 5, 0, 2, 8]
    few = torch.tensor([0.1, 0.6, 0.3])
    many = torch.tensor([0.05, 0.30, 0.10, 0.05, 0.20, 0.05, 0.20, 0.05])
    for what, p, guess, q in (
        ("p(x) = 0.6, q(x) = 0.2: always accepted", few, 1, torch.tensor([0.4, 0.2, 0.4])),
        ("p(x) = 0.05, q(x) = 0.4", many, 0, torch.tensor([0.40, 0.05, 0.20, 0.05, 0.05, 0.10, 0.10, 0.05])),
        ("p(x) = 0.3, q(x) = 0.5: accepted three times in five", few, 2, torch.tensor([0.3, 0.2, 0.5])),
        ("a certain guess with p(x) = 0.6", few, 1, None),
        ("a certain guess with p(x) = 0.1", few, 0, None),
        ("p(x) = 0: never accepted", torch.tensor([0.0, 0.6, 0.4]), 0, torch.tensor([0.5, 0.2, 0.3])),
        ("p(x) = 0 and q(x) = 0: never accepted", torch.tensor([0.0, 0.6, 0.4]), 0, torch.tensor([0.0, 0.7, 0.3])),
        ("p(x) = 0.49, q(x) = 0.5, with p - q nowhere above 0", torch.tensor([0.49, 0.5]), 0, torch.tensor([0.5, 0.5])),
    ):
        if p is many:
            order = seeds
        elif "nowhere" in what:  # the guess is refused once in fifty times
            order = [seed for seed in range(1000) if _first_number(seed) > 0.98][:4]
        else:
            order = sorted(seeds, key=lambda seed: seed not in (4, 6))
        for seed in order:
            arguments = [p.clone(), guess, None if q is None else q.clone(), torch.Generator().manual_seed(seed)]
            yield Case(f"{what} (seed {seed})", arguments, observe=_with_the_next_number)


def _accept(p: Tensor, guess: int, q: Tensor | None, generator: torch.Generator, **wrong: bool) -> tuple[int, bool]:
    dtype = torch.float32 if wrong.get("u_float32") else torch.float64
    u = torch.rand((), generator=generator, dtype=dtype).item()
    q_guess = 1.0 if q is None else float(q[guess])
    accepted = u * q_guess <= float(p[guess]) if wrong.get("equal") else u * q_guess < float(p[guess])
    if wrong.get("p_alone"):
        accepted = u < float(p[guess])
    if wrong.get("reversed"):
        accepted = u * float(p[guess]) < q_guess
    if wrong.get("eager"):
        replacement = draw_token((p - q).clamp(min=0.0) if q is not None else p, generator)
        return (guess, True) if accepted else (replacement, False)
    if accepted:
        return guess, True
    rest = p if wrong.get("in_place") else p.clone()
    if wrong.get("in_place"):
        rest -= torch.nn.functional.one_hot(torch.tensor(guess), len(p)) if q is None else q
        rest.clamp_(min=0.0)
    elif not wrong.get("from_p"):
        rest = rest - (torch.nn.functional.one_hot(torch.tensor(guess), len(p)) if q is None else q)
        rest = rest.abs() if wrong.get("absolute") else rest.clamp(min=0.0)
        if wrong.get("guess_removed_only"):
            rest = p.clone()
            rest[guess] = 0.0
    if not rest.sum() > 0.0 and not wrong.get("zeros"):
        rest = p
    if wrong.get("multinomial"):
        return int(torch.multinomial(rest, 1, generator=generator)), False
    return draw_token(rest, generator), False


def _mistaken(name: str) -> Callable[..., Any]:
    def accept_or_replace(
        probabilities: Tensor, guess: int, guessed_with: Tensor | None, generator: torch.Generator
    ) -> tuple[int, bool]:
        return _accept(probabilities, guess, guessed_with, generator, **{name: True})

    return accept_or_replace


EXERCISE = Exercise(
    stub=accept_or_replace,
    reference="optimization.engine.speculative:accept_or_replace",
    cases=cases,
    hints=(
        "Write the acceptance first; it needs two numbers, p(x) and q(x). Most guesses end there.",
        "For the replacement, take p - q and set negative numbers to 0. For a certain guess, q is 1 at x: take p with 0 at x.",
        "u = torch.rand((), generator=generator, dtype=torch.float64).item(); if u * q_x < float(p[guess]): return guess, "
        "True; return draw_token((p - q).clamp(min=0), generator), False.",
    ),
    mistakes=(
        Mistake(_mistaken("p_alone"), "the guess was drawn with q, so it is accepted with p(x) / q(x), not with p(x)"),
        Mistake(
            _mistaken("from_p"),
            "the replacement is drawn from max(0, p - q): tokens that q proposes often enough must not be drawn again",
        ),
        Mistake(_mistaken("multinomial"), "draw by draw_token, so that a seed gives the same text"),
        Mistake(
            _mistaken("u_float32"),
            "u is drawn with dtype=torch.float64; another type takes other bits of the generator",
        ),
        Mistake(
            _mistaken("eager"),
            "draw the replacement only if the guess is not accepted: another number drawn changes every later token",
        ),
        Mistake(_mistaken("in_place"), "p and q belong to the caller: compute p - q as a new tensor"),
        Mistake(
            _mistaken("zeros"),
            "p - q can be nowhere above 0, if p and q are equal except for rounding: then draw from p",
        ),
        Mistake(_mistaken("equal"), "u · q(x) < p(x), not ≤: a token with p(x) = 0 must never come out"),
        Mistake(_mistaken("absolute"), "if q is larger than p, the weight is 0, not the difference"),
        Mistake(_mistaken("guess_removed_only"), "all of q is subtracted, not only at the guess"),
        Mistake(
            _mistaken("reversed"),
            "the ratio is p(x) / q(x): a guess is always accepted if p(x) is larger than q(x)",
        ),
    ),
)

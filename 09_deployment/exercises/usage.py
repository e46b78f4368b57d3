"""Exercise 9.2: Count tokens as the bill does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployment.generation import Generation


def usage_of(generations: Sequence[Generation], n: int, prompt_only: bool = False) -> dict[str, Any]:
    """The field `usage` of an answer, as OpenAI counts.

    One request may ask for several prompts and for n choices of each. A prompt counts once, however many choices it gets;
    the tokens of every choice count.

    Args:
        generations: the generations of one answer, n for each prompt, one after the other. `generation.stats` has
            `prompt_tokens`, `generated_tokens` and `cached_tokens` (tokens of the prompt that were found in the cache).
        n: how many choices each prompt has.
        prompt_only: if True, generated tokens were not asked for and count 0.

    Returns:
        {"prompt_tokens", "completion_tokens", "total_tokens": both together, "prompt_tokens_details": {"cached_tokens": the
        sum over each prompt's first choice}}.
    """
    raise NotImplementedError("Exercise 9.2: prompts once, choices each")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from learn.exercise import Case, Exercise, Mistake


def _with_json(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    return {"usage": result, "as JSON": json.dumps(result, sort_keys=True)}


def cases() -> Iterator[Case]:
    """One choice; two choices of two prompts; two choices; only prompts; one choice of three."""

    def question(what: str, stats: Sequence[tuple[int, int, int]], n: int, *prompt_only: bool) -> Case:
        names = ("prompt_tokens", "generated_tokens", "cached_tokens")
        generations: list[Any] = [
            SimpleNamespace(stats=SimpleNamespace(**dict(zip(names, s, strict=True)))) for s in stats
        ]
        return Case(
            f"{what}; (prompt, generated, cached): {', '.join(map(str, stats))}",
            [generations, n, *prompt_only],
            observe=_with_json,
        )

    yield question("one prompt, one choice", [(5, 7, 2)], 1)
    four = [(5, 7, 0), (5, 9, 4), (3, 1, 1), (3, 2, 2)]
    yield question("two prompts, two choices of each", four, 2)
    yield question("one prompt, two choices", [(5, 7, 2), (5, 9, 4)], 2)
    yield question("only the prompts were asked for", four, 2, True)
    yield question("three prompts, one choice of each", [(5, 7, 2), (4, 1, 0), (6, 3, 5)], 1)


def _usage(generations: Sequence[Generation], n: int, prompt_only: bool, **wrong: bool) -> dict[str, Any]:
    firsts = generations[::n]
    if wrong.get("every_choice"):
        firsts = generations
    if wrong.get("first_prompt") or wrong.get("first_n"):
        firsts = generations[: n if wrong.get("first_n") else 1]
    counted = generations[::n] if wrong.get("first_choice") else generations
    prompt = sum(generation.stats.prompt_tokens for generation in firsts)
    completion = sum(generation.stats.generated_tokens for generation in counted)
    if prompt_only and not wrong.get("always_counted"):
        completion = 0
    if wrong.get("divided"):
        prompt = sum(generation.stats.prompt_tokens for generation in generations) / n  # type: ignore[assignment]
    cached = sum(g.stats.cached_tokens for g in (generations if wrong.get("all_cached") else firsts))
    return {
        "prompt_tokens": prompt - cached if wrong.get("cached_free") else prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _mistaken(name: str) -> Callable[..., Any]:
    def usage_of(generations: Sequence[Generation], n: int, prompt_only: bool = False) -> dict[str, Any]:
        return _usage(generations, n, prompt_only, **{name: True})

    return usage_of


EXERCISE = Exercise(
    stub=usage_of,
    reference="deployment.routes.answering:usage_of",
    cases=cases,
    hints=(
        "Which of the generations is the first of its prompt?",
        "Every n-th is: generations[::n]. Sum prompt and cached tokens over these, and generated tokens over all.",
        "prompt = sum(g.stats.prompt_tokens for g in generations[::n]); completion = 0 if prompt_only else "
        "sum(g.stats.generated_tokens for g in generations).",
    ),
    mistakes=(
        Mistake(
            _mistaken("cached_free"), "tokens found in the cache are prompt tokens too; they are only listed again"
        ),
        Mistake(_mistaken("every_choice"), "a prompt counts once, however many choices it gets"),
        Mistake(_mistaken("first_choice"), "the tokens of every choice count"),
        Mistake(_mistaken("all_cached"), "cached tokens are counted once for each prompt, from its first choice"),
        Mistake(_mistaken("first_prompt"), "there may be several prompts: every n-th generation begins one"),
        Mistake(_mistaken("divided"), "tokens are whole numbers: / gives 12.0; take every n-th instead"),
        Mistake(_mistaken("first_n"), "the first n are choices of the same prompt; take every n-th"),
        Mistake(_mistaken("always_counted"), "with prompt_only, generated tokens count 0"),
    ),
)

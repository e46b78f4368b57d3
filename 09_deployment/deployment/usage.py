"""Counting the tokens of an answer, as OpenAI does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployment.generation import Generation


def usage_of(generations: Sequence[Generation], n: int, prompt_only: bool = False) -> dict[str, Any]:
    """The field `usage`.

    Args:
        generations: of one answer, `n` for each prompt one after the other.
        n: choices; a prompt counts once.
        prompt_only: the generated tokens were not asked for.
    """
    prompt = sum(generation.stats.prompt_tokens for generation in generations[::n])
    completion = 0 if prompt_only else sum(generation.stats.generated_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(g.stats.cached_tokens for g in generations[::n])},
    }

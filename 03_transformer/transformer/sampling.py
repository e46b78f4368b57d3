"""From logits to the next token: greedy, temperature, top-k, top-p."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from transformer.gpt_model import GPTModel

MAX_TOKENS = 1_000_000  # of one generation: more is a typing error


@dataclass(frozen=True)
class SamplingParameters:
    """How to choose tokens.

    Args:
        max_tokens: the most tokens to generate.
        temperature: divides the logits; below 1 sharpens, above 1 flattens, 0 is greedy.
        top_k: keep only the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens that together reach this probability; 1 keeps all.
        seed: seed of the draw; null draws differently every time.
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens must be between 1 and {MAX_TOKENS:,}, got {self.max_tokens:,}")
        if not 0.0 <= self.temperature <= 100.0:  # also false for nan
            raise ValueError(f"temperature must be between 0 and 100, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")

    def generator(self) -> torch.Generator:
        """A source of randomness started from the seed.

        It lives on the CPU whatever the model is on, so that a seed means the same everywhere.
        """
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest logits to -inf (Fan et al., 2018). Ties with the k-th stay.

    Args:
        logits: (..., vocab).
        k: how many to keep; 0 or more than the vocabulary keeps all.
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    kth = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al., 2020).

    Args:
        logits: (..., vocab).
        p: above 0; the most likely token always stays.
    """
    if p >= 1.0:
        return logits
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # probability of the more likely tokens
    dropped = (before >= p).scatter(-1, indices, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def sample_next_token(logits: Tensor, parameters: SamplingParameters, generator: torch.Generator) -> int:
    """Choose one token.

    Args:
        logits: (vocab,) of any float type, on any device.
        parameters: temperature first, then top-k, then top-p, as is customary.
        generator: on the CPU; see `SamplingParameters.generator`.
    """
    logits = logits.float().cpu()
    if parameters.temperature == 0.0:
        return int(logits.argmax())
    logits = keep_top_p(keep_top_k(logits / parameters.temperature, parameters.top_k), parameters.top_p)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))


def shift_context(window: list[int], context_length: int) -> list[int]:
    """Make room when the context is full: keep the newer half.

    Dropping one token at a time would keep more, but every key and value depends on where its
    token stands in the window, so a cache would have to be rebuilt for every token. Halving
    rebuilds it once in context_length / 2 tokens.
    """
    return window if len(window) < context_length else window[-(context_length // 2) or -1 :]


@torch.inference_mode()
def generate(model: GPTModel, prompt_ids: list[int], parameters: SamplingParameters) -> Iterator[int]:
    """Generate token ids with the plain forward pass, computing every position anew for each token.

    The simplest decoder that is right, and the reference for the cached one of stage 7. Text may
    outgrow the context; see `shift_context`.

    Args:
        model: in evaluation mode.
        prompt_ids: at least one id, at most `context_length`.
        parameters: how to choose, and how many.

    Yields:
        One id at a time.
    """
    window = list(prompt_ids)
    generator = parameters.generator()
    for _ in range(parameters.max_tokens):
        logits = model(torch.tensor([window], device=model.device), last_only=True)
        token = sample_next_token(logits[0, -1], parameters, generator)
        yield token
        window = [*shift_context(window, model.config.context_length), token]

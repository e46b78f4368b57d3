"""Speculative decoding: guess several tokens cheaply, then check them all in one pass of the model.

Decoding reads every weight to generate one token. Checking k guesses also reads them once, so a right guess costs
almost nothing. The quality does not change either: with the rule of `accept_or_replace` the text has exactly the
distribution of the model alone (Leviathan et al., 2023: "Fast Inference from Transformers via Speculative
Decoding"; Chen et al., 2023).

There are two proposers. `PromptLookup` looks for the place where the last few tokens occurred before, and guesses the
tokens that followed there. It works well for summaries, edits and code. `DraftModel` asks a smaller model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from optimization.engine.request import Request
from optimization.kv_cache import ContiguousKVCache
from transformer.gpt_model import GPTModel
from transformer.sampling import draw_token, most_likely, process_logits, require_finite


@dataclass(frozen=True)
class Proposal:
    """Guessed tokens.

    Args:
        tokens: the guesses, in order.
        probabilities: for each guess, the distribution (vocab,) it was drawn from; None if the guesses were not drawn.
    """

    tokens: list[int] = field(default_factory=list)
    probabilities: list[Tensor] | None = None


NO_PROPOSAL = Proposal()


class Proposer(ABC):
    """Guesses the next tokens of a request."""

    @abstractmethod
    def propose(self, request: Request, limit: int) -> Proposal:
        """Guess at most `limit` tokens that come after `request.tokens`.

        Args:
            request: it is only read; nothing but its generator changes.
            limit: at least 1.
        """

    def forget(self, request: Request) -> None:  # noqa: B027 - a proposer may keep nothing
        """The request has left the engine: drop what was kept for it."""


def accept_or_replace(
    probabilities: Tensor, guess: int, guessed_with: Tensor | None, generator: torch.Generator
) -> tuple[int, bool]:
    """Accept a guess x with probability min(1, p(x) / q(x)); otherwise draw from max(0, p - q), normalised.

    The result is x with probability q(x) min(1, p(x) / q(x)) + P(rejected) · max(0, p(x) - q(x)) / Z. The
    first term is min(p, q), and P(rejected) = 1 - Σ min(p, q) = Z. So the sum is min(p, q) + max(0, p - q) = p.

    Args:
        probabilities: (vocab,) the model's distribution p.
        guess: the proposed token.
        guessed_with: (vocab,) the distribution q it was drawn from; None if it was not drawn: then q(guess) = 1.
        generator: on the CPU.

    Returns:
        The token, and whether it is the guess.
    """
    draw = torch.rand((), generator=generator, dtype=torch.float64).item()
    q = 1.0 if guessed_with is None else float(guessed_with[guess])
    if draw * q < float(probabilities[guess]):
        return guess, True
    rest = probabilities.clone()
    if guessed_with is None:
        rest[guess] = 0.0
    else:
        rest = (rest - guessed_with).clamp(min=0.0)
    if float(rest.sum()) <= 0.0:  # p and q are equal except for rounding
        rest = probabilities
    return draw_token(rest, generator), False


class PromptLookup(Proposer):
    """Guesses that the same tokens will follow as last time (Saxena, 2023: "Prompt Lookup Decoding").

    Args:
        num_tokens: the most guesses at once. A wrong guess costs a little arithmetic.
        longest: how many last tokens to look for. If they did not occur before, one fewer is tried, down to `shortest`.
        shortest: see `longest`.

    Raises:
        ValueError: a size is below 1, or `shortest` is above `longest`.
    """

    def __init__(self, num_tokens: int = 8, longest: int = 4, shortest: int = 2):
        if num_tokens < 1 or not 1 <= shortest <= longest:
            raise ValueError(
                f"prompt lookup needs num_tokens >= 1 and 1 <= shortest <= longest, got {num_tokens}, {shortest}, {longest}"
            )
        self._num_tokens, self._lengths = num_tokens, range(longest, shortest - 1, -1)

    def propose(self, request: Request, limit: int) -> Proposal:
        """See `Proposer.propose`."""
        # Each token is four bytes, because a search in bytes is as fast as the memory; a loop over a list is not.
        text = torch.tensor(request.tokens, dtype=torch.int32).numpy().tobytes()
        for length in self._lengths:
            ending = text[-4 * length :]
            at = text.rfind(ending, 0, len(text) - 4)
            while at > 0 and at % 4:  # a match that does not begin at a token does not count
                at = text.rfind(ending, 0, at + len(ending) - 1)
            if at >= 0:
                first = at // 4 + length
                return Proposal(request.tokens[first : first + min(limit, self._num_tokens)])
        return NO_PROPOSAL


class DraftModel(Proposer):
    """Guesses with a smaller model that has the same vocabulary.

    It draws its guesses with the request's own sampling parameters, such as the temperature. The closer the two
    distributions are, the more guesses are accepted.

    Args:
        model: the smaller model.
        num_tokens: the most guesses at once.
        vocab_size: how many ids the tokenizer has; None if it has as many as the model.

    Raises:
        ValueError: `num_tokens` is below 1, or the model has fewer ids than the tokenizer.
    """

    def __init__(self, model: GPTModel, num_tokens: int = 4, vocab_size: int | None = None):
        self._vocab_size = vocab_size or model.token_embedding.num_embeddings
        if num_tokens < 1:
            raise ValueError(f"a draft model must guess at least 1 token, got {num_tokens}")
        if self._vocab_size > model.token_embedding.num_embeddings:
            raise ValueError(
                f"the draft model has {model.token_embedding.num_embeddings} ids, the tokenizer {self._vocab_size}: "
                "both models need the same tokenizer"
            )
        self._model, self._num_tokens = model, num_tokens
        self._seen: dict[int, tuple[ContiguousKVCache, list[int]]] = {}  # for each request, its cache and what is in it

    def propose(self, request: Request, limit: int) -> Proposal:
        """See `Proposer.propose`."""
        limit = min(limit, self._num_tokens, self._model.config.context_length - len(request.tokens))
        if limit < 1:
            return NO_PROPOSAL
        if request.number not in self._seen:
            weight, config = self._model.token_embedding.weight, self._model.config
            longest = len(request.prompt) + request.parameters.max_tokens
            config = replace(config, context_length=min(config.context_length, longest))  # no room for more is needed
            cache = ContiguousKVCache(config, dtype=weight.dtype, device=weight.device)
            self._seen[request.number] = (cache, [])
        cache, seen = self._seen[request.number]
        cache.length = _common_length(seen, request.tokens[:-1])  # forget guesses that were wrong
        tokens, distributions = list[int](), list[Tensor]()
        feed = request.tokens[cache.length :]
        for _ in range(limit):
            ids = torch.tensor([feed], device=self._model.device)
            logits = self._model(ids, cache, last_only=True)[0, -1, : self._vocab_size].float().cpu()
            require_finite(logits)
            scores = process_logits(logits, request.parameters, request.prompt, [*request.generated, *tokens])
            if request.parameters.temperature == 0.0:
                token = most_likely(scores)
            else:
                distributions.append(scores.softmax(dim=-1))
                token = draw_token(distributions[-1], request.generator)
            tokens.append(token)
            feed = [token]
        seen[:] = request.tokens + tokens[:-1]
        return Proposal(tokens, distributions or None)

    def forget(self, request: Request) -> None:
        """See `Proposer.forget`."""
        self._seen.pop(request.number, None)


def _common_length(first: list[int], second: list[int]) -> int:
    """How many tokens at their beginning two lists have in common."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))

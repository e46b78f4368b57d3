"""What the logits of a step mean for a request: its next tokens, and what the model thought of them."""

from __future__ import annotations

import torch
from torch import Tensor

from optimization.engine.events import TokenLogprobs
from optimization.engine.request import Request
from optimization.engine.scheduler import ScheduledRequest
from optimization.engine.speculative import Proposal, accept_or_replace
from transformer.config import GPTConfig
from transformer.sampling import most_likely, process_logits, require_finite, sample_next_token, shift_context


def apply_logits(item: ScheduledRequest, logits: Tensor, config: GPTConfig) -> None:
    """Record what was computed for a request. If all of its tokens were computed, choose its next tokens.

    Args:
        item: the request, and what it did in this step.
        logits: its rows; see `ModelRunner.run`.
        config: the model's configuration.

    Raises:
        LogitsError: the logits are nan or infinite.
    """
    request, table, stats = item.request, item.request.table, item.request.handle.stats
    start, computed, completes = table.length, table.length + item.count, item.completes
    if stats.generated_tokens:
        stats.decoding_passes += 1
    if request.wants_prompt_logits:
        _report_prompt(request, logits, start)
    chosen, accepted = list[tuple[int, TokenLogprobs | None]](), list[int]()
    if completes:
        guesses = item.proposal.tokens
        chosen = choose_tokens(logits[len(logits) - 1 - len(guesses) :], request, item.proposal)
        accepted = [token for token, _ in chosen[:-1]]
        stats.proposed_tokens += len(guesses)
        stats.accepted_tokens += len(accepted)
    table.commit(request.tokens + accepted, computed + len(accepted))
    if config.window_of_all is not None:
        table.evict(config.window_of_all, config.attention_sinks)
    for token, logprobs in chosen:
        if token in request.end_ids:
            request.finish("stop")
            return
        kept = shift_context(request.tokens, config.context_length)
        if len(kept) < len(request.tokens):  # the positions have changed, so the kept tokens are computed again
            stats.context_shifts += 1
            table.release()
            request.tokens = list(kept)
            request.prompt_length = len(kept) + 1  # the new token comes with them
        request.emit(token, logprobs)
        if request.finished:
            return


def _report_prompt(request: Request, logits: Tensor, start: int) -> None:
    """Report tokens of the prompt, except those reported before a preemption."""
    require_finite(logits)
    report = request.handle.prompt_logprobs
    for row, token in zip(logits[len(report) - start :], request.prompt[len(report) + 1 :], strict=False):
        report.append(logprobs_of(row, token, request.logprobs or 0))


def choose_tokens(logits: Tensor, request: Request, proposal: Proposal) -> list[tuple[int, TokenLogprobs | None]]:
    """Choose the next token, and further tokens as long as the proposal was right.

    Args:
        logits: (1 + proposed, vocab), after the last token and after each proposed one.
        request: gives the parameters, penalties and random numbers. Only its generator changes.
        proposal: tokens that have already passed through the model.

    Returns:
        Between 1 and 1 + proposed tokens; all but the last were proposed.
    """
    chosen: list[tuple[int, TokenLogprobs | None]] = []
    generated = list(request.generated) if proposal.tokens else request.generated
    for i, row in enumerate(logits):
        accepted = False
        if i < len(proposal.tokens):
            guess = proposal.tokens[i]
            require_finite(row)
            scores = process_logits(row, request.parameters, request.prompt, generated)
            if request.parameters.temperature == 0.0:
                token = most_likely(scores)
                accepted = token == guess
            else:
                guessed_with = None if proposal.probabilities is None else proposal.probabilities[i]
                token, accepted = accept_or_replace(scores.softmax(dim=-1), guess, guessed_with, request.generator)
        else:
            token = sample_next_token(row, request.parameters, request.generator, request.prompt, generated)
        chosen.append((token, None if request.logprobs is None else logprobs_of(row, token, request.logprobs)))
        if not accepted:
            break
        generated.append(token)
    return chosen


def logprobs_of(logits: Tensor, token: int, num_top: int) -> TokenLogprobs:
    """What a distribution says about a token.

    Args:
        logits: (vocab,).
        token: the one that was chosen.
        num_top: how many of the likeliest tokens to report.
    """
    # The logarithm of a probability that is too small for its type is -inf, which JSON does not have.
    log_probabilities = logits.log_softmax(dim=-1).clamp(min=torch.finfo(logits.dtype).min)
    best = log_probabilities.topk(num_top)
    entropy = -(log_probabilities.exp() * log_probabilities).sum()
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(float(log_probabilities[token]), top, float(entropy))

"""ln p(continuation | context): how likely a model finds an answer to a question.

BPE may merge characters across the place where the context ends and the continuation begins. As in
lm-evaluation-harness, both are encoded together, and the ids are cut at the length of the context's own encoding.
Spaces at the end of the context go to the continuation, because a word and the space before it are one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.sequence_scores import score_sequences
from groundwork.user_errors import UserError
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class ContinuationScore:
    """How likely a continuation is.

    Args:
        log_probability: ln p of all its tokens.
        num_tokens: how many tokens it has.
        is_greedy: whether each token was the most likely one, so that greedy decoding would write it.
        was_cut: whether the beginning of the context was dropped to fit the model.
    """

    log_probability: float
    num_tokens: int
    is_greedy: bool
    was_cut: bool


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a context and of its continuation, without an end-of-text token in front.

    Args:
        tokenizer: the model's tokenizer.
        context: may be empty.
        continuation: not empty.
    """
    stripped = context.rstrip()
    continuation, context = context[len(stripped) :] + continuation, stripped
    whole = tokenizer.encode(context + continuation)
    split = len(tokenizer.encode(context)) if context else 0
    return whole[:split], whole[split:]


def score_continuations(
    model: GPTModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    placement: Placement,
    begin_with_end_of_text: bool = True,
) -> list[ContinuationScore]:
    """Score every (context, continuation) pair.

    If the context and the continuation together are longer than the model's context, the oldest tokens are dropped,
    and the score says so.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        pairs: contexts and continuations.
        placement: device and precision.
        begin_with_end_of_text: put first what the model's texts begin with, such as `<|endoftext|>`.

    Raises:
        UserError: a continuation has no tokens, or more than the model reads, or there is nothing before it.
    """
    limit = model.config.context_length + 1  # the last token is predicted, and not read
    separator = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    sequences, counted, cut = [], [], []
    for context, continuation in pairs:
        before, after = encode_pair(tokenizer, context, continuation)
        if begin_with_end_of_text:
            before = tokenizer.begin_ids + before
        before = before or separator
        if not after or len(after) >= limit:
            raise UserError(
                f"the answer {continuation[:40]!r} has {len(after)} tokens; between 1 and {limit - 1} can be scored"
            )
        if not before:
            raise UserError(f"nothing stands before {continuation[:40]!r}, and the tokenizer has no end-of-text token")
        sequence = before + after
        cut.append(len(sequence) > limit)
        sequences.append(sequence[-limit:])
        counted.append(len(after))
    return [
        ContinuationScore(-float(score.nats.sum()), count, bool((score.top_ids == ids[-count:]).all()), was_cut)
        for score, ids, count, was_cut in zip(
            score_sequences(model, sequences, counted, placement), sequences, counted, cut, strict=True
        )
    ]

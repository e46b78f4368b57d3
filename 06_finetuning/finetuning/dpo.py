"""Preferences: learn from which of two answers is better.

A reward model (`reward_model`) gives each answer a score r such that σ(r_chosen - r_rejected) is the probability
of the preference. DPO (Rafailov et al., 2023) needs none. The policy π that maximises a reward while staying
near a reference π₀ is known in closed form: π ∝ π₀ e^(r/β). Solved for the reward,
r = β ln(π/π₀) + a constant of the prompt, and the constant cancels in the difference:

    loss = -ln σ(β [ln π(c)/π₀(c) - ln π(r)/π₀(r)])

so the language model is its own reward model. IPO (Azar et al., 2023) takes (margin - 1/2β)² instead of
the logarithm. Its optimum is at a finite margin, so it does not push the margin further for ever.

The log-probabilities of the reference do not change during training, so they are computed once before it. A second
model in memory is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetuning.data.chat_format import ChatFormat, ConversationError, EncodedConversation, Message
from finetuning.data.conversation_batches import pack_rows
from finetuning.data.instruction_data import Preference
from finetuning.data.shuffled_source import ShuffledSource
from groundwork.user_errors import require_choices
from tokenizer.interface import Tokenizer
from training.data.batches import IGNORED, Batch
from training.loss import cross_entropy
from training.placement import Placement
from training.validation import evaluating
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class PreferenceConfig:
    """How strongly preferences act.

    Args:
        loss: dpo or ipo.
        beta: how near the model stays to the reference; with a small value it may move far.
        label_smoothing: share of preferences that are assumed to be the wrong way round (dpo only).
    """

    loss: Literal["dpo", "ipo"] = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_choices(self, "preference")
        if not self.beta > 0:
            raise ValueError(f"preference.beta must be above 0, got {self.beta}")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"preference.label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}")


def preference_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    config: PreferenceConfig,
) -> Tensor:
    """The loss of DPO or IPO, the mean over pairs.

    Args:
        policy_chosen: (pairs,) log-probability of each better answer under the model; for ipo the mean
            over its tokens.
        policy_rejected: the same of the worse answers.
        reference_chosen: the same under the reference.
        reference_rejected: the same under the reference.
        config: see `PreferenceConfig`.

    Raises:
        ValueError: the four do not have the same shape.
    """
    shapes = [tuple(x.shape) for x in (policy_chosen, policy_rejected, reference_chosen, reference_rejected)]
    if len(set(shapes)) > 1:
        raise ValueError(f"each pair needs four log-probabilities, got the shapes {', '.join(map(str, shapes))}")
    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    if config.loss == "ipo":
        return (margin - 1 / (2 * config.beta)).square().mean()
    scaled, smoothing = config.beta * margin, config.label_smoothing
    return (-(1 - smoothing) * F.logsigmoid(scaled) - smoothing * F.logsigmoid(-scaled)).mean()


def answer_log_probabilities(model: GPTModel, tensors: dict[str, Tensor], mean: bool = False) -> Tensor:
    """Log-probability of the learned tokens of each row.

    Args:
        model: of the rows' tokenizer.
        tensors: from `pack_rows`, with one conversation in each row.
        mean: divide by the number of tokens.

    Returns:
        (rows,) in nats.
    """
    nats = token_log_probabilities(model, tensors)
    learned = tensors["targets"] != IGNORED
    total = nats.sum(dim=1)
    return total / learned.sum(dim=1) if mean else total


def token_log_probabilities(model: GPTModel, tensors: dict[str, Tensor]) -> Tensor:
    """Log-probability of each learned token, (rows, time) in nats, 0 elsewhere; see `answer_log_probabilities`."""
    hidden = model.hidden_states(tensors["inputs"], positions=tensors["positions"], allowed=tensors["allowed"])
    targets = tensors["targets"]
    learned = targets != IGNORED
    nats = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
    return nats.masked_scatter(learned, -cross_entropy(model.logits(hidden[learned]), targets[learned]))


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one conversation, as tokens."""

    chosen: EncodedConversation
    rejected: EncodedConversation


def encode_preferences(
    preferences: Sequence[Preference], template: ChatFormat, tokenizer: Tokenizer, context_length: int
) -> tuple[list[EncodedPair], list[str]]:
    """Encode pairs for a model; only the last answer is learned from.

    Returns:
        The pairs, and for each pair that does not fit the context, its number and the reason.
    """
    pairs, problems = [], []
    for number, preference in enumerate(preferences, start=1):
        try:
            prompt_length = len(template.encode(preference.prompt, tokenizer, generation_prompt=True).ids)
            both = []
            for answer in (preference.chosen, preference.rejected):
                encoded = template.encode([*preference.prompt, Message("assistant", answer)], tokenizer)
                if len(encoded.ids) > context_length:
                    raise ConversationError(f"{len(encoded.ids)} tokens, the context is {context_length}")
                learned = [i >= prompt_length and learn for i, learn in enumerate(encoded.learned)]
                both.append(EncodedConversation(encoded.ids, learned))
            pairs.append(EncodedPair(*both))
        except ConversationError as error:
            problems.append(f"preference {number}: {error}")
    return pairs, problems


class PreferenceBatches(ShuffledSource):
    """Draws pairs with the log-probabilities of the reference.

    A batch holds the tensors of `pack_rows`, first all chosen rows, then all rejected ones, and
    `reference`, (2 · pairs,).

    Args:
        pairs: what to learn from.
        reference: (pairs, 2) log-probabilities of chosen and rejected under the reference.
        seed: decides the order.
    """

    what = "preference"

    def __init__(self, pairs: Sequence[EncodedPair], reference: Tensor, seed: int):
        super().__init__(len(pairs), seed)
        self.pairs, self.reference = pairs, reference

    def make_batch(self, chosen: list[int]) -> Batch:
        """The tensors of some pairs."""
        batch = _pair_rows([self.pairs[i] for i in chosen])
        reference = self.reference[chosen].T.reshape(-1)
        return Batch({**batch.tensors, "reference": reference}, float(len(chosen)))


@torch.no_grad()
def reference_log_probabilities(
    model: GPTModel, pairs: Sequence[EncodedPair], config: PreferenceConfig, placement: Placement, batch_size: int = 8
) -> Tensor:
    """(pairs, 2) log-probabilities of both answers under the model as it is now."""
    found = []
    with evaluating(model), placement.autocast():
        for start in range(0, len(pairs), batch_size):
            batch = _pair_rows(pairs[start : start + batch_size]).to(placement.device)
            both = answer_log_probabilities(model, batch.tensors, mean=config.loss == "ipo")
            found.append(both.view(2, -1).T.cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of a batch of pairs. A `training.data.batches.LossFunction`.

    Args:
        config: see `PreferenceConfig`.
    """

    config: PreferenceConfig

    def __call__(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        """The mean over pairs."""
        assert isinstance(model, GPTModel)
        policy = answer_log_probabilities(model, tensors, mean=self.config.loss == "ipo")
        (chosen, rejected), (ref_chosen, ref_rejected) = policy.view(2, -1), tensors["reference"].view(2, -1)
        return preference_loss(chosen, rejected, ref_chosen, ref_rejected, self.config)


@torch.no_grad()
def preference_accuracy(
    model: GPTModel, pairs: Sequence[EncodedPair], reference: Tensor, config: PreferenceConfig, placement: Placement
) -> float:
    """Share of pairs whose better answer has gained more probability than the worse one since the reference."""
    now = reference_log_probabilities(model, pairs, config, placement)
    gain = now - reference
    return (gain[:, 0] > gain[:, 1]).float().mean().item()


def _pair_rows(pairs: Sequence[EncodedPair]) -> Batch:
    conversations = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    longest = max(len(conversation.ids) for conversation in conversations) - 1
    return pack_rows([[conversation] for conversation in conversations], longest)

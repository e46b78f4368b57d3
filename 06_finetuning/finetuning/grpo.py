"""GRPO: reinforcement learning with rewards that a program can check.

Sample a group of answers to a question from the model itself, check each, and make those that are better than
average more likely (Shao et al., 2024: "DeepSeekMath"). The group's mean replaces the value network of PPO, and
its standard deviation makes easy and hard questions count the same:

    A_i = (r_i - mean(r)) / std(r)

    loss = - mean over answers of the mean over tokens of
             min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) - β (π₀/π - ln(π₀/π) - 1)

ρ = π/π_old is how much more likely a token has become since it was sampled; clipping ends the incentive
once it has moved far enough (Schulman et al., 2017: "PPO"). The last term estimates the KL divergence
from the reference π₀: it is never negative, and its mean under π is exactly that divergence (Schulman, 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetuning.adapters.lora import activate_adapter, lora_layers
from finetuning.data.chat_format import ChatFormat, EncodedConversation, Message
from finetuning.data.conversation_batches import pack_rows
from finetuning.data.shuffled_source import ShuffledSource
from finetuning.dpo import token_log_probabilities
from tokenizer.interface import Tokenizer
from training.data.batches import IGNORED, Batch
from training.placement import Placement
from training.validation import evaluating
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate_batch

# (model, prompts, parameters of each, ids that end an answer) → the answers' ids
Sampler = Callable[[GPTModel, list[list[int]], list[SamplingParameters], list[int]], list[list[int]]]


@dataclass(frozen=True)
class VerifiableTask:
    """A question whose answers a program can check.

    Args:
        messages: ends with the user.
        reward: text of an answer → how good it is, usually 0 or 1.
    """

    messages: tuple[Message, ...]
    reward: Callable[[str], float]


@dataclass(frozen=True)
class GRPOConfig:
    """How answers are sampled and how strongly rewards act.

    Args:
        group_size: answers to each question.
        max_tokens: the most tokens of an answer.
        temperature: temperature of the sampling; above 0, because otherwise all answers of a group would be the same.
        clip: ε; how far a probability may move in one step before it is no longer pushed.
        beta: weight of the KL divergence from the reference.
    """

    group_size: int = 8
    max_tokens: int = 48
    temperature: float = 1.0
    clip: float = 0.2
    beta: float = 0.02

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"grpo.group_size must be at least 2, got {self.group_size}: one answer has no rival")
        if not self.temperature > 0:
            raise ValueError(f"grpo.temperature must be above 0, got {self.temperature}")
        if not 0.0 < self.clip < 1.0 or not self.beta >= 0:
            raise ValueError(f"grpo.clip must be between 0 and 1, and beta not negative: {self.clip}, {self.beta}")


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each answer is than its group, in standard deviations; 0 where all are equal.

    Args:
        rewards: (groups, group_size).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True, correction=0) + 1e-6)


def grpo_loss(
    new: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, counted: Tensor, config: GRPOConfig
) -> Tensor:
    """The loss of the module's text.

    Args:
        new: (answers, time) log-probability of each token under the model.
        old: the same when it was sampled.
        reference: the same under the reference.
        advantages: (answers,).
        counted: boolean (answers, time): the tokens of the answers.
        config: see `GRPOConfig`.

    Raises:
        ValueError: there is not one advantage for each answer.
    """
    if advantages.shape != new.shape[:1]:
        raise ValueError(f"each of {len(new)} answers needs an advantage, got the shape {tuple(advantages.shape)}")
    ratio = (new - old).exp()
    advantage = advantages[:, None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
    difference = reference - new
    divergence = difference.exp() - difference - 1
    per_token = (gain - config.beta * divergence) * counted
    return -(per_token.sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


class RolloutBatches(ShuffledSource):
    """Samples answers from the model as it is now, and checks them.

    The reference is the model with its adapter switched off, so LoRA needs no second model; a model without
    adapters needs `reference`.

    Args:
        model: what is trained.
        tokenizer: with the template's special tokens.
        template: of the conversations.
        tasks: questions.
        config: see `GRPOConfig`.
        placement: device and precision.
        seed: decides the order and the sampling.
        reference: a frozen copy of the model as it was, for a model without adapters.
        sampler: generates answers; by default the plain forward pass, in a batch.
    """

    what = "question"

    def __init__(
        self,
        model: GPTModel,
        tokenizer: Tokenizer,
        template: ChatFormat,
        tasks: Sequence[VerifiableTask],
        config: GRPOConfig,
        placement: Placement,
        seed: int,
        reference: GPTModel | None = None,
        sampler: Sampler = generate_batch,
    ):
        super().__init__(len(tasks), seed)
        if reference is None and not any(True for _ in lora_layers(model)):
            raise ValueError("a model without LoRA needs a frozen copy of itself as the reference")
        self.model, self.reference, self.tokenizer, self.template = model, reference, tokenizer, template
        self.tasks, self.config, self.placement, self.sampler = tasks, config, placement, sampler
        self.mean_reward = 0.0  # of the last batch

    def make_batch(self, chosen: list[int]) -> Batch:
        """Answers to some questions, a group for each."""
        conversations, rewards = self._sample([self.tasks[i] for i in chosen])
        self.mean_reward = rewards.mean().item()
        longest = max(len(conversation.ids) for conversation in conversations) - 1
        batch = pack_rows([[conversation] for conversation in conversations], longest).to(self.placement.device)
        tensors = dict(batch.tensors)
        tensors["advantages"] = group_advantages(rewards).flatten().to(self.placement.device)
        tensors["old"], tensors["reference"] = self._log_probabilities(tensors)
        return Batch(tensors, float(len(conversations)))

    def _sample(self, tasks: Sequence[VerifiableTask]) -> tuple[list[EncodedConversation], Tensor]:
        size, end = self.config.group_size, self.template.end_id(self.tokenizer)
        prompts = [self.template.encode(task.messages, self.tokenizer, True).ids for task in tasks for _ in range(size)]
        first = (self.drawn - len(tasks)) * size  # every answer has a seed of its own
        parameters = [
            SamplingParameters(self.config.max_tokens, self.config.temperature, top_p=1.0, seed=self.seed + first + i)
            for i in range(len(prompts))
        ]
        with evaluating(self.model):
            answers = self.sampler(self.model, prompts, parameters, [end])
        conversations, rewards = [], []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ended = [end] if len(answer) < self.config.max_tokens else []  # stopping is a decision, and is learned too
            ids = prompt + answer + ended
            conversations.append(EncodedConversation(ids, [j >= len(prompt) for j in range(len(ids))]))
            rewards.append(float(tasks[i // size].reward(self.tokenizer.decode(answer))))
        return conversations, torch.tensor(rewards).view(len(tasks), size)

    @torch.no_grad()
    def _log_probabilities(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability of each token, under the model now and under the reference."""
        with evaluating(self.model), self.placement.autocast():
            old = token_log_probabilities(self.model, tensors)
            if self.reference is not None:
                reference = token_log_probabilities(self.reference, tensors)
            else:
                active = next(layer.active for _, layer in lora_layers(self.model) if layer.active)
                activate_adapter(self.model, None)
                reference = token_log_probabilities(self.model, tensors)
                activate_adapter(self.model, active)
        return old, reference


@dataclass(frozen=True)
class GRPOLoss:
    """The loss of a batch of answers. A `training.data.batches.LossFunction`.

    Args:
        config: see `GRPOConfig`.
    """

    config: GRPOConfig

    def __call__(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        """The mean over answers."""
        assert isinstance(model, GPTModel)
        new = token_log_probabilities(model, tensors)
        counted = tensors["targets"] != IGNORED
        return grpo_loss(new, tensors["old"], tensors["reference"], tensors["advantages"], counted, self.config)

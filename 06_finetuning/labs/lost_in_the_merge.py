"""Lab 6.B: Tuned well, and merged badly.

A small model that knows one text is fine-tuned on another with LoRA, and learns it. Then the correction is merged into the
weights, which should change only the speed. But with the function below most of what was learned is lost.
"""

from __future__ import annotations

from torch import Tensor, nn

from finetuning.adapters.lora import LoRAAdapter


def merged_weight(self: LoRAAdapter, base: nn.Linear) -> Tensor:
    """W', the one matrix that does what the layer and its adapter do together.

    With DoRA each row gets its length, `self.magnitude`.

    Args:
        self: the adapter.
        base: the layer, with `weight` (out, in).

    Returns:
        (out, in).
    """
    weight = base.weight + self.lora_b @ self.lora_a
    if self.magnitude is None:
        return weight
    return weight * (self.magnitude / weight.norm(dim=1))[:, None]


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import copy
import functools

import torch
import torch.nn.functional as F

from finetuning.adapters.lora import LoRAConfig, LoRALinear, add_lora
from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, continue_text, encode, train
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXT = 32
FIRST, SECOND = TEXT[:200], TEXT[195:330]
PROMPT = "Special cases aren"


@functools.cache
def _tuned() -> tuple[GPTModel, list[float]]:
    """The same model for both sides, with the losses of fine-tuning. The function plays no part here."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=2, num_heads=2, d_model=64))
    train(model, encode(FIRST), 40, CONTEXT)
    add_lora(model, LoRAConfig(rank=8, alpha=32.0))
    return model, train(model, encode(SECOND), 90, CONTEXT, lr=1e-2)


def measure() -> Measurement:
    """Merge a model that was fine-tuned on a new text."""
    tuned, losses = _tuned()
    model, second = copy.deepcopy(tuned), encode(SECOND)
    before, text = _loss_and_logits(model, second), continue_text(model, PROMPT, 40, CONTEXT)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.merge()
    after = _loss_and_logits(model, second)
    return {
        "loss of fine-tuning": losses,
        "loss before merging": before[0],
        "loss after merging": after[0],
        "largest difference of the logits": (after[1] - before[1]).abs().max().item(),
        f"after {PROMPT!r}, before merging": text,
        "after merging": continue_text(model, PROMPT, 40, CONTEXT),
    }


@torch.no_grad()
def _loss_and_logits(model: GPTModel, ids: Tensor) -> tuple[float, Tensor]:
    windows = ids[: len(ids) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item(), logits


def visible(file: Measurement, package: Measurement) -> bool:
    """Merging changes the logits by more than rounding."""
    name = "largest difference of the logits"
    return float(file[name]) > 0.1 > float(package[name])  # type: ignore[arg-type]


LAB = Lab(
    broken=merged_weight,
    reference="finetuning.adapters.lora:LoRAAdapter.merged_weight",
    cases=load_exercise("merged_weight").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "    weight = base.weight + self.lora_b @ self.lora_a\n",
            "    weight = base.weight + self.config.scale * (self.lora_b @ self.lora_a)\n",
        ),
    ],
    hints=(
        "Take one layer out: the adapter's forward pass on a random x, and x @ merged_weight(base).T. They differ. "
        "By how much, and is it the same everywhere?",
        "Subtract the base layer's output from both. What is left of the two is proportional: what is the factor?",
        "The forward pass multiplies the correction by self.config.scale, which is alpha / rank.",
    ),
    diagnosis=(
        "Merging is an identity, so test it as one: logits before and after should agree to rounding, but they differ "
        "a lot. In a single layer, with the base's part subtracted, the two corrections are proportional, by exactly "
        "alpha / rank: the scale was forgotten. With alpha = rank the bug is invisible, so a test with these values "
        "passes. The loss after merging lies between that of the base model and that of the tuned model. A correction "
        "with the right direction but too small a size would give such a loss."
    ),
)

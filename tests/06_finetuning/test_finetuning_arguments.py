"""Stage 6: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import pytest
import torch

from finetuning.adapters.lora import LoRAConfig, add_lora, lora_layers
from finetuning.dpo import PreferenceConfig, preference_loss
from finetuning.grpo import GRPOConfig, grpo_loss

NAN = float("nan")


@pytest.mark.parametrize("alpha", [0.0, -1.0, NAN])
def test_a_correction_of_no_size_is_refused(alpha):
    with pytest.raises(ValueError, match=r"lora\.alpha must be above 0"):
        LoRAConfig(alpha=alpha)


def test_a_list_of_patterns_is_refused():
    with pytest.raises(ValueError, match=r"lora\.pattern must be one string such as"):
        LoRAConfig(pattern=["query", "value"])


@pytest.mark.parametrize("name", ["", "a.b", "keys"])
def test_a_name_that_pytorch_cannot_hold_leaves_the_model_alone(name):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with pytest.raises(ValueError, match="an adapter cannot be called"):
        add_lora(model, LoRAConfig(rank=2, pattern="*"), name)
    assert not list(lora_layers(model)) and model[0].weight.requires_grad


def test_log_probabilities_of_other_pairs_are_not_stretched():
    a = torch.zeros(2)
    with pytest.raises(ValueError, match=r"got the shapes \(2, 1\), \(2,\), \(2,\), \(2,\)"):
        preference_loss(a[:, None], a, a, a, PreferenceConfig())
    with pytest.raises(ValueError, match=r"preference\.loss must be one of dpo, ipo; got 'kto'"):
        PreferenceConfig(loss="kto")
    with pytest.raises(ValueError, match="beta must be above 0"):
        PreferenceConfig(beta=NAN)


def test_each_answer_needs_its_advantage():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="each of 2 answers needs an advantage"):
        grpo_loss(x, x, x, torch.ones(1), x == 0, GRPOConfig())
    for setting in ({"temperature": NAN}, {"beta": NAN}):
        with pytest.raises(ValueError, match="grpo"):
            GRPOConfig(**setting)

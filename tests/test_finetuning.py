"""Stage 6: LoRA starts as the model, trains only the correction, and merges exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetuning.lora import LoRALinear, add_lora, merge_lora
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel


@pytest.fixture
def model() -> GPTModel:
    config = GPTConfig(vocab_size=50, context_length=8, num_layers=2, num_heads=4, num_kv_heads=2, d_model=32)
    return GPTModel(config).eval()


def test_lora_starts_as_the_model_and_wraps_what_matches(model: GPTModel):
    ids = torch.randint(50, (2, 8))
    before = model(ids)
    names = add_lora(model, rank=4, alpha=8)
    assert names == [f"blocks.{i}.attention.{name}" for i in (0, 1) for name in ("query", "key", "value", "output")]
    assert torch.equal(model(ids), before)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"{name}.{part}" for name in names for part in ("lora_a", "lora_b")}


def test_training_changes_the_correction_only_and_merging_keeps_the_logits(model: GPTModel):
    ids = torch.randint(50, (4, 8))
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    add_lora(model, rank=4, alpha=8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in model.named_parameters():
        original = frozen.get(name.replace(".base.", "."))
        assert original is None or torch.equal(parameter, original)
    with torch.no_grad():
        adapted = model(ids)
        merge_lora(model)
        torch.testing.assert_close(model(ids), adapted, atol=1e-5, rtol=1e-4)
    assert {name for name, _ in model.named_parameters()} == frozen.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_correction_is_the_formula():
    layer = LoRALinear(nn.Linear(6, 10), rank=3, alpha=12)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(5, 6)
    expected = F.linear(x, layer.base.weight + 12 / 3 * layer.lora_b @ layer.lora_a, layer.base.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_that_does_not_fit_is_refused_and_the_model_left_alone(rank: int, model: GPTModel):
    with pytest.raises(ValueError, match=f"between 1 and 16 for a 16 × 32 matrix, got {rank}" if rank else "got 0"):
        add_lora(model, rank=rank, alpha=8)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_a_pattern_that_matches_nothing_names_what_there_is(model: GPTModel):
    with pytest.raises(ValueError, match=r"there are: blocks\.0\.attention\.query"):
        add_lora(model, rank=4, alpha=8, pattern="layers.*")

"""Stage 6: NF4 is the same as in bitsandbytes, and a model with 4-bit weights can be fine-tuned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetuning.adapters.lora import AdapterError, LoRAConfig, add_lora
from finetuning.adapters.nf4 import dynamic_levels, nf4_levels, quantize_nf4
from finetuning.adapters.qlora import quantize_layers
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

bitsandbytes = pytest.importorskip("bitsandbytes")
functional = bitsandbytes.functional


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (300, 128), (1024, 512)])
def test_our_nf4_is_that_of_bitsandbytes(double, shape):
    weight = torch.randn(shape) * 0.03
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=double)
    ours = quantize_nf4(weight, double)
    theirs = functional.dequantize_4bit(packed, state)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()  # two a byte
    assert (ours.codes.flatten() != codes).float().mean() < 1e-4  # a tie between two levels may be rounded up or down
    difference = (ours.dequantize() - theirs).abs()
    if double:  # a scale midway between two of the 256 levels may go up or down, with its whole block
        assert (difference > 1e-6).float().mean() < 2e-3
        assert difference.max() < 0.03 * theirs.abs().max()
    else:
        assert difference.max() < 1e-7


def weight_bytes(model: nn.Module) -> int:
    """Memory of all weights as they are stored, scales of quantized layers included."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes
            if state.nested:
                total += state.state2.absmax.nbytes
    return total


def test_levels_are_those_of_bitsandbytes():
    _, state = functional.quantize_4bit(torch.randn(64, 64), quant_type="nf4", blocksize=64, compress_statistics=True)
    torch.testing.assert_close(nf4_levels(), state.code, atol=1e-6, rtol=0)
    torch.testing.assert_close(dynamic_levels(), state.state2.code, atol=1e-6, rtol=0)
    assert len(dynamic_levels()) == 256 and 0.0 in nf4_levels()


@pytest.mark.slow
def test_a_model_in_four_bits_is_small_and_learns():
    model = GPTModel(GPTConfig(vocab_size=50, context_length=16, num_layers=2, num_heads=2, d_model=128)).eval()
    ids = torch.randint(50, (4, 16))
    with torch.no_grad():
        before, full = model(ids), weight_bytes(model)
        embeddings = model.token_embedding.weight.nbytes
        quantize_layers(model)
        assert (weight_bytes(model) - embeddings) / (full - embeddings) < 0.14  # 4.127 of 32 bits, and the norms
        assert 0 < (model(ids) - before).abs().mean() < 0.2 * before.abs().mean()
    add_lora(model, LoRAConfig(rank=4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("width", [36, 96, 200])
def test_any_width_can_be_trained_and_evaluated(width):
    """bitsandbytes packs weights for a kernel of some CPUs, which takes only some sizes."""
    model = GPTModel(GPTConfig(vocab_size=50, context_length=16, num_layers=1, num_heads=2, d_model=width))
    ids = torch.randint(50, (2, 8))
    with torch.no_grad():
        before = model.eval()(ids)
        quantize_layers(model)
        assert (model(ids) - before).abs().mean() < 0.2 * before.abs().mean()
    add_lora(model, LoRAConfig(rank=2))
    model.train()(ids).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), model.train()(ids), atol=2e-2, rtol=0)


def test_impossible_quantizations_are_refused():
    model = GPTModel(GPTConfig(vocab_size=50, num_layers=1, num_heads=2, d_model=64))
    with pytest.raises(ValueError, match="no linear layer is called 'layers"):
        quantize_layers(model, "layers.*")
    quantize_layers(model)
    with pytest.raises(AdapterError, match="which are quantized"):
        add_lora(model, LoRAConfig(rank=4, dora=True))

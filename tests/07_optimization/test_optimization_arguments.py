"""Stage 7: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optimization.kv_cache import ContiguousKVCache
from optimization.weights.gptq import gptq_levels
from optimization.weights.quantization import Int4Linear, Int8Embedding, Int8Linear
from optimization.weights.quantized_model import is_quantized, load_quantized, quantize_model
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONFIG = GPTConfig(vocab_size=16, context_length=8, num_layers=1, num_heads=2, d_model=64, d_ff=64)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_a_layer_of_another_shape_or_bias_is_not_stretched_or_cut(kind):
    for linear in (nn.Linear(64, 1), nn.Linear(64, 4, bias=False)):
        with pytest.raises(ValueError, match=r"\(out_features, in_features, bias\) = \(4, 64, True\)"):
            kind(4, 64, True).quantize(linear)
    with pytest.raises(ValueError, match=r"\(4, 64, False\)"):
        kind(4, 64, False).quantize(nn.Linear(64, 4))


def test_four_bits_need_whole_groups_and_levels_that_fit():
    with pytest.raises(ValueError, match="groups of 64, got rows of 60"):
        Int4Linear(4, 60, False)
    with pytest.raises(ValueError, match="rows of 60 need"):
        gptq_levels(torch.randn(4, 60), torch.eye(60))
    for level in (16.0, float("nan")):
        with pytest.raises(ValueError, match="4 bits hold levels from 0 to 15"):
            Int4Linear(4, 64, False).store(torch.full((4, 64), level), torch.ones(4, 1), torch.zeros(4, 1), None)


def test_a_quantized_embedding_refuses_ids_as_the_plain_one_does():
    table, quantized = nn.Embedding(4, 3), Int8Embedding(4, 3)
    quantized.quantize(table)
    ids = torch.tensor([[0, 3], [1, 1]])
    torch.testing.assert_close(quantized(ids), table(ids).detach(), atol=0.02, rtol=0)
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            quantized(torch.tensor([wrong]))


def test_a_model_is_quantized_once():
    model = quantize_model(GPTModel(CONFIG), "int8")
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(model, "int4")


def test_a_folder_may_be_given_as_text(tmp_path):
    assert not is_quantized(str(tmp_path))
    with pytest.raises(ValueError, match="does not describe a quantized model"):
        load_quantized(str(tmp_path), GPTModel(CONFIG))


def test_a_cache_of_two_sequences_does_not_repeat_one():
    keys = torch.randn(1, 2, 3, 32)
    for cache, values in ((ContiguousKVCache(CONFIG, 2), keys), (ContiguousKVCache(CONFIG), keys[:, :, :1])):
        with pytest.raises(ValueError, match="the cache is for keys and values of"):
            cache.update(0, keys, values)

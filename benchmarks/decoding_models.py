"""Models with random weights for the decoding benchmarks: ours, and the same in `transformers`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from optimization.engine.engine import Engine
from optimization.engine.speculative import Proposer
from optimization.settings import EngineSettings
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.pretrained import save_pretrained

GPT2_PARTS: dict[str, Any] = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True}
SHAPES: dict[str, GPTConfig] = {
    "124M": GPTConfig(vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, d_model=768, **GPT2_PARTS),
    "10M": GPTConfig(vocab_size=4096, context_length=1024, num_layers=5, num_heads=6, d_model=384, **GPT2_PARTS),
}


class _AnyText(CharacterTokenizer):
    """A tokenizer with as many ids as a model has. Decoding needs a tokenizer, but these weights mean nothing."""

    def __init__(self, vocab_size: int):
        super().__init__("".join(chr(0x10000 + i) for i in range(vocab_size)))


def build_model(shape: str) -> GPTModel:
    """A model of `SHAPES`, the same for each call."""
    torch.manual_seed(0)
    return GPTModel(SHAPES[shape]).eval()


def build_engine(model: GPTModel, precision: torch.dtype, proposer: Proposer | None = None, **settings: Any) -> Engine:
    """An engine on the CPU."""
    assert model.config.vocab_size is not None
    placement = Placement(torch.device("cpu"), precision)
    return Engine(model, _AnyText(model.config.vocab_size), placement, EngineSettings(**settings), proposer)


def in_transformers(model: GPTModel, precision: torch.dtype) -> Any:
    """The same weights in a Hugging Face class."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=precision).eval()


def transformers_generate(model: Any, prompts: Iterable[list[int]], new_tokens: int) -> Any:
    """Greedy `generate` with a cache, and with padding on the left where lengths differ."""
    prompts = list(prompts)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )


def random_prompts(lengths: Iterable[int]) -> list[list[int]]:
    """Ids below 4096, the same for each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(4096, (length,), generator=generator).tolist() for length in lengths]

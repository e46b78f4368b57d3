"""What the key-value cache saves: cached decoding beside the plain forward pass, same model, same tokens."""

from __future__ import annotations

import torch

from harness import Comparison, Contender, compare
from optimization.engine import Engine
from tokenizer.bpe_tokenizer import BPETokenizer
from training.placement import choose_placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate


def run(quick: bool) -> list[Comparison]:
    """Decode 128 tokens (32 when quick) behind a prompt of 32, at the shape of `small_gpt`."""
    new_tokens = 32 if quick else 128
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocab_size=4096, context_length=256, feed_forward="relu2", qk_norm=True)).eval()
    engine = Engine(model, BPETokenizer([]), choose_placement("cpu", "float32"))
    parameters = SamplingParameters(max_tokens=new_tokens, temperature=0)
    prompt = list(range(32))
    return [
        compare(
            f"Decode {new_tokens} tokens behind 32, 4 layers × 256, float32, one stream",
            "tokens/s",
            new_tokens,
            [
                Contender("key-value cache", lambda: list(engine.generate_ids(prompt, parameters))),
                Contender("plain forward", lambda: list(generate(model, prompt, parameters))),
            ],
            rounds=3 if quick else 5,
        )
    ]

"""Decoding speed beside `transformers`, and the share of the memory's bandwidth that is reached.

Same weights, same prompt, same number of threads, greedy. Work is counted in new tokens; the prompt's pass is
part of the time. The last contender of each comparison is the bound: reading the weights once a token, and
nothing else.
"""

from __future__ import annotations

import torch

from decoding_models import build_engine, build_model, in_transformers, random_prompts, transformers_generate
from harness import Comparison, Contender, compare
from optimization.engine import Engine
from optimization.memory_bandwidth import bytes_read_per_token
from optimization.quantized_model import quantize_model
from transformer.sampling import SamplingParameters

PROMPT = 32


def run(quick: bool) -> list[Comparison]:
    """One stream and eight, at two sizes, in three precisions."""
    shapes = ["10M"] if quick else ["124M", "10M"]
    return [comparison for shape in shapes for comparison in _at(shape, quick)]


def _at(shape: str, quick: bool) -> list[Comparison]:
    new_tokens, rounds = (32, 3) if quick else (128, 3)
    model = build_model(shape)
    parameters = SamplingParameters(max_tokens=new_tokens, temperature=0.0)
    comparisons = []
    for precision in (torch.float32, torch.bfloat16):
        theirs, name = in_transformers(model, precision), str(precision).removeprefix("torch.")
        engine = build_engine(model, precision)
        read = bytes_read_per_token(model, precision)
        for batch in (1, 8):
            prompts = random_prompts([PROMPT] * batch)
            contenders = [
                Contender("nuLLM", lambda e=engine, p=prompts: e.generate_batch(p, parameters), setup=_forget(engine)),
                Contender("transformers", lambda m=theirs, p=prompts: transformers_generate(m, p, new_tokens)),
            ]
            if batch == 1 and precision == torch.bfloat16:
                small = quantize_model(model, "w8a8")
                fast = build_engine(small, precision)
                contenders += [
                    Contender("nuLLM w8a8", lambda e=fast, p=prompts: e.generate_batch(p, parameters), _forget(fast))
                ]
            if batch == 1:
                contenders.append(Contender("bound: read the weights", lambda n=read: _read(n, new_tokens)))
            streams = "one stream" if batch == 1 else f"{batch} streams"
            title = f"Decode {new_tokens} tokens behind {PROMPT}, {shape} parameters, {name}, {streams}"
            comparisons.append(compare(title, "tokens/s", batch * new_tokens, contenders, rounds))
    return comparisons


def _forget(engine: Engine):
    """The prompt of the round before must not be found in the cache."""
    return engine.pool.forget_idle


def _read(num_bytes: int, times: int) -> None:
    data = torch.ones(num_bytes // 4)
    for _ in range(times):
        data.sum()

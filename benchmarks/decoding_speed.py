"""Decoding speed compared with `transformers` and llama.cpp, and the share of the memory's bandwidth that is reached.

The weights, the prompt and the number of threads are the same, and decoding is greedy. Work is counted in new tokens;
the pass over the prompt is part of the time. The last contender of each comparison with one stream is the limit: it
reads the weights once for each token and does nothing else. llama.cpp takes part if llama-cpp-python is installed. Its
f16 is compared with our bfloat16.
"""

from __future__ import annotations

import torch

from decoding_models import build_engine, build_model, in_transformers, random_prompts, transformers_generate
from harness import Comparison, Contender, compare
from llama_cpp_model import LlamaCppModel, llama_cpp_is_installed
from optimization.engine.engine import Engine
from optimization.memory_bandwidth import bytes_read_per_token
from optimization.weights.quantized_model import quantize_model
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

PROMPT = 32


def run(quick: bool) -> list[Comparison]:
    """Compare one stream and eight, at two sizes, in three precisions."""
    shapes = ["10M"] if quick else ["124M", "10M"]
    return [comparison for shape in shapes for comparison in _at(shape, quick)]


def _at(shape: str, quick: bool) -> list[Comparison]:
    new_tokens, rounds = (32, 2) if quick else (128, 3)
    model = build_model(shape)
    comparisons = []
    for precision, kind in ((torch.float32, "f32"), (torch.bfloat16, "f16")):
        theirs, engine = in_transformers(model, precision), build_engine(model, precision)
        read = bytes_read_per_token(model, precision)
        for streams in (1, 8):
            prompts = random_prompts([PROMPT] * streams)
            contenders = [
                _ours("nuLLM", engine, prompts, new_tokens),
                Contender("transformers", lambda m=theirs, p=prompts: transformers_generate(m, p, new_tokens)),
            ]
            comparisons.append(
                _compare(
                    f"{shape} parameters, {str(precision).removeprefix('torch.')}, {_count(streams)}",
                    contenders,
                    prompts,
                    new_tokens,
                    rounds,
                    model,
                    kind,
                    read if streams == 1 else None,
                )
            )
        del theirs, engine
    small = quantize_model(model, "int8")
    read = bytes_read_per_token(small, torch.float32)
    engine = build_engine(small, torch.float32)
    for streams in (1, 8):
        prompts = random_prompts([PROMPT] * streams)
        title = f"{shape} parameters, 8 bits, {_count(streams)}"
        contenders = [_ours("nuLLM int8", engine, prompts, new_tokens)]
        bound = read if streams == 1 else None
        comparisons.append(_compare(title, contenders, prompts, new_tokens, rounds, model, "q8_0", bound))
    return [comparison for comparison in comparisons if len(comparison.measurements) > 1]


def _compare(
    title: str,
    contenders: list[Contender],
    prompts: list[list[int]],
    new_tokens: int,
    rounds: int,
    model: GPTModel,
    kind: str,
    read: int | None,
) -> Comparison:
    """Add llama.cpp if it is installed, and the limit if there is one."""
    llama = LlamaCppModel(model, kind, len(prompts), PROMPT + new_tokens) if llama_cpp_is_installed() else None
    if llama is not None:
        contenders.append(Contender(f"llama.cpp {kind}", lambda: llama.generate(prompts, new_tokens)))
    if read is not None:
        contenders.append(Contender("bound: read the weights", lambda: _read(read, new_tokens)))
    title = f"Decode {new_tokens} tokens after {PROMPT}, {title}"
    comparison = compare(title, "tokens/s", len(prompts) * new_tokens, contenders, rounds)
    if llama is not None:
        llama.close()
    return comparison


def _ours(name: str, engine: Engine, prompts: list[list[int]], new_tokens: int) -> Contender:
    parameters = SamplingParameters(max_tokens=new_tokens, temperature=0.0)
    # The cache must not hold the prompt of the previous round.
    return Contender(name, lambda: engine.generate_batch(prompts, parameters), setup=engine.pool.forget_idle)


def _count(streams: int) -> str:
    return "one stream" if streams == 1 else f"{streams} streams"


def _read(num_bytes: int, times: int) -> None:
    data = torch.ones(num_bytes // 4)
    for _ in range(times):
        data.sum()

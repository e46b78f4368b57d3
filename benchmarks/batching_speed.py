"""Many requests at once: ways of batching, shared prefixes, speculative decoding.

There are sixteen requests of mixed length, as at a server: prompts of 8 to 128 tokens, texts of 16 to 128.
`transformers` pads all prompts to the longest one and continues until the longest text is done. Tokens that nobody
asked for are not counted.
"""

from __future__ import annotations

import torch

from decoding_models import build_engine, build_model, in_transformers, random_prompts, transformers_generate
from harness import Comparison, Contender, compare
from optimization.engine.speculative import PromptLookup
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters


def run(quick: bool) -> list[Comparison]:
    """Compare at 10M parameters when quick, otherwise at 124M."""
    model = build_model("10M" if quick else "124M")
    return [_batching(model, 2), _shared_prefix(model, 4), _lookup(model, 2)]


def _batching(model: GPTModel, rounds: int) -> Comparison:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 129, (16,), generator=generator).tolist()
    prompts = random_prompts(lengths)
    wanted = torch.randint(16, 129, (16,), generator=generator).tolist()
    parameters = [SamplingParameters(max_tokens=n, temperature=0.0) for n in wanted]
    precision = torch.bfloat16
    theirs = in_transformers(model, precision)
    contenders = []
    for name, settings in {
        "continuous batching": {"max_running": 16},
        "continuous, 4 at a time": {"max_running": 4},
        "static batches of 4": {"max_running": 4, "batching": "static"},
        "one at a time": {"max_running": 1},
    }.items():
        engine = build_engine(model, precision, prefix_sharing=False, **settings)
        contenders.append(Contender(name, lambda e=engine: e.generate_batch(prompts, parameters)))
    contenders += [
        Contender("transformers, one batch", lambda: transformers_generate(theirs, prompts, max(wanted))),
    ]
    title = f"16 requests of mixed length, {sum(lengths)} + {sum(wanted)} tokens, bfloat16"
    return compare(title, "tokens/s", sum(wanted), contenders, rounds)


def _shared_prefix(model: GPTModel, rounds: int) -> Comparison:
    engine = build_engine(model, torch.bfloat16, cache_tokens=2048)
    prefix, *ends = random_prompts([512, 16, 16])
    one = SamplingParameters(max_tokens=1, temperature=0.0)

    def warm() -> None:
        engine.pool.forget_idle()
        engine.generate_batch([prefix + ends[0]], one)

    run_second = lambda: engine.generate_batch([prefix + ends[1]], one)  # noqa: E731
    return compare(
        "Time to the first token after 512 + 16 tokens, bfloat16",
        "requests/s",
        1,
        [
            Contender("512 tokens shared with an earlier request", run_second, setup=warm),
            Contender("nothing shared", run_second, setup=engine.pool.forget_idle),
        ],
        rounds,
    )


def _lookup(model: GPTModel, rounds: int) -> Comparison:
    """A random model with greedy decoding soon repeats itself. No text is more repetitive than that."""
    prompt, parameters = random_prompts([32])[0], SamplingParameters(max_tokens=128, temperature=0.0)
    contenders = []
    for name, proposer in {"prompt lookup, 8 guesses": PromptLookup(8), "plain decoding": None}.items():
        engine = build_engine(model, torch.bfloat16, proposer, prefix_sharing=False)
        contenders.append(Contender(name, lambda e=engine: e.generate_batch([prompt], parameters)))
    return compare("Repetitive text, one stream, bfloat16", "tokens/s", 128, contenders, rounds)

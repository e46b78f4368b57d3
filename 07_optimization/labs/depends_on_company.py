"""Lab 7.B: The answer depends on who asked before.

There are one model and one prompt, and decoding is greedy. On a fresh engine the answer is right. After two other
requests, whose blocks are still in the cache, the same prompt gets another answer. Without prefix sharing this does not
happen.
"""

from __future__ import annotations

from optimization.engine.block_pool import BlockTable, Prefix


def shared_prefix(self: BlockTable, tokens: list[int]) -> list[Prefix]:
    """The stored blocks that these tokens begin with; at least one token is left to compute.

    Args:
        self: `self.pool.find(parent, block_of_tokens)` gives the `Prefix` that holds a tuple of tokens after another
            prefix (None for the beginning of a text), or None if there is no such block.
        tokens: the tokens of the prompt.
    """
    found: list[Prefix] = []
    size, parent = self.pool.block_size, None
    if self.share:
        for start in range(0, len(tokens) - size, size):
            prefix = self.pool.find(parent, tuple(tokens[start : start + size]))
            if prefix is None:
                break
            found.append(prefix)
    return found


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import functools

import torch

from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, encode, train
from optimization.engine.engine import Engine
from optimization.engine.events import GenerationStats
from optimization.settings import EngineSettings
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

CONTEXT, BLOCK, WRITTEN = 64, 16, 24
PROMPT = "n ugly.\nExplicit" + " is better than " + "i"  # two blocks and a letter
BEFORE = ("n ugly.\nExplicit is", " is better than complex")  # each begins with another block of the prompt


@functools.cache
def _trained() -> GPTModel:
    """The same model for both sides: the function plays no part in training."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=2, num_heads=2, d_model=64))
    train(model, encode(TEXT[:240]), 100, CONTEXT, batch_size=8)
    return model.eval()


def _ask(engine: Engine, prompt: str) -> tuple[str, int]:
    """Return the answer, and how many tokens of the prompt were taken from the cache."""
    parameters, stats = SamplingParameters(max_tokens=WRITTEN, temperature=0.0), GenerationStats()
    ids = list(engine.generate_ids(engine.encode_prompt(prompt), parameters, stats))
    return engine.tokenizer.decode(ids), stats.cached_tokens


def measure() -> Measurement:
    """Ask on a fresh engine, and on one that others have used."""
    model = _trained()
    placement = Placement(torch.device("cpu"), torch.float32)
    settings = EngineSettings(max_running=1, block_size=BLOCK, chunk_size=16)
    tokenizer = CharacterTokenizer(LETTERS)
    alone, _ = _ask(Engine(model, tokenizer, placement, settings), PROMPT)
    used = Engine(model, tokenizer, placement, settings)
    for prompt in BEFORE:
        _ask(used, prompt)
    later, cached = _ask(used, PROMPT)
    return {
        f"{PROMPT!r} goes on, fresh engine": alone,
        "after two others have asked": later,
        "tokens taken from the cache": cached,
        "same answer": "yes" if alone == later else "no",
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The answer changes; with the package's function it does not."""
    return file["same answer"] == "no" and package["same answer"] == "yes"


LAB = Lab(
    broken=shared_prefix,
    reference="optimization.engine.block_pool:BlockTable.shared_prefix",
    cases=load_exercise("shared_prefix").cases,
    measure=measure,
    visible=visible,
    repair=[("            found.append(prefix)\n", "            found.append(prefix)\n            parent = prefix\n")],
    hints=(
        "The two runs differ in what came from the cache. How many tokens came from it, and how many of them are right?",
        "One earlier request began with the first block of the prompt. No request began with its first two. From which "
        "request is the second block that was taken, and what stood before it there?",
        "A block is found by its own tokens and by what stands before it. The first block stands before the second, "
        "but the second is still looked up as the beginning of a text.",
    ),
    diagnosis=(
        "When an answer depends on other requests, compare the engine with sharing and without. Then look at what was "
        "shared: more tokens came from the cache than any earlier request has in common with this prompt. The second "
        "block was found as the *beginning* of another text: the same tokens, with keys computed at other positions and "
        "with other tokens before them. `parent` never moved on. That is why a prefix is known by its parent and its "
        "tokens, and why tests of a cache run the same request alone and after other requests."
    ),
)

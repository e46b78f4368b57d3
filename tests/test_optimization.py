"""Stage 7: cached decoding gives the tokens of the plain forward pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from optimization.command_line import main
from optimization.engine import Engine, GenerationStats, PromptError
from optimization.kv_cache import CacheFullError, ContiguousKVCache
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

STYLES = {
    "gpt2": {"norm": "layernorm", "feed_forward": "gelu", "positions": "learned", "bias": True},
    "llama": {"num_kv_heads": 2},
    "own": {"feed_forward": "relu2", "qk_norm": True},
}


def small_engine(style: str, context: int = 24) -> Engine:
    config = GPTConfig(vocab_size=257, context_length=context, num_layers=3, num_heads=4, d_model=32, **STYLES[style])
    model = GPTModel(config).eval()
    return Engine(model, BPETokenizer([], ["<|endoftext|>"]), Placement(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("split", [(1, 1, 10), (5, 4, 3), (12,), (11, 1)])
def test_a_prefix_in_any_chunks_through_the_cache_gives_the_plain_logits(style, split):
    model = small_engine(style).model
    ids = torch.randint(257, (2, 12))
    cache = ContiguousKVCache(model.config, batch_size=2)
    with torch.no_grad():
        plain = model(ids)
        chunks = [model(chunk, cache) for chunk in ids.split(split, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), plain, atol=1e-5, rtol=1e-4)
    assert cache.length == 12


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_tokens_are_the_plain_ones_even_past_the_context(style, temperature):
    engine = small_engine(style)
    parameters = SamplingParameters(max_tokens=80, temperature=temperature, seed=3)
    stats = GenerationStats()
    cached = list(engine.generate_ids([5, 6, 7], parameters, stats))
    plain = generate(engine.model, [5, 6, 7], parameters)
    expected = list(itertools.takewhile(lambda token: token != engine.tokenizer.end_of_text_id, plain))
    assert cached == expected
    if stats.finish_reason == "length":
        assert stats.context_shifts == 5
        assert stats.generated_tokens == 80


def test_the_end_of_text_token_ends_the_text_and_is_not_part_of_it():
    engine = small_engine("llama")
    with torch.no_grad():
        engine.model.head.weight.zero_()  # tied: all logits equal, so greedy takes id 0
    stats = GenerationStats()
    assert list(engine.generate_ids([1], SamplingParameters(max_tokens=3, temperature=0), stats)) == [0, 0, 0]
    assert stats.finish_reason == "length"
    engine.tokenizer = BPETokenizer([])
    engine.tokenizer._special_ids["<|endoftext|>"] = 0
    stats = GenerationStats()
    assert list(engine.generate_ids([1], SamplingParameters(max_tokens=3, temperature=0), stats)) == []
    assert (stats.finish_reason, stats.generated_tokens) == ("stop", 0)


def test_streamed_pieces_are_whole_characters_and_join_to_the_text():
    engine = small_engine("llama")
    parameters = SamplingParameters(max_tokens=60, temperature=1.0, top_p=1.0, seed=1)
    ids = list(engine.generate_ids(engine.encode_prompt("日本"), parameters))
    pieces = list(engine.generate("日本", parameters))
    assert "".join(pieces) == engine.tokenizer.decode(ids)
    assert len(pieces) > 5


def test_the_cache_is_bounded_and_knows_its_size():
    config = GPTConfig(vocab_size=10, context_length=8, num_layers=2, num_heads=4, num_kv_heads=2, d_model=16)
    cache = ContiguousKVCache(config)
    assert cache.num_bytes == 2 * 2 * 1 * 2 * 8 * 4 * 4  # key and value, layers, batch, heads, time, head_dim, float32
    with pytest.raises(CacheFullError, match="9 tokens do not fit a cache of 8"):
        cache.update(0, torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 9, 4))


def test_impossible_prompts_are_refused_before_anything_is_computed():
    engine = small_engine("llama")
    with pytest.raises(PromptError, match="31 tokens, the model's context is 24"):
        engine.generate("x" * 30, SamplingParameters())
    engine.tokenizer = CharacterTokenizer("ab")
    with pytest.raises(PromptError, match="the prompt is empty"):
        engine.encode_prompt("")


def test_the_command_streams_the_continuation(trained_run: Path, capsys):
    arguments = ["--checkpoint", str(trained_run), "--prompt", "Return", "--max_tokens", "20", "--temperature", "0"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Return")
    assert len(captured.out) > 20
    assert "20 tokens" in captured.err


def test_the_interactive_command_outlives_a_bad_prompt(trained_run: Path, capsys, monkeypatch):
    prompts = iter(["x" * 500, "Return", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(prompts))
    assert main(["--checkpoint", str(trained_run), "--max_tokens", "5"]) == 0
    captured = capsys.readouterr()
    assert "shorten the prompt" in captured.err
    assert captured.out.startswith("Return")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such/run", "--prompt", "x"], "there is no checkpoint at"),
        (["--prompt", "x", "--max_tokens", "0"], "max_tokens must be between 1 and 1,000,000, got 0"),
        (["--prompt", "x", "--max_tokens", "999999999"], "got 999,999,999"),
        (["--prompt", "x" * 500], "shorten the prompt"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, trained_run: Path, capsys):
    if "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", str(trained_run)]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert message in error.replace("\\", "/")
    assert len(error.splitlines()) == 1

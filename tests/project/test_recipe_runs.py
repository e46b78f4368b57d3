"""The runs that benchmarks compare: what they read, when they measure, and how the other side is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.data_loader import WindowLoader
from training.placement import Placement
from training.train_command import parse_config
from training.validation import total_loss
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

MODULES = ("recipe_runs", "time_to_loss", "training_speed", "harness", "reporting")


@pytest.fixture
def benchmarks(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import recipe_runs
    import time_to_loss

    yield recipe_runs, time_to_loss
    for name in MODULES:
        del sys.modules[name]


def test_stages_cut_the_same_tokens_into_other_batches(benchmarks):
    recipe_runs, _ = benchmarks
    tokens = np.arange(1000, dtype=np.uint16)
    plain = WindowLoader({"text": tokens}, 16, seed=3)
    stages = (recipe_runs.Stage(1, 8, 4), recipe_runs.Stage(2, 2, 16), recipe_runs.Stage(1, 4, 16))
    staged = recipe_runs.StagedLoader(WindowLoader({"text": tokens}, 16, seed=3), stages)
    batches = [staged.next_batch(99) for _ in range(4)]
    assert [tuple(batch.tensors["inputs"].shape) for batch in batches] == [(8, 4), (2, 16), (2, 16), (4, 16)]
    assert [batch.weight for batch in batches] == [32.0, 32.0, 32.0, 64.0]
    for batch in batches:
        assert torch.equal(batch.tensors["targets"], batch.tensors["inputs"] + 1)
    drawn = torch.cat([batch.tensors["inputs"].flatten() for batch in batches])
    assert torch.equal(drawn, plain.next_batch(10).tensors["inputs"].flatten())
    again = recipe_runs.StagedLoader(WindowLoader({"text": tokens}, 16, seed=3), stages)
    again.load_state_dict({"step": 1, "loader": {"sequences_drawn": 2}})
    assert torch.equal(again.next_batch(99).tensors["inputs"], batches[1].tensors["inputs"])


def test_both_sides_are_measured_over_the_whole_held_out_text(benchmarks):
    _, time_to_loss = benchmarks
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, 11, 1 + 16 * 131 + 5).astype(np.uint16)  # a last window of 5
    plain = time_to_loss.PlainGPT(time_to_loss.Shape("", 11, 16, 2, 2, 32, 4, 0, 0))
    ours = GPTModel(
        GPTConfig(11, 16, 2, 2, d_model=32, norm="layernorm", feed_forward="gelu", positions="learned", bias=False)
    )
    with torch.no_grad():
        weights = dict(plain.named_parameters())
        ours.token_embedding.weight.copy_(weights["tokens.weight"])
        assert ours.position_embedding is not None
        ours.position_embedding.weight.copy_(weights["positions.weight"])
        for index, block in enumerate(ours.blocks):
            projections = weights[f"blocks.{index}.attention.inputs.weight"].chunk(3)
            for name, weight in zip(("query", "key", "value"), projections, strict=True):
                getattr(block.attention, name).weight.copy_(weight)
            block.attention.output.weight.copy_(weights[f"blocks.{index}.attention.output.weight"])
            block.feed_forward.up.weight.copy_(weights[f"blocks.{index}.up.weight"])
            block.feed_forward.down.weight.copy_(weights[f"blocks.{index}.down.weight"])
    expected = total_loss(ours, tokens, Placement(torch.device("cpu"), torch.float32)) / (len(tokens) - 1)
    assert time_to_loss.plain_loss(plain, tokens) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_run_looks_as_often_as_asked_and_at_its_end(benchmarks, tiny_settings, write_config):
    recipe_runs, time_to_loss = benchmarks
    config = parse_config(["--config", write_config(tiny_settings)])
    curve, seconds = recipe_runs.train_recipe(config, seed=1, looks=4)
    assert [point["step"] for point in curve] == [3, 6, 9, 12]
    assert curve[-1]["loss"] < curve[0]["loss"] and seconds > 0
    assert [p["seconds"] for p in curve] == sorted(p["seconds"] for p in curve)
    again, _ = recipe_runs.train_recipe(config, seed=1, looks=1)
    assert [(p["step"], p["loss"]) for p in again] == [(12, curve[-1]["loss"])]  # measuring changes nothing
    staged, _ = recipe_runs.train_recipe(config, seed=1, stages=[recipe_runs.Stage(5, 8, 16)])
    assert staged[-1]["step"] == 5
    assert time_to_loss.seconds_to(curve, curve[1]["loss"]) == curve[1]["seconds"]
    assert time_to_loss.seconds_to(curve, 0.0) is None

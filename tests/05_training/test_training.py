"""Stage 5: the loss, the order of the data, optimizers and schedules."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from training import loss as loss_module
from training.checkpoints.checkpoint import (
    list_checkpoints,
)
from training.data.data_loader import WindowLoader
from training.data.token_files import DataError, open_tokens
from training.loss import linear_cross_entropy
from training.optimizers.parameter_groups import OptimizerConfig, build_optimizers, set_learning_rate
from training.optimizers.schedule import ScheduleConfig, learning_rate_factor
from training.placement import Placement
from training.run.tracking import _smooth
from training.train_command import main
from training.validation import sampled_loss, total_loss
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_loss_and_its_gradients_equal_pytorchs(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    hidden = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (2, 10))
    expected = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    ours = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(3 * ours, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_chunked_loss_under_autocast_is_close_to_float32():
    hidden, weight = torch.randn(64, 32), torch.randn(100, 32) * 0.1
    targets = torch.randint(100, (64,))
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, targets)
    assert rounded.dtype == torch.float32
    assert abs(rounded - exact) < 0.01


def test_an_untrained_model_is_as_unsure_as_a_uniform_guess():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16))
    tokens = np.random.default_rng(0).integers(0, 97, 200).astype(np.uint16)
    assert total_loss(model, tokens, CPU) / 199 == pytest.approx(math.log(97), rel=0.02)


def test_validation_predicts_every_token_but_the_first_once():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16)).eval()
    tokens = np.random.default_rng(0).integers(0, 97, 30).astype(np.uint16)
    expected = 0.0
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        for start in range(0, 29, 8):
            window = ids[start : min(start + 8, 29)]
            expected += F.cross_entropy(
                model(window[None])[0], ids[start + 1 : start + 1 + len(window)], reduction="sum"
            )
    assert total_loss(model, tokens, CPU) == pytest.approx(float(expected), rel=1e-5)


def test_a_look_at_the_validation_loss_is_spread_over_the_file_and_exact_when_it_covers_it():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16)).eval()
    tokens = np.random.default_rng(0).integers(0, 97, 81).astype(np.uint16)
    assert sampled_loss(model, tokens, 10_000, CPU) == pytest.approx(total_loss(model, tokens, CPU) / 80, rel=1e-5)
    changed = tokens.copy()
    changed[-5:] = (changed[-5:] + 1) % 97
    assert sampled_loss(model, changed, 16, CPU) != sampled_loss(model, tokens, 16, CPU)


def _loader(tokens: np.ndarray, context_length: int, seed: int, **options) -> WindowLoader:
    return WindowLoader({"corpus": tokens}, context_length, seed, **options)


def test_an_epoch_shows_every_window_once_and_targets_follow_inputs():
    loader = _loader(np.arange(103, dtype=np.uint16), 10, seed=3)
    windows = loader.orders[0].windows_per_epoch
    batch = loader.next_batch(windows)
    inputs, targets = batch.tensors["inputs"], batch.tensors["targets"]
    assert torch.equal(inputs + 1, targets)
    assert len(set(inputs.flatten().tolist())) == inputs.numel() == 90 == batch.weight
    assert loader.epochs == 1.0
    assert not torch.equal(inputs, loader.next_batch(windows).tensors["inputs"])


def test_the_order_follows_from_the_seed_and_the_position_alone():
    tokens = np.arange(500, dtype=np.uint16)
    straight = _loader(tokens, 8, seed=5)
    expected = [straight.next_batch(7).tensors["inputs"] for _ in range(30)]
    resumed = _loader(tokens, 8, seed=5)
    resumed.load_state_dict({"sequences_drawn": 20 * 7})
    for batch in expected[20:]:
        assert torch.equal(resumed.next_batch(7).tensors["inputs"], batch)
    assert not torch.equal(_loader(tokens, 8, seed=6).next_batch(7).tensors["inputs"], expected[0])


@pytest.mark.parametrize("length", [9, 10, 11, 16, 17])
def test_short_files_never_read_past_their_end(length):
    loader = _loader(np.arange(length, dtype=np.uint16), 8, seed=0)
    for _ in range(20):
        assert loader.next_batch(1).tensors["targets"].max() < length


def test_token_files_that_cannot_be_used_are_refused(tmp_path: Path):
    path = tmp_path / "train.bin"
    np.array([1, 2, 300], dtype=np.uint16).tofile(path)
    with pytest.raises(DataError, match="3 tokens, fewer than one context of 8"):
        open_tokens([path], "<u2", 400, 8)
    with pytest.raises(DataError, match="the id 300, outside the vocabulary of 300"):
        open_tokens([path], "<u2", 300, 2)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        open_tokens([path], "<u2", 300, 2)


def test_weight_decay_is_for_matrices_inside_the_blocks():
    model = GPTModel(GPTConfig(vocab_size=50, num_layers=2, d_model=32, num_heads=2, tie_embeddings=False))
    for name in ("adamw", "muon"):
        optimizers = build_optimizers(model, OptimizerConfig(name=name, weight_decay=0.3))
        decayed = {id(p) for o in optimizers for g in o.param_groups if g["weight_decay"] for p in g["params"]}
        expected = {id(p) for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
        assert decayed == expected
        everything = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_the_factor_scales_every_group_from_its_peak():
    model = GPTModel(GPTConfig(vocab_size=50, num_layers=1, d_model=32, num_heads=2))
    optimizers = build_optimizers(model, OptimizerConfig(name="muon", lr=0.01, muon_lr=0.1))
    set_learning_rate(optimizers, 0.5)
    set_learning_rate(optimizers, 0.25)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.0025, 0.025]


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
def test_schedules_rise_to_the_peak_and_end_at_the_final_fraction(kind):
    config = ScheduleConfig(kind, warmup_steps=10, final_fraction=0.1)
    factors = [learning_rate_factor(step, 1000, config) for step in range(1000)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(1.0 if kind == "constant" else 0.1, abs=0.01)
    assert all(a >= b for a, b in pairwise(factors[10:]))


@pytest.mark.slow
def test_accumulated_micro_batches_take_the_same_step_as_one_large_batch(tiny_settings, write_config):
    tiny_settings["model"]["dropout"] = 0.0
    tiny_settings["training"]["max_steps"] = 4
    weights = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        tiny_settings["training"] |= {"batch_size": batch_size, "accumulation_steps": accumulation}
        tiny_settings["output_dir"] += "_"
        assert main(["--config", write_config(tiny_settings)]) == 0
        weights.append(load_file(list_checkpoints(Path(tiny_settings["output_dir"]))[-1] / "model.safetensors"))
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=1e-3)


def test_the_range_test_names_a_range_of_learning_rates_and_draws_it(tiny_settings, write_config, capsys):
    assert main(["--config", write_config(tiny_settings), "--find-lr"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    said = re.search(r"fell fastest at a rate of (\S+) and was lowest at (\S+); a good one", printed)
    assert said is not None and float(said[1]) <= float(said[2])
    assert (Path(tiny_settings["output_dir"]) / "learning_rates.png").stat().st_size > 10_000
    assert not list_checkpoints(Path(tiny_settings["output_dir"]))


def test_the_smoothed_loss_is_the_mean_of_the_last_ten_and_passes_over_nan():
    assert _smooth([3.0, 1.0]) == [3.0, 2.0]
    assert _smooth([float(i) for i in range(20)])[-1] == sum(range(10, 20)) / 10
    assert _smooth([math.nan, 1.0, math.nan])[1:] == [1.0, 1.0]

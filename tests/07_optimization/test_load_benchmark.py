"""Stage 7: `benchmark.py`, and the limit that it compares with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from optimization.benchmark_command import main
from optimization.memory_bandwidth import bytes_read_per_token, measure_read_bandwidth
from optimization.weights.quantized_model import quantize_model
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel


def test_the_command_writes_a_table_a_plot_and_json(trained_run: Path, tmp_path: Path, capsys):
    output = tmp_path / "results" / "load"
    arguments = ["--checkpoint", str(trained_run), "--concurrency", "1,3", "--prompt-tokens", "8", "--max-tokens", "6"]
    assert main([*arguments, "--output", str(output)]) == 0
    results = json.loads(output.with_suffix(".json").read_text())["results"]
    assert [result["concurrency"] for result in results] == [1, 3]
    for result in results:
        assert result["tokens_per_second"] > 0
        assert 0 < result["first_token_ms"] <= result["slowest_first_token_ms"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "tokens/s" in capsys.readouterr().out
    assert sorted(path.name for path in output.parent.iterdir()) == ["load.json", "load.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "1,x"], "--concurrency must be numbers from 1, separated by commas, got '1,x'"),
        (["--concurrency", "0"], "got '0'"),
        (["--prompt-tokens", "30"], "must fit the context of 32 together"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, trained_run: Path, capsys):
    assert main(["--checkpoint", str(trained_run), "--max-tokens", "6", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_the_bytes_of_a_pass_are_those_of_the_matrices_and_norms(tied):
    config = GPTConfig(
        vocab_size=100,
        context_length=64,
        num_layers=1,
        num_heads=2,
        d_model=64,
        feed_forward="gelu",
        tie_embeddings=tied,
        positions="learned",
    )
    model = GPTModel(config)
    head, matrices, norms = 100 * 64, 4 * 64 * 64 + 2 * 64 * 256, 3 * 64
    assert bytes_read_per_token(model, torch.float32) == 4 * (head + matrices + norms)
    assert bytes_read_per_token(model, torch.bfloat16) == 2 * (head + matrices + norms)
    scales = 100 + 4 * 64 + 256 + 64  # one float32 a row
    expected = head + matrices + 4 * scales + 2 * norms
    assert bytes_read_per_token(quantize_model(model, "int8"), torch.bfloat16) == expected


def test_the_bandwidth_is_that_of_a_computer():
    assert 1e8 < measure_read_bandwidth(mebibytes=64, rounds=2) < 1e13

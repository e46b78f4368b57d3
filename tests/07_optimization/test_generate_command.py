"""Stage 7: `generate.py`, run as a user runs it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from optimization import generate_command as command_line
from optimization.generate_command import main
from transformer.sampling import SamplingParameters


def test_the_command_streams_the_continuation(trained_run: Path, capsys):
    arguments = ["--checkpoint", str(trained_run), "--prompt", "Return", "--max-tokens", "20", "--temperature", "0"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Return")
    assert len(captured.out) > 20
    assert "20 tokens" in captured.err


@pytest.mark.slow
def test_the_bandwidth_counts_a_pass_that_makes_several_tokens_once(trained_run: Path, capsys, monkeypatch):
    # A model of a terabyte, so that the rounded numbers still have enough digits.
    monkeypatch.setattr(command_line, "bytes_read_per_token", lambda *_: 10**12)
    arguments = ["--checkpoint", str(trained_run), "--prompt", "Return Return Return", "--temperature", "0", "--stats"]
    assert main([*arguments, "--max-tokens", "60", "--draft", "lookup"]) == 0
    line = capsys.readouterr().err
    found = re.search(
        r"\+ 60 tokens.* then (\d+) tokens/s, weights read at ([\d.]+) GB/s.* (\d+) of \d+ guesses right", line
    )
    assert found, line
    accepted = int(found[3])
    assert accepted >= 3
    # The first token is the prompt's. Rounding to whole tokens a second is the tolerance.
    rate = float(found[1])
    assert float(found[2]) / 1000 == pytest.approx(rate * (59 - accepted) / 59, rel=0.51 / rate)


def test_the_interactive_command_outlives_a_bad_prompt(trained_run: Path, capsys, monkeypatch):
    prompts = iter(["x" * 500, "Return", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(prompts))
    assert main(["--checkpoint", str(trained_run), "--max-tokens", "5"]) == 0
    captured = capsys.readouterr()
    assert "shorten the prompt" in captured.err
    assert captured.out.startswith("Return")


IMPOSSIBLE = {
    "max_tokens": 0,
    "temperature": -1,
    "top_k": -1,
    "top_p": 0,
    "seed": -1,
    "min_p": 2,
    "typical_p": 0,
    "repetition_penalty": 0,
    "presence_penalty": 101,
    "frequency_penalty": 101,
}


def test_every_sampling_parameter_has_an_option_but_the_bias_of_single_tokens():
    names = {field.name for field in dataclasses.fields(SamplingParameters)}
    assert names == IMPOSSIBLE.keys() | {"stop", "logit_bias"}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_value_is_refused_before_a_model_is_loaded(name: str, capsys):
    assert main(["--checkpoint", "no/such/run", f"--{name.replace('_', '-')}={IMPOSSIBLE[name]}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name} must be") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such/run", "--prompt", "x"], "there is no checkpoint at"),
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

"""Stage 7: `generate.py`, as it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimization.command_line import main


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

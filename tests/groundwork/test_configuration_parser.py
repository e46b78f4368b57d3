"""Configurations from YAML files and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from groundwork.command_line import with_dashes
from groundwork.configuration import ConfigurationParser


@dataclass(frozen=True)
class Inner:
    """An inner part.

    Args:
        max_steps: how many.
    """

    max_steps: int = 3


@dataclass(frozen=True)
class Outer:
    """A configuration.

    Args:
        output_dir: where.
        method: which way; one of them is called like a part.
        inner: a part.
    """

    output_dir: str = "here"
    method: str = "plain"
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def parser() -> ConfigurationParser[Outer]:
    return ConfigurationParser(Outer, "program", "A program.", {"--dry-run": "Stop early."})


def test_a_field_is_named_with_a_dash_or_as_in_a_file(parser: ConfigurationParser[Outer]):
    with_dash, switches = parser.parse(["--output-dir", "there", "--inner.max-steps=5", "--dry-run"])
    assert with_dash == Outer("there", "plain", Inner(5)) and switches == {"dry_run": True}
    assert parser.parse(["--output_dir=there", "--inner.max_steps", "5"]) == (with_dash, {"dry_run": False})


def test_a_value_that_is_the_name_of_a_field_stays_a_value(parser: ConfigurationParser[Outer]):
    assert parser.parse(["--method", "inner", "--output-dir", "method"])[0] == Outer("method", "inner")


@pytest.mark.parametrize("flag", ["--config={}", "--config {}"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("inner: " + "[" * 100_000, "nested too deeply"),
        ("a: &a [x, x]\ninner: &b [" + ", ".join(["*a"] * 100_000) + "]\n", "holds more than 100,000 values"),
        ("inner: [", "not valid YAML"),
        ("- 1", "should hold named fields"),
    ],
)
def test_a_file_that_cannot_be_used_ends_with_one_line(
    flag: str,
    content: str,
    message: str,
    parser: ConfigurationParser[Outer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(SystemExit) as end:
        parser.parse(flag.format(tmp_path / "a.yaml").split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error.splitlines()[0] and len(error.splitlines()) == 2


def test_an_unknown_field_ends_with_one_line(parser: ConfigurationParser[Outer], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        parser.parse(["--output-folder", "x"])
    assert end.value.code == 2
    assert "output-folder" in capsys.readouterr().err.splitlines()[0]


def test_both_spellings_of_an_option_are_allowed():
    given = ["--max_tokens", "5", "--cache_dtype=int8_x", "a_b", "--top-k"]
    assert with_dashes(given) == ["--max-tokens", "5", "--cache-dtype=int8_x", "a_b", "--top-k"]

"""The option `--threads`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from groundwork.configuration import ConfigurationParser
from groundwork.threads import add_threads, use_threads


@dataclass(frozen=True)
class Nothing:
    """No fields but one.

    Args:
        name: of it.
    """

    name: str = "none"


@pytest.fixture(autouse=True)
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads, and the variable, are afterwards what they were."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_it_sets_the_threads_of_this_process_and_of_those_that_it_starts():
    parser = argparse.ArgumentParser()
    add_threads(parser)
    for read in (
        lambda words: vars(parser.parse_args(words)),
        ConfigurationParser(Nothing, "program", "A program.").parse,
    ):
        use_threads(1)
        read([])
        assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"
        read(["--threads", "3"])
        assert torch.get_num_threads() == 3 and os.environ["OMP_NUM_THREADS"] == "3"
    assert vars(parser.parse_args(["--threads", "2"])) == {}


@pytest.mark.parametrize(
    ("given", "message"), [("0", "between 1 and 1,024, got 0"), ("x", "x"), ("99999", "got 99,999")]
)
def test_an_impossible_number_is_refused_in_one_line(given: str, message: str, capsys):
    parser = argparse.ArgumentParser()
    add_threads(parser)
    for read in (parser.parse_args, ConfigurationParser(Nothing, "program", "A program.").parse):
        with pytest.raises(SystemExit) as stopped:
            read(["--threads", given])
        assert stopped.value.code == 2 and message in capsys.readouterr().err

"""Use the learner's functions instead of the package's, for one process."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from learn.exercise import Reference

PACKAGES = frozenset(
    {
        "neural_networks", "attention", "transformer", "tokenizer", "training",
        "finetuning", "optimization", "evaluation", "deployment",
    }
)  # fmt: skip


class CountedFunction:
    """A function and how often it was called.

    Args:
        function: the learner's function.
    """

    def __init__(self, function: Callable[..., Any]):
        self.calls = 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return function(*args, **kwargs)

        self.function = counted  # a plain function, so that in a class it is a method


def substitute(reference: Reference, replacement: Callable[..., Any]) -> None:
    """Let every module of the project use another function instead of one of its own.

    A module that has run `from masks import causal_mask` already has its own name for the function. So each name
    for the old function is changed to mean the new one.

    Args:
        reference: the function to replace.
        replacement: takes the same arguments.
    """
    setattr(reference.holder, reference.name, replacement)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES:
            for key, value in list(vars(module).items()):
                if value is reference.function:
                    setattr(module, key, replacement)


@contextlib.contextmanager
def substituted(reference: Reference, replacement: Callable[..., Any]) -> Iterator[None]:
    """Call `substitute`, and undo it at the end of the block."""
    substitute(reference, replacement)
    try:
        yield
    finally:
        substitute(replace(reference, function=replacement), reference.function)

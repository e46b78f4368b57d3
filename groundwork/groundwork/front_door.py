"""A package's front door: its most used names can be imported from the package itself, and are loaded at first use.

    from tokenizer import BPETokenizer, train_bpe

`import tokenizer` alone loads none of the modules, so a command that needs one of them does not wait for the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def open_front_door(
    package: str, names: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make `__getattr__`, `__dir__` and `__all__` for a package (PEP 562).

    Args:
        package: its `__name__`.
        names: module, relative to the package → the names that it exports.
    """
    home = {name: f"{package}.{module}" for module, exported in names.items() for name in exported}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it exports {', '.join(home)}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    return load, lambda: sorted(home), list(home)

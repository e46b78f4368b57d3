"""Loops that are compiled by Numba, once, and then kept on disk.

A module with such loops is imported only where they are called: importing Numba takes half a second, and compiling takes
seconds the first time. `NULLM_KERNELS=plain` in the environment turns them off.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kernels_are_available() -> bool:
    """Whether compiled loops are wanted, and Numba is there."""
    return os.environ.get("NULLM_KERNELS") != "plain" and importlib.util.find_spec("numba") is not None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for the types that it is first called with, and let other threads run meanwhile."""
    return _compile(function, fastmath=False)


def compiled_in_any_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but the compiler chooses the order of sums. It chooses once; each call adds in that order."""
    return _compile(function, fastmath={"reassoc", "contract"})


def _compile(function: Callable[..., Any], fastmath: bool | set[str]) -> Callable[..., Any]:
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_cache_folder(Path(function.__code__.co_filename).parent))
    try:
        decorate = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)
        return decorate(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _cache_folder(package: Path) -> Path:
    """Where the compiled code of a package is kept. Numba would not notice that a function in another file has changed."""
    sources = sorted([*package.glob("*.py"), Path(__file__)])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "nullm" / f"kernels-{digest}"

"""Read the function from a learner's file, and describe an exception that it raises."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Load the function with a name from a file.

    Raises:
        AttributeError: the file has no such function.
        Exception: whatever the file raises.
    """
    # It is compiled here and not imported, so that cached bytecode of an earlier version never runs.
    module = ModuleType(f"workspace_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # a dataclass in the file looks for its module there
    linecache.checkcache(str(path))
    # As bytes: Python itself obeys a byte order mark and a line such as `# coding: latin-1`.
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    function = vars(module).get(name)
    if not callable(function):
        raise AttributeError(f"{path.name} defines no function {name}")
    return function


def describe(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def own_line(error: BaseException, path: Path) -> str:
    """The line of the learner's file that raised an exception, or that called the code that raised it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {(error.text or '').strip()}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {own[-1].lineno}: {own[-1].line}" if own else ""

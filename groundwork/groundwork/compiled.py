"""Loops that Numba compiles to machine code, when they are called for the first time and not before.

Python needs about 50 nanoseconds for the simplest step of a loop: each `+` looks up the types of its two numbers, finds the
function that adds them and makes a new object. Numba reads the same function once, with the types of the arguments of its
first call, and LLVM makes machine code of it, as it does of C. Then a step takes less than one nanosecond.

Compiling takes seconds. So it happens once: the machine code is kept in a folder for the next run. Numba itself is
imported at the first call, because the import alone takes half a second.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

_NOTICEABLE = 1.0  # seconds of compiling after which we say so
_lock = threading.RLock()
_said: list[str] = []

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@functools.cache
def kernels_are_compiled() -> bool:
    """Whether compiled code is used: always, unless the environment says `NULLM_KERNELS=plain`."""
    return os.environ.get("NULLM_KERNELS") != "plain"


def compiled(
    *, allocates: bool = True, **options: Any
) -> Callable[[Callable[Arguments, Result]], Compiled[Arguments, Result]]:
    """Decorate a function so that Numba compiles it at its first call.

    The function may call others that are decorated so, in any file. Its code must be what Numba understands: numbers,
    arrays, tuples and loops. It runs without the interpreter's lock, so other threads go on, and an array that it writes
    to must not be used by two threads at once. With `NULLM_KERNELS=plain` it is ordinary Python, for a debugger.

    Args:
        allocates: whether it makes arrays, or calls what does. If not, the references to its arrays need not be counted,
            which is half of the time of a small function that is called for each word of a text.
        options: further options of `numba.njit`, such as `fastmath`, `parallel` or `inline`.
    """

    def decorate(function: Callable[Arguments, Result]) -> Compiled[Arguments, Result]:
        return Compiled(function, options | {"_nrt": allocates})

    return decorate


class Compiled(Generic[Arguments, Result]):
    """What `compiled` makes of a function. `function` is the function as it was written."""

    def __init__(self, function: Callable[Arguments, Result], options: dict[str, Any]):
        functools.update_wrapper(self, function)
        self.function, self._options = function, options

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        """Call the machine code, after compiling it or loading it from the cache."""
        return self.dispatcher(*arguments, **named)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """What Numba makes of the function; the function itself if compiled code is turned off."""
        if not kernels_are_compiled():
            return self.function
        # Numba compiles again when the file of a function has changed, but does not look at the functions that it calls.
        # So the files of all of them name the folder, and those beside them, which have the types that they are called with.
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(self._files()))).hexdigest()
        numba = _load_numba()
        with _lock:  # the folder is a setting of the whole process
            numba.config.CACHE_DIR = str(_cache_folder() / digest[:16])
            try:
                return numba.njit(cache=True, nogil=True, **self._options)(self.function)
            except RuntimeError:  # neither this folder nor any other that Numba knows can be written to
                _say_once("No folder for compiled code can be written to, so each run compiles again.")
                return numba.njit(nogil=True, **self._options)(self.function)

    @property
    def _numba_type_(self) -> Any:  # by which Numba recognises what a compiled function calls
        return self.dispatcher._numba_type_

    def _files(self) -> set[Path]:
        code, known = self.function.__code__, self.function.__globals__
        called = [known[name] for name in code.co_names if isinstance(known.get(name), Compiled)]
        beside = Path(code.co_filename).parent.glob("*.py")
        return set(beside).union(*(other._files() for other in called if other is not self))


def _cache_folder() -> Path:
    import pooch

    named = os.environ.get("NUMBA_CACHE_DIR")
    return Path(named) if named else Path(pooch.os_cache("nullm")) / "compiled"


@functools.cache
def _load_numba() -> Any:
    import numba
    from numba.core import event

    class SaysThatItCompiles(event.Listener):
        def __init__(self) -> None:
            self.timers: list[threading.Timer] = []  # of a function, and of what it calls

        def on_start(self, _: Any) -> None:
            timer = threading.Timer(_NOTICEABLE, _say_once, ["Compiling once; later runs load it from a cache."])
            timer.daemon = True
            self.timers.append(timer)
            timer.start()

        def on_end(self, _: Any) -> None:
            if self.timers:  # else it began before Numba was loaded here
                self.timers.pop().cancel()

    event.register("numba:compile", SaysThatItCompiles())
    return numba


def _say_once(line: str) -> None:
    """One line in all: what cannot be kept needs no second line while it compiles."""
    if not _said:
        _said.append(line)
        print(line, file=sys.stderr, flush=True)

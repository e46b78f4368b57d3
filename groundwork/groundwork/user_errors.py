"""A user's mistake becomes one clear line, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Literal, get_args, get_origin, get_type_hints

_noticed: set[str] = set()  # files are read several times, and each thing is said once


class UserError(ValueError):
    """A mistake of the user; the message is one line that names the value, the limit and the way out."""


def report_user_errors(command: Callable[[], int | None], status: int = 1) -> int:
    """Run a command and return its exit status; a mistake of the user becomes one line.

    Every error that this project raises for a user's mistake is a `ValueError` with one line. Any other error is our
    fault and keeps its traceback.

    Args:
        command: does the work and returns the exit status, or None for 0.
        status: returned after a mistake of the user.
    """
    try:
        return command() or 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return status


def notice(message: str) -> None:
    """Say something on the standard error stream, once in a process: what was done otherwise than a user may expect.

    Args:
        message: one line that names the file.
    """
    if message not in _noticed:
        _noticed.add(message)
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)  # a name may hold escape sequences
        print(f"note: {shown}", file=sys.stderr)


def require(condition: bool, message: str) -> None:
    """Raise `ValueError` with a message unless a condition holds, for the checks of a configuration.

    Args:
        condition: what must be true.
        message: names the field, its value and what it may be.
    """
    if not condition:
        raise ValueError(message)


def require_choices(config: object, section: str) -> None:
    """Check that every field of a dataclass whose type is a `Literal` has one of the values of that type.

    Otherwise an unknown name would be treated like the last one for which the code tests.

    Args:
        config: the dataclass.
        section: what it is called in a configuration file, for the message.

    Raises:
        ValueError: a field has another value.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise ValueError(f"{section}.{name} must be one of {choices}; got {getattr(config, name)!r}")


def require_texts(texts: Iterable[Any], what: str = "documents") -> None:
    """Refuse a single text where a list of texts is expected, because each character would count as a text.

    Args:
        texts: what a caller gave.
        what: the name of the texts in the message.

    Raises:
        UserError: `texts` is a single text.
    """
    if isinstance(texts, str | bytes):
        start = repr(texts[:20])
        raise UserError(f"{what} must be a list of texts, got the single text {start}…: put it into a list, [text]")


def require_package(name: str, extra: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        name: name of the package, as it is imported.
        extra: the extra of this project that installs it.
        purpose: what needs it, for example "an export to GGUF"; the message begins with it.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    if find_spec(name) is None:
        raise UserError(f'{purpose} needs the package {name}: pip install -e ".[{extra}]"')

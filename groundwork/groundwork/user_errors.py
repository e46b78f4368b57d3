"""A user's mistake becomes one clear line, not a traceback."""

from __future__ import annotations

import math
import numbers
import os
import reprlib
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LONGEST_SHOWN = 80  # characters of a value in a message
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = LONGEST_SHOWN

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


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what is counted, for a message.

    >>> counted(1, "copy", "copies"), counted(2000, "document")
    ('1 copy', '2,000 documents')

    Args:
        number: how many there are.
        one: the word for one of them.
        many: the word for several; "" for the one with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


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
            raise ValueError(f"{section}.{name} must be one of {choices}; got {brief(getattr(config, name))}")


def require_types(config: object, section: str) -> None:
    """Check that the fields of a dataclass have the types that it declares.

    A file may have any type. Without this check a list as a size would end in a traceback, and `true` would be 1.

    Args:
        config: the dataclass; its fields are numbers, true or false, texts, tuples of one type, dataclasses, or null.
        section: what it is called in a configuration file, for the message.

    Raises:
        ValueError: a field has another type, or is a number that is not finite.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if not any(_has_type(value, one) for one in kinds):
            expected = " or ".join(
                "a list" if get_origin(one) is tuple else _TYPE_NAMES.get(one, "a section") for one in kinds
            )
            raise ValueError(f"{section}.{name} must be {expected}, got {brief(value)}")


_TYPE_NAMES = {
    int: "a whole number below 2⁶³",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def _has_type(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True  # `require_choices` names what is allowed
    if get_origin(kind) is tuple:  # tuple[int, ...]
        return isinstance(value, tuple) and all(_has_type(item, get_args(kind)[0]) for item in value)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
    return is_finite(value) if kind is float else isinstance(value, kind)


def is_finite(value: object) -> bool:
    """Whether a value is a number that a float can hold; true and false are not numbers."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number of more than 308 digits
        return False


def brief(value: object, quotes: bool = True) -> str:
    """A value of any size in at most 80 characters, for a message.

    Args:
        value: what a file or a user gave.
        quotes: whether a text is shown with quotation marks.
    """
    text = _BRIEF.repr(value)
    if isinstance(value, str) and not quotes:
        text = text[1:-1]
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


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

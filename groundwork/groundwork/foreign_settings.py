"""The settings in another program's file: each is obeyed, is known to be harmless, or is refused by name.

Such a file has fields that this project does not know, and any of them may change what a model computes: a scale, a
window, another kind of layer. So no field is passed over. What no reader asks for must be known to be harmless, or be
switched off. Otherwise the file is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from groundwork.user_errors import UserError, brief, is_finite

_REQUIRED: Any = object()


class ForeignSettings:
    """Reads a JSON object, and remembers which fields were read.

    A field without a default is required. A field may be null only where its default is None.

    >>> settings = ForeignSettings({"hidden_size": 64, "use_cache": True, "new_scale": 2.0}, "config.json")
    >>> settings.whole("hidden_size"), settings.number("rope_theta", 10_000.0)
    (64, 10000.0)
    >>> settings.refuse_others({"use_cache"})
    Traceback (most recent call last):
    groundwork.user_errors.UserError: config.json has new_scale: 2.0, which is not supported and may change the result

    Args:
        content: the object.
        file: what the messages call it.
    """

    def __init__(self, content: dict[str, Any], file: str):
        self.file = file
        self._content = content
        self._read: set[str] = set()

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """A field of any type.

        Raises:
            UserError: it is required and missing.
        """
        self._read.add(name)
        found = self._content.get(name, default)
        if found is _REQUIRED:
            raise UserError(f"{self.file} lacks {name}")
        return found

    def whole(self, name: str, default: Any = _REQUIRED) -> Any:
        """A whole number.

        Raises:
            UserError: it is missing or something else.
        """
        return self._checked(name, default, "a whole number", lambda x: type(x) is int)

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A finite number.

        Raises:
            UserError: it is missing or something else.
        """
        found = self._checked(name, default, "a finite number", is_finite)
        return None if found is None else float(found)

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """true or false.

        Raises:
            UserError: it is missing or something else.
        """
        return self._checked(name, default, "true or false", lambda x: type(x) is bool)

    def one_of(self, name: str, *allowed: Any) -> Any:
        """A field with few possible values; the first one is the default.

        Raises:
            UserError: it has another value.
        """
        found = self.value(name, allowed[0])
        if found not in allowed:
            choices = " or ".join(map(_in_json, allowed))
            raise UserError(f"{self.file} has {name}: {_in_json(found)}; only {choices} is supported")
        return found

    def section(self, name: str) -> ForeignSettings:
        """An object inside the object; empty where it is missing or null.

        Raises:
            UserError: it is something else.
        """
        found = self._checked(name, None, "an object", lambda x: isinstance(x, dict))
        return ForeignSettings(found or {}, f"{self.file}'s {name}")

    def __bool__(self) -> bool:
        return bool(self._content)

    def refuse_others(self, harmless: Collection[str]) -> None:
        """Refuse what was not read, is not harmless, and is not switched off (null, false or empty).

        Args:
            harmless: names of fields that do not change the result.

        Raises:
            UserError: there is such a field; the message names up to three.
        """
        left = {
            name: value
            for name, value in self._content.items()
            if name not in self._read and name not in harmless and not _is_off(value)
        }
        if left:
            shown = ", ".join(
                f"{brief(name, quotes=False)}: {_in_json(value)}" for name, value in list(left.items())[:3]
            )
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise UserError(f"{self.file} has {shown}{more}, which is not supported and may change the result")

    def _checked(self, name: str, default: Any, what: str, fits: Callable[[Any], bool]) -> Any:
        found = self.value(name, default)
        if not fits(found) and not (found is None and default is None):
            raise UserError(f"{self.file} has {name}: {_in_json(found)}; it should be {what}")
        return found


def _is_off(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, dict | list | str) and not value)


def _in_json(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else brief(value)

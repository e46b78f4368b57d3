"""What can go wrong when exporting."""

from __future__ import annotations

from importlib.util import find_spec


class ExportError(ValueError):
    """A model or tokenizer that a format cannot hold, or a package that is missing; one line."""


def require_package(name: str, extra: str) -> None:
    """Check that an optional package is installed.

    Raises:
        ExportError: it is not; says how to install it.
    """
    if find_spec(name) is None:
        raise ExportError(f'this export needs the package {name}: pip install -e ".[{extra}]"')

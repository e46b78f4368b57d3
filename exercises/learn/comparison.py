"""Say where two values first differ, in words that help to find the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from numbers import Number
from typing import Any

import numpy as np
import torch

_DEFAULT = 1e-6  # tolerance
_SHOWN = 12  # an array with at most so many numbers is written out


def first_difference(got: Any, expected: Any, tolerance: float | None = 0.0, where: str = "") -> str | None:
    """What is different in `got`, or None if nothing is.

    Args:
        got: a number, text, array, tensor or dataclass, or a list, tuple, set or dictionary of these.
        expected: what it should be.
        tolerance: |got - expected| may be at most tolerance · (1 + |expected|). None is 1e-6, and 1e-9 for arrays and
            tensors of float64.
        where: the place of both in a larger value, such as `[0]`.

    >>> first_difference([1.0, 2.5], [1.0, 2.0])
    'at [1]: 2.5, expected 2.0'
    >>> first_difference(1.7320508, 1.7320501)
    '1.7320508, expected 1.7320501'
    >>> first_difference(np.ones(3).sum(), np.array(3.0)) is None
    True
    """
    at = f"at {where}: " if where else ""
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return _array_difference(got, expected, tolerance, at)
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        missing = [key for key in expected if key not in got]
        extra = [key for key in got if key not in expected]
        if missing or extra:
            return f"{at}missing: {_some(missing)}; not expected: {_some(extra)}"
        return _first(first_difference(got[key], expected[key], tolerance, f"{where}[{key!r}]") for key in expected)
    if dataclasses.is_dataclass(expected) and type(got) is type(expected):
        names = [field.name for field in dataclasses.fields(expected)]
        return _first(first_difference(getattr(got, n), getattr(expected, n), tolerance, f"{where}.{n}") for n in names)
    if isinstance(expected, (list, tuple)):
        if type(got) is not type(expected):
            return f"{at}{_kind(got)}, expected {_kind(expected)}"
        return _sequence_difference(got, expected, tolerance, where, at)
    if isinstance(expected, Set) and isinstance(got, Set):
        if got == expected:
            return None
        return f"{at}missing: {_some(sorted(expected - got))}; not expected: {_some(sorted(got - expected))}"
    if isinstance(expected, (bool, np.bool_)) or not isinstance(expected, Number):
        kind = (bool, np.bool_) if isinstance(expected, (bool, np.bool_)) else type(expected)
        same = isinstance(got, kind) and bool(expected == got)  # an object may say that it equals everything
        return None if same else f"{at}{show(got)}, expected {show(expected)}"
    if not isinstance(got, Number) or isinstance(got, (bool, np.bool_)):
        return f"{at}{_kind(got)}, expected a number: {show(expected)}"
    most = _DEFAULT if tolerance is None else tolerance
    close = bool(np.isclose(complex(got), complex(expected), rtol=most, atol=most, equal_nan=True))  # type: ignore[call-overload]
    return None if close else f"{at}{_apart(got, expected)}"


def _sequence_difference(
    got: Sequence[Any], expected: Sequence[Any], tolerance: float | None, where: str, at: str
) -> str | None:
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=False)):
        difference = first_difference(mine, theirs, tolerance, f"{where}[{index}]")
        if difference is not None:
            return difference
    if len(got) != len(expected):
        return f"{at}{len(got)} entries, expected {len(expected)}"
    return None


def _array_difference(got: Any, expected: torch.Tensor | np.ndarray, tolerance: float | None, at: str) -> str | None:
    if isinstance(got, np.generic) and isinstance(expected, np.ndarray):
        got = np.asarray(got)  # NumPy turns an array without axes into a number at every operation
    if not isinstance(got, type(expected)) and not (
        isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor)
    ):
        return f"{at}{_kind(got)}, expected {_kind(expected)}"
    if tuple(got.shape) != tuple(expected.shape):
        return f"{at}shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor):
        if got.dtype != expected.dtype:
            return f"{at}dtype {got.dtype}, expected {expected.dtype}"
        if got.device != expected.device:
            return f"{at}on device {got.device}, expected {expected.device}"
        if got.device.type == "meta":
            return None  # there are no numbers
    mine, theirs = _to_numpy(got), _to_numpy(expected)
    if mine.dtype != theirs.dtype and "f" in mine.dtype.kind + theirs.dtype.kind:
        return f"{at}dtype {mine.dtype}, expected {theirs.dtype}"
    if tolerance is None:
        tolerance = 1e-9 if theirs.dtype == np.float64 else _DEFAULT
    wrong = ~np.isclose(
        mine.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    if not wrong.any():
        return None
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"at [{', '.join(map(str, first))}]: " if first else ""
    text = f"{at}{place}{_apart(mine[first].item(), theirs[first].item())}"
    if mine.size > 1:
        text += f"  ({int(wrong.sum())} of {mine.size} values differ)"
    return text


def _apart(got: Any, expected: Any) -> str:
    """Two numbers, with enough digits to show the difference."""
    short = show(got), show(expected)
    mine, theirs = short if short[0] != short[1] else (repr(got), repr(expected))
    return f"{mine}, expected {theirs}"


def _to_numpy(value: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()


def _first(differences: Any) -> str | None:
    return next((difference for difference in differences if difference is not None), None)


def _some(items: Sequence[Any]) -> str:
    return ", ".join(map(show, items[:4])) + (" …" if len(items) > 4 else "") if items else "nothing"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{name} of shape {tuple(value.shape)}" if isinstance(value, (torch.Tensor, np.ndarray)) else name


def show(value: Any) -> str:
    """A value in at most one line. Small values are written out; large arrays are shown by their shape.

    >>> show(torch.zeros(2, 2)), show(torch.zeros(20, 3))
    ('[[0.0, 0.0], [0.0, 0.0]]', 'tensor of shape (20, 3)')
    """
    if isinstance(value, (torch.Tensor, np.ndarray)):
        size = value.numel() if isinstance(value, torch.Tensor) else value.size
        if size > _SHOWN:
            return f"{'tensor' if isinstance(value, torch.Tensor) else 'array'} of shape {tuple(value.shape)}"
        value = _to_numpy(value)
        value = (value.round(4) if value.dtype.kind == "f" else value).tolist()
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, (list, tuple)) and len(value) <= _SHOWN:
        inside = ", ".join(show(item) for item in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"

"""The same question in other forms: what a function must take without being told.

A function that makes its own tensors may make them with another type, or on another device, than its arguments. One that
reshapes may need arguments that are contiguous in memory. One that remembers may answer the second call with what it
made for the first. Each case of an exercise is asked in these forms too, where the package's function has an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learn.exercise import Case


@dataclass(frozen=True)
class Form:
    """A way to ask a question again.

    Args:
        phrase: how it differs, in words for the learner.
        convert: turns a tensor, an array or a dictionary into another with the same content. It returns the very same
            object if it has nothing to change.
        move: changes a module in the same way. Without it, modules and other objects may stay as they are.
    """

    phrase: str
    convert: Callable[[Any], Any]
    move: Callable[[nn.Module], nn.Module] | None = None

    def of(self, case: Case) -> Case | None:
        """The case in this form; None if its arguments stay the same."""
        old = [*case.arguments, *case.keywords.values()]
        new = [self._visit(value) for value in old]
        if all(value is before for value, before in zip(new, old, strict=True)):
            return None
        if self.move is not None:
            if not all(value is None or isinstance(value, _UNDERSTOOD) for value in new):
                return None  # a store or a function may hold tensors of its own, which would not go with the others
            new = [self.move(value) if isinstance(value, nn.Module) else value for value in new]
        count = len(case.arguments)
        return replace(case, arguments=new[:count], keywords=dict(zip(case.keywords, new[count:], strict=True)))

    def _visit(self, value: Any) -> Any:
        new = self.convert(value)
        if new is value and type(value) in (list, tuple):
            items = [self._visit(item) for item in value]
            if any(item is not old for item, old in zip(items, value, strict=True)):
                return type(value)(items)
        return new


def _with_type(to: torch.dtype, to_array: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if _plain(value) and value.dtype in (torch.float32, torch.float64) and value.dtype != to:
            return _like(value, value.detach().to(to))
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype != to_array:
            return value.astype(to_array)
        return value

    return convert


def _elsewhere(value: Any) -> Any:
    return _like(value, value.detach().to("meta")) if _plain(value) else value


def _laid_out_differently(value: Any) -> Any:
    if _plain(value) and value.numel() > 1 and value.is_contiguous():
        return _like(value, torch.stack([value.detach(), value.detach()], dim=-1)[..., 0])
    if isinstance(value, np.ndarray) and value.size > 1 and value.flags.c_contiguous:
        return np.stack([value, value], axis=-1)[..., 0]
    return dict(reversed(value.items())) if type(value) is dict and len(value) > 1 else value


def _plain(value: Any) -> bool:
    return type(value) is Tensor and value.layout == torch.strided


def _like(value: Tensor, new: Tensor) -> Tensor:
    return new.requires_grad_(value.requires_grad)


def _differentiable(value: Any) -> Any:
    if _plain(value) and value.dtype.is_floating_point and not value.requires_grad:
        return value.detach().clone().requires_grad_()
    return value


_UNDERSTOOD = (Tensor, np.ndarray, nn.Module, list, tuple, dict, str, bytes, int, float, torch.dtype)

FORMS = {
    "float64": Form("the same in float64", _with_type(torch.float64, np.float64), lambda module: module.double()),
    "float32": Form("the same in float32", _with_type(torch.float32, np.float32), lambda module: module.float()),
    "device": Form("the same on the device 'meta', which has only shapes", _elsewhere, lambda m: m.to("meta")),
    "gradient": Form("the gradient of the same", _differentiable),
    "again": Form("asked again, with arguments laid out differently in memory", _laid_out_differently),
}

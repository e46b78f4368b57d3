"""What a file may say is checked against the types that a dataclass declares, and is shown briefly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from groundwork.user_errors import brief, require_types


@dataclass(frozen=True)
class Inner:
    factor: float = 1.0


@dataclass(frozen=True)
class Sizes:
    width: int = 1
    heads: int | None = None
    eps: float = 1e-5
    tied: bool = True
    kind: Literal["a", "b"] = "a"
    name: str = ""
    inner: Inner | None = field(default_factory=Inner)


@pytest.mark.parametrize(
    "good", [{}, {"width": np.int64(3), "eps": 1}, {"heads": 2, "inner": None, "eps": np.float32(1)}]
)
def test_declared_types_pass(good):
    require_types(Sizes(**good), "model")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": "64"}, "model.width must be a whole number below 2⁶³, got '64'"),
        ({"width": 64.0}, "model.width must be a whole number"),
        ({"width": True}, "model.width must be a whole number"),
        ({"width": 2**63}, "model.width must be a whole number"),
        ({"width": None}, "model.width must be a whole number"),
        ({"heads": [4]}, r"model.heads must be a whole number below 2⁶³ or null, got \[4\]"),
        ({"eps": float("inf")}, "model.eps must be a finite number, got inf"),
        ({"eps": True}, "model.eps must be a finite number"),
        ({"eps": 10**400}, "model.eps must be a finite number"),
        ({"tied": 1}, "model.tied must be true or false"),
        ({"name": 5}, "model.name must be a text"),
        ({"inner": {"factor": 2}}, "model.inner must be a section or null"),
    ],
)
def test_another_type_is_named(wrong, message: str):
    with pytest.raises(ValueError, match=message):
        require_types(Sizes(**wrong), "model")


def test_a_value_of_any_size_is_shown_briefly():
    assert brief("a") == "'a'" and brief("a", quotes=False) == "a" and brief([1, 2]) == "[1, 2]"
    nested: list[object] = []
    for _ in range(500):
        nested = [nested] * 10
    for value in ("x" * 10**6, [["y" * 100] * 100] * 100, {"k" * 200: 1}, nested, 10**3000, b"\0" * 10**6):
        assert len(brief(value)) <= 80 and "\n" not in brief(value)

"""Exercise 1.4: The gradient of a broadcast."""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an input was repeated to reach the output's shape.

    NumPy broadcasts: a bias of shape (3,) added to a matrix of shape (4, 3) is used four times, once for each row. If
    a number is used several times, its gradient is the sum over its uses.

    Broadcasting does two things to a shape: it puts axes in front, and it stretches axes of length 1.

    Args:
        gradient: the gradient of the output.
        shape: the shape of the input, which was broadcast to the gradient's shape.

    Returns:
        The gradient of the input, of the given shape.

    >>> unbroadcast(np.ones((4, 3)), (3,))
    array([4., 4., 4.])
    """
    raise NotImplementedError("Exercise 1.4: sum over the repeated axes")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Nothing repeated; axes in front; stretched axes; both."""
    rng = np.random.default_rng(0)
    yield Case("nothing was repeated", [rng.normal(size=(2, 3)), (2, 3)])
    yield Case("a row added to four rows", [np.arange(12.0).reshape(4, 3), (3,)])
    yield Case("a column added to three columns", [np.arange(12.0).reshape(4, 3), (4, 1)])
    yield Case("a single number added to a matrix", [rng.normal(size=(4, 3)), ()])
    yield Case("(1, 3) to (2, 4, 3): an axis in front and a stretched one", [rng.normal(size=(2, 4, 3)), (1, 3)])
    yield Case("(3,) to (3, 3), where the sizes do not show which axis is new", [np.arange(9.0).reshape(3, 3), (3,)])
    yield Case("(1, 1) to (4, 3): both axes stretched", [rng.normal(size=(4, 3)), (1, 1)])
    yield Case(
        "(1, 4, 1) to (2, 3, 4, 5): axes in front and stretched ones", [rng.normal(size=(2, 3, 4, 5)), (1, 4, 1)]
    )
    yield Case("(2, 1) to (2, 2)", [rng.normal(size=(2, 2)), (2, 1)])
    yield Case("(1, 1) to (2, 4, 1)", [rng.normal(size=(2, 4, 1)), (1, 1)])
    yield Case("float32 stays float32", [rng.normal(size=(4, 3)).astype(np.float32), (3,)])
    yield Case("an axis of length 1 that stayed 1", [rng.normal(size=(5, 1, 2)), (1, 2)])


def _no_keepdims(gradient: Array, shape: tuple[int, ...]) -> Array:
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, size in enumerate(shape):
        if size == 1:
            return gradient.sum(axis=axis)
    return gradient


def _only_leading(gradient: Array, shape: tuple[int, ...]) -> Array:
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    return gradient


def _mean(gradient: Array, shape: tuple[int, ...]) -> Array:
    while gradient.ndim > len(shape):
        gradient = gradient.mean(axis=0)
    for axis, size in enumerate(shape):
        if size == 1:
            gradient = gradient.mean(axis=axis, keepdims=True)
    return gradient


def _last_axis(gradient: Array, shape: tuple[int, ...]) -> Array:
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=-1)
    for axis, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return gradient


EXERCISE = Exercise(
    stub=unbroadcast,
    reference="neural_networks.broadcasting:unbroadcast",
    cases=cases,
    hints=(
        "Broadcasting does two things. Undo them one after the other, and begin with the axes in front.",
        "While the gradient has more axes than the shape, sum over axis 0. Then, for each axis where the shape says 1, "
        "sum over that axis and keep it.",
        "gradient.sum(axis=0) in a while loop; then gradient.sum(axis=axis, keepdims=True) for the axes of length 1.",
    ),
    mistakes=(
        Mistake(_only_leading, "axes of length 1 that were stretched must be summed over as well"),
        Mistake(_no_keepdims, "a stretched axis stays, with length 1: sum with keepdims=True"),
        Mistake(_mean, "each use adds its gradient: sum, do not average"),
        Mistake(_last_axis, "broadcasting puts new axes in front, so the ones to sum over are the first, not the last"),
    ),
)

"""Undo what NumPy does to shapes: a gradient must have the shape of the input.

Broadcasting repeats an input along an axis. A number that was used several times gets the sum of
the gradients of its uses. A reduction does the opposite and removes an axis. The gradient needs
that axis again before it can be spread over the summands.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Axes = int | tuple[int, ...] | None


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an input was repeated to reach the output's shape.

    >>> unbroadcast(np.ones((4, 3)), (3,))
    array([4., 4., 4.])
    """
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = tuple(i + added for i, size in enumerate(shape) if size == 1 and gradient.shape[i + added] != 1)
    return gradient.sum(axis=(*range(added), *stretched), keepdims=True).reshape(shape)


def restore_axes(reduced: Array, shape: tuple[int, ...], axis: Axes) -> Array:
    """Put back, with length 1, the axes of `shape` that a reduction over `axis` removed.

    >>> restore_axes(np.ones(2), (2, 5), axis=1).shape
    (2, 1)
    """
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {i % len(shape) for i in axes}
    return reduced.reshape([1 if i in gone else size for i, size in enumerate(shape)])

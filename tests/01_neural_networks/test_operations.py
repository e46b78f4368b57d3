"""Stage 1: every operation of the autograd engine, compared with finite differences and PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from neural_networks import operations as ops
from neural_networks.backpropagation import Tensor
from neural_networks.gradient_checking import check_gradients

# Everything is in float64, so 1e-10 allows another order of summation and nothing else.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def assert_same_as_torch(ours: Callable[..., Tensor], theirs: Callable[..., torch.Tensor], *arrays: np.ndarray) -> None:
    """Values, and gradients of a randomly weighted sum, equal those of PyTorch."""
    a = [Tensor(array.copy(), requires_grad=True) for array in arrays]
    b = [torch.tensor(array, requires_grad=True) for array in arrays]
    out, expected = ours(*a), theirs(*b)
    np.testing.assert_allclose(out.data, expected.detach().numpy(), **EXACT)
    weights = np.random.default_rng(1).normal(size=out.shape)
    out.backward(weights)
    expected.backward(torch.tensor(weights))
    for x, y in zip(a, b, strict=True):
        assert x.grad is not None
        assert x.grad.shape == x.shape
        np.testing.assert_allclose(x.grad, y.grad.numpy(), **EXACT)


def assert_right(ours: Callable[..., Tensor], theirs: Callable[..., torch.Tensor], *arrays: np.ndarray) -> None:
    assert_same_as_torch(ours, theirs, *arrays)
    for check in check_gradients(ours, *arrays):
        assert check.passed, check


def away_from_kinks(x: np.ndarray) -> np.ndarray:
    """Keep away from the bends of relu and maximum, where finite differences measure something else."""
    return np.where(np.abs(x) < 1e-2, 0.5, x)


ELEMENTWISE = {
    "exp": (ops.exp, torch.exp),
    "log": (lambda x: ops.log(x * x + 1.0), lambda x: torch.log(x * x + 1.0)),
    "tanh": (ops.tanh, torch.tanh),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "relu": (ops.relu, torch.relu),
    "gelu": (ops.gelu, F.gelu),
    "gelu_tanh": (ops.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    "square": (lambda x: x**2, lambda x: x**2),
    "root": (lambda x: (x * x + 1.0) ** 0.5, lambda x: (x * x + 1.0) ** 0.5),
    "reciprocal": (lambda x: 1.0 / (x * x + 1.0), lambda x: 1.0 / (x * x + 1.0)),
    "negative": (lambda x: -x, lambda x: -x),
    "constants": (lambda x: 3.0 - (2.0 * x + 1.0) / 4.0, lambda x: 3.0 - (2.0 * x + 1.0) / 4.0),
    "used three times": (lambda x: x * x + x, lambda x: x * x + x),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@settings(max_examples=15, deadline=None)
@given(shape=array_shapes(min_dims=0, max_dims=3, max_side=4), seed=st.integers(0, 2**16))
def test_elementwise_operations(name: str, shape: tuple[int, ...], seed: int):
    x = away_from_kinks(np.random.default_rng(seed).normal(size=shape))
    assert_right(*ELEMENTWISE[name], x)


BINARY = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "×": (lambda a, b: a * b, lambda a, b: a * b),
    "÷": (lambda a, b: a / (b * b + 1.0), lambda a, b: a / (b * b + 1.0)),
    "maximum": (ops.maximum, torch.maximum),
}


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=20, deadline=None)
@given(
    shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3).map(lambda s: s.input_shapes),
    seed=st.integers(0, 2**16),
)
def test_binary_operations_broadcast(name: str, shapes: tuple[tuple[int, ...], ...], seed: int):
    rng = np.random.default_rng(seed)
    assert_right(*BINARY[name], *(rng.normal(size=shape) for shape in shapes))


@settings(max_examples=30, deadline=None)
@given(
    batch=mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3).map(lambda s: s.input_shapes),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    seed=st.integers(0, 2**16),
)
def test_matrix_products_broadcast_their_batch_dimensions(batch, sizes, seed):
    rng, (n, k, m) = np.random.default_rng(seed), sizes
    a, b = rng.normal(size=(*batch[0], n, k)), rng.normal(size=(*batch[1], k, m))
    assert_right(lambda x, y: x @ y, lambda x, y: x @ y, a, b)


@settings(max_examples=30, deadline=None)
@given(shape=array_shapes(min_dims=1, max_dims=4, max_side=4), keepdims=st.booleans(), data=st.data())
def test_reductions(shape: tuple[int, ...], keepdims: bool, data: st.DataObject):
    x = np.random.default_rng(len(shape)).normal(size=shape)
    one = data.draw(st.integers(-len(shape), len(shape) - 1))
    several = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    for axis in (one, several, None):
        # Some versions of PyTorch do not accept axis=None together with keepdim in `sum`, so name all axes.
        dim = tuple(range(len(shape))) if axis is None else axis
        assert_right(lambda t: t.sum(axis, keepdims), lambda t: t.sum(dim, keepdim=keepdims), x)  # noqa: B023
        assert_right(lambda t: t.mean(axis, keepdims), lambda t: t.mean(dim, keepdim=keepdims), x)  # noqa: B023
        assert_right(lambda t: ops.amax(t, axis, keepdims), lambda t: torch.amax(t, dim, keepdim=keepdims), x)  # noqa: B023
    assert_right(lambda t: ops.softmax(t, one), lambda t: torch.softmax(t, one), x)
    assert_right(lambda t: ops.log_softmax(t, one), lambda t: torch.log_softmax(t, one), x)
    assert_right(lambda t: ops.logsumexp(t, one, keepdims), lambda t: torch.logsumexp(t, one, keepdim=keepdims), x)


def test_equal_numbers_share_the_gradient_of_a_maximum_as_in_pytorch():
    x = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    assert_same_as_torch(lambda t: ops.amax(t, -1), lambda t: torch.amax(t, -1), x)
    assert_same_as_torch(ops.maximum, torch.maximum, x, np.full((2, 3), 2.0))
    assert_same_as_torch(ops.relu, torch.relu, np.array([-1.0, 0.0, 1.0]))


@settings(max_examples=20, deadline=None)
@given(shape=array_shapes(min_dims=1, max_dims=3, max_side=4), classes=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_cross_entropy(shape: tuple[int, ...], classes: int, seed: int):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(*shape, classes)), rng.integers(0, classes, shape)
    assert_right(
        lambda x: ops.cross_entropy(x, targets),
        lambda x: F.cross_entropy(x.reshape(-1, classes), torch.tensor(targets).flatten()),
        logits,
    )


def test_softmax_and_its_relatives_do_not_overflow():
    x = np.array([[1000.0, 0.0, -1000.0], [-1e4, -1e4, -1e4 - 1]])
    assert_same_as_torch(ops.softmax, lambda t: torch.softmax(t, -1), x)
    assert_same_as_torch(ops.log_softmax, lambda t: torch.log_softmax(t, -1), x)
    assert_same_as_torch(ops.logsumexp, lambda t: torch.logsumexp(t, -1), x)
    assert_same_as_torch(
        lambda t: ops.cross_entropy(t, np.array([2, 0])), lambda t: F.cross_entropy(t, torch.tensor([2, 0])), x
    )
    assert_same_as_torch(ops.sigmoid, torch.sigmoid, x)


INDICES = {
    "slice": (slice(1, 3), slice(None)),
    "row": 2,
    "negative step": slice(None, None, -2),
    "repeated rows": np.array([0, 2, 2, 2]),
    "pairs with repeats": (np.array([0, 1, 0]), np.array([1, 1, 1])),
    "mask": np.array([True, False, True, True]),
    "ellipsis and new axis": (Ellipsis, None, 1),
}


@pytest.mark.parametrize("name", INDICES)
def test_indexing_adds_up_the_gradients_of_repeats(name: str):
    x, index = np.random.default_rng(0).normal(size=(4, 3)), INDICES[name]
    for check in check_gradients(lambda t: t[index], x):
        assert check.passed, check
    if name != "negative step":  # PyTorch does not have it
        as_torch = torch.tensor(index) if isinstance(index, np.ndarray) else index
        assert_same_as_torch(lambda t: t[index], lambda t: t[as_torch], x)


@settings(max_examples=20, deadline=None)
@given(shape=array_shapes(min_dims=1, max_dims=3, max_side=5), seed=st.integers(0, 2**16))
def test_embedding_gathers_rows_and_adds_up_their_gradients(shape: tuple[int, ...], seed: int):
    rng = np.random.default_rng(seed)
    for ids in (rng.integers(0, 4, shape), rng.integers(0, 4, shape).astype(np.uint8)):
        assert_right(
            lambda t: ops.embedding(t, ids),  # noqa: B023
            lambda t: F.embedding(torch.tensor(ids.astype(np.int64)), t),  # noqa: B023
            rng.normal(size=(4, 3)),
        )


def test_embedding_refuses_ids_outside_the_table():
    table = Tensor(np.zeros((4, 2)))
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            ops.embedding(table, np.array([0, wrong]))


def test_shape_operations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 4))
    assert_right(lambda t: t.reshape(4, -1) * 2.0, lambda t: t.reshape(4, -1) * 2.0, x)
    assert_right(lambda t: t.transpose(2, 0, 1), lambda t: t.permute(2, 0, 1), x)
    assert_right(lambda t: t.transpose(0, -1, 1), lambda t: t.permute(0, -1, 1), x)
    assert_right(lambda t: t.transpose(), lambda t: t.permute(2, 1, 0), x)
    assert_right(lambda a, b: ops.concatenate([a, b], 1), lambda a, b: torch.cat([a, b], 1), x, y)
    mask = x[0] > 0
    assert_right(
        lambda a: ops.where(mask, a, -7.0), lambda a: torch.where(torch.tensor(mask), a, torch.tensor(-7.0).double()), x
    )
    assert_right(lambda a, b: ops.where(mask, a, b), lambda a, b: torch.where(torch.tensor(mask), a, b), x, x[1, :1])


def test_a_power_of_zero_has_no_slope_even_at_zero():
    assert_same_as_torch(lambda x: x**0, lambda x: x**0, np.array([0.0, 2.0]))
    with pytest.raises(TypeError, match="exponent must be a number"):
        Tensor(2.0) ** Tensor(3.0)


def test_arrays_on_the_left_leave_the_operation_to_the_tensor():
    x, array = np.random.default_rng(0).normal(size=(3, 3)), np.arange(9.0).reshape(3, 3)
    weights = torch.tensor(array)
    assert_right(lambda t: array - array * t + array @ t, lambda t: weights - weights * t + weights @ t, x)

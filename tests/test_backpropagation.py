"""Stage 1: the autograd engine, beside finite differences and PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from neural_networks import operations as ops
from neural_networks.backpropagation import Tensor, no_grad
from neural_networks.gradient_checking import check_gradients, numerical_gradient
from neural_networks.graph_drawing import draw_graph, layout, nodes_and_edges, to_dot

# float64 throughout: 1e-10 leaves room for another order of summation and for nothing else.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def assert_same_as_torch(ours: Callable[..., Tensor], theirs: Callable[..., torch.Tensor], *arrays: np.ndarray) -> None:
    """Values, and gradients behind random weights, equal those of PyTorch."""
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
    """Where relu and maximum bend, finite differences measure something else."""
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
        # PyTorch takes no axis=None together with keepdim in `sum` of some versions: name all axes.
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
    if name != "negative step":  # which PyTorch has not
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


# --- the engine ----------------------------------------------------------------------------------


def test_gradients_accumulate_until_they_are_cleared():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    for expected in (2.0, 4.0, 6.0):
        (2 * x).sum().backward()
        assert x.grad is not None
        np.testing.assert_array_equal(x.grad, expected)
    x.grad = None
    (2 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0)


def test_a_second_backward_is_an_error_unless_the_graph_is_kept():
    x = Tensor(3.0, requires_grad=True)
    loss = x * x
    loss.backward(retain_graph=True)
    loss.backward()
    assert x.grad == 12.0
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert x.grad == 12.0


def test_a_graph_that_shares_a_freed_part_changes_no_gradient_before_it_fails():
    x, y = Tensor(3.0, requires_grad=True), Tensor(2.0, requires_grad=True)
    shared = x * x
    shared.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        (shared * y).backward()
    assert x.grad == 6.0
    assert y.grad is None


def test_backward_asks_for_a_gradient_of_several_numbers():
    x = Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(RuntimeError, match=r"shape \(3,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"has shape \(2,\)"):
        (x * 2).backward(np.ones(2))
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        Tensor(1.0).backward()


def test_no_grad_and_detach_build_no_graph():
    x = Tensor(2.0, requires_grad=True)
    with no_grad():
        with no_grad():
            pass
        y = x * x
    assert not y.requires_grad
    assert not (x.detach() * 2).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * x).requires_grad
    z = x * x.detach()
    z.backward()
    assert x.grad == 2.0


def test_inner_gradients_are_kept_where_asked():
    x = Tensor(2.0, requires_grad=True)
    y = (x * x).keep_grad()
    z = y * 3
    z.backward()
    assert y.grad == 3.0
    assert z.grad is None


def test_gradients_do_not_share_memory_with_one_another():
    a, b = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    (a + b).sum().backward()
    assert a.grad is not None
    a.grad += 1
    np.testing.assert_array_equal(b.grad, 1.0)


def test_precision_stays_what_it_was():
    x = Tensor(np.ones(3, dtype=np.float32), requires_grad=True)
    loss = (ops.gelu(x * 0.1) / 3 + 2 * x - 1).mean()
    loss.backward()
    assert loss.data.dtype == np.float32
    assert x.grad is not None
    assert x.grad.dtype == np.float32
    mixed = x * Tensor(np.ones(3), requires_grad=True)  # float64
    x.grad = None
    mixed.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal((Tensor([1, 2]) * 0.5).data, [0.5, 1.0])


def test_arrays_on_the_left_leave_the_operation_to_the_tensor():
    x, array = np.random.default_rng(0).normal(size=(3, 3)), np.arange(9.0).reshape(3, 3)
    weights = torch.tensor(array)
    assert_right(lambda t: array - array * t + array @ t, lambda t: weights - weights * t + weights @ t, x)


def test_a_graph_100_000_deep_goes_forward_backward_and_away():
    # In a process of its own: a stack that overflows on the way out would take the tests with it.
    program = """
from neural_networks.backpropagation import Tensor
x = Tensor(1.0, requires_grad=True)
y = x
for _ in range(100_000):
    y = y + 1.0
assert len(y.topological_order()) == 100_001
y.backward(retain_graph=True)
assert x.grad == 1.0
del y  # with its graph whole
y = x
for _ in range(100_000):
    y = y * 1.0
y.backward()
assert x.grad == 2.0
print("done")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-500:]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs_with_shared_parts(seed: int):
    """Twelve operations, each on any two of the tensors made so far."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(3, 2, 2))
    plan = [(rng.integers(0, 4), *rng.integers(0, 3 + step, 2)) for step in range(12)]

    def compute(tanh, *inputs):
        known = list(inputs)
        for kind, i, j in plan:
            a, b = known[i], known[j]
            known.append([lambda: a + b, lambda: tanh(a) * b, lambda: tanh(a @ b), lambda: a - tanh(b)][kind]())  # noqa: B023
        return tanh(sum(known[1:], known[0]))

    ours = [Tensor(x, requires_grad=True) for x in start]
    theirs = [torch.tensor(x, requires_grad=True) for x in start]
    compute(ops.tanh, *ours).sum().backward()
    compute(torch.tanh, *theirs).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x.grad, y.grad.numpy(), **EXACT)


# --- checking and drawing ------------------------------------------------------------------------


def test_the_gradient_check_finds_a_wrong_derivative_and_says_where():
    def wrong_square(x: Tensor) -> Tensor:
        return Tensor.from_operation(x.data**2, (x,), lambda g: (g * x.data,), "wrong")

    (check,) = check_gradients(wrong_square, np.array([1.0, 3.0]))
    assert not check.passed
    assert str(check).startswith("WRONG")
    (check,) = check_gradients(lambda x: ops.log(x), np.array([1.0, 0.5]))
    assert check.passed, check


def test_a_gradient_that_is_not_a_number_does_not_pass():
    def nan(x: Tensor) -> Tensor:
        return Tensor.from_operation(x.data, (x,), lambda g: (g * np.nan,), "nan")

    assert not check_gradients(nan, np.ones(2))[0].passed


def test_finite_differences_want_float64():
    with pytest.raises(ValueError, match="float64"):
        numerical_gradient(lambda: 0.0, np.zeros(1, dtype=np.float32))


def test_a_drawing_has_every_node_and_edge(tmp_path: Path):
    x, w = Tensor(2.0), Tensor(3.0, requires_grad=True)
    y = ops.tanh(x * w + w)
    nodes, edges = nodes_and_edges(y)
    assert [node.operation for node in nodes] == ["leaf", "leaf", "×", "+", "tanh"]
    assert sorted(edges) == [(0, 2), (1, 2), (1, 3), (2, 3), (3, 4)]
    dot = to_dot(y, {"w": w, 'a "name"': y})
    assert dot.count(" -> ") == 5
    assert r'1 [label="w\n3"]' in dot
    assert r'4 [label="tanh  →  a \"name\"\n1"]' in dot
    path = draw_graph(y, tmp_path / "new" / "graph.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_boxes_of_a_drawing_do_not_overlap_and_edges_go_right():
    rng = np.random.default_rng(0)
    edges = sorted({(int(rng.integers(0, b)), b) for b in range(1, 30) for _ in range(2)}, key=lambda edge: edge[1])
    places = layout(30, edges)
    assert len(set(places)) == 30
    assert all(places[a][0] < places[b][0] for a, b in edges)

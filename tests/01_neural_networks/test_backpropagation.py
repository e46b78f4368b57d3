"""Stage 1: the autograd engine itself, the gradient check, and how graphs are drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from neural_networks import operations as ops
from neural_networks.backpropagation import Tensor, no_grad
from neural_networks.gradient_checking import check_gradients, numerical_gradient
from neural_networks.graph_drawing import draw_graph, layout, nodes_and_edges, to_dot


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


def test_a_backward_function_that_returns_an_array_is_told_to_return_a_tuple():
    x = Tensor(np.ones(1), requires_grad=True)  # of length 1, so that it could be mistaken for a tuple of one
    doubled = Tensor.from_operation(2 * x.data, (x,), lambda g: 2 * g, "double")
    with pytest.raises(TypeError, match=r"'double' returned an array; .* one gradient for each input: \(gradient,\)"):
        doubled.backward()
    assert x.grad is None


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


@pytest.mark.slow
def test_a_graph_100_000_deep_goes_forward_backward_and_away():
    # In a separate process, because a stack that overflows while it unwinds would end the tests too.
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
        np.testing.assert_allclose(x.grad, y.grad.numpy(), rtol=1e-10, atol=1e-10)


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

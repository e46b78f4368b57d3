"""Exercise 1.6: In which order gradients flow.

A tensor that is used twice gets two gradients, and it must have both before it can pass anything on. So the
graph is sorted in topological order: every tensor comes after those that it was computed from.
"""

from __future__ import annotations

from neural_networks.backpropagation import Tensor


def topological_order(self: Tensor) -> list[Tensor]:
    """Every tensor that this one depends on and that needs a gradient, inputs before outputs, each once.

    The last in the list is this tensor itself. `backward` goes through the list from its end.

    A loss may depend on thousands of operations in a chain, and Python allows only about a thousand nested calls. So
    use a stack of your own instead of recursion.

    Args:
        self: the tensor to begin with. The tuple `self._inputs` holds the tensors that it was computed from. Leave out
            those whose `requires_grad` is False.
    """
    raise NotImplementedError("Exercise 1.6: sort the graph")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _in_order(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    """What is true of every right order; there are many of them."""
    places: dict[int, int] = {id(tensor): place for place, tensor in enumerate(result)}
    late = [
        f"'{tensor.operation}' stands before '{i.operation}', which it was computed from"
        for tensor in result
        for i in tensor._inputs
        if i.requires_grad and places.get(id(i), -1) >= places[id(tensor)]
    ]
    return {
        "operations and leaves": sorted(tensor.operation for tensor in result),
        "each once": len(places) == len(result),
        "order": late[0] if late else "inputs before outputs",
        "the last is the tensor itself": bool(result) and result[-1] is arguments[0],
    }


def cases() -> Iterator[Case]:
    """A leaf; a chain; a diamond; inputs without gradient; a deep graph."""
    yield Case("a leaf: only itself", [Tensor(1.0, requires_grad=True)], observe=_in_order)
    x = Tensor(2.0, requires_grad=True)
    yield Case("(x · 3)²: a chain", [(x * 3.0) ** 2], observe=_in_order)
    x = Tensor(2.0, requires_grad=True)
    y = x * 3.0
    yield Case("y + y² with y = 3 x: y is used twice", [y + y**2], observe=_in_order)
    x = Tensor(2.0, requires_grad=True)
    y = x * 3.0
    yield Case("(y²)² · y with y = 3 x: a long way and a short way to y", [(y**2) ** 2 * y], observe=_in_order)
    x, constant = Tensor(2.0, requires_grad=True), Tensor(5.0)
    yield Case("x · c, where c needs no gradient", [x * constant], observe=_in_order)
    x, hidden = Tensor(2.0, requires_grad=True), Tensor(3.0) * 2.0
    yield Case("x · c + x, where c was computed and needs no gradient", [x * hidden + x], observe=_in_order)
    x = Tensor(2.0, requires_grad=True)
    yield Case("x · x: the same input twice", [x * x], observe=_in_order)
    x, y = Tensor(2.0, requires_grad=True), Tensor(2.0, requires_grad=True)
    yield Case("x + y, where both hold the same number", [x + y], observe=_in_order)
    x = Tensor(1.0, requires_grad=True)
    for _ in range(12):
        x = x + x
    yield Case("x + x, twelve times: 4,096 ways lead to x", [x], observe=_in_order)
    x = Tensor(1.0, requires_grad=True)
    deep = x
    for _ in range(2000):
        deep = deep + 1.0
    yield Case("2,000 additions, one after the other", [deep], observe=_in_order)


def _recursive(self: Tensor) -> list[Tensor]:
    order: list[Tensor] = []
    visited: set[int] = set()

    def visit(node: Tensor) -> None:
        if id(node) not in visited:
            visited.add(id(node))
            for tensor in node._inputs:
                if tensor.requires_grad:
                    visit(tensor)
            order.append(node)

    visit(self)
    return order


def _walk(self: Tensor, first_in_first_out: bool = False, once: bool = True, constants: bool = False) -> list[Tensor]:
    order: list[Tensor] = []
    visited: set[int] = set()
    waiting = [self]
    while waiting:
        node = waiting.pop(0 if first_in_first_out else -1)
        if once and id(node) in visited:
            continue
        visited.add(id(node))
        order.append(node)
        waiting.extend(tensor for tensor in node._inputs if tensor.requires_grad or constants)
    return order[::-1]


def _breadth_first(self: Tensor) -> list[Tensor]:
    return _walk(self, first_in_first_out=True)


def _depth_first(self: Tensor) -> list[Tensor]:
    return _walk(self)


def _repeated(self: Tensor) -> list[Tensor]:
    return _walk(self, once=False)


def _when_met(self: Tensor) -> list[Tensor]:
    order: list[Tensor] = []

    def visit(node: Tensor) -> None:
        order.append(node)
        for tensor in node._inputs:
            if tensor.requires_grad and not any(tensor is other for other in order):
                visit(tensor)

    visit(self)
    return order[::-1]


def _outputs_first(self: Tensor) -> list[Tensor]:
    return _recursive_free(self)[::-1]


def _with_constants(self: Tensor) -> list[Tensor]:
    return _recursive_free(self, constants=True)


def _recursive_free(self: Tensor, constants: bool = False) -> list[Tensor]:
    order: list[Tensor] = []
    visited: set[int] = set()
    stack = [(self, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif id(node) not in visited:
            visited.add(id(node))
            stack.append((node, True))
            stack.extend((tensor, False) for tensor in node._inputs if tensor.requires_grad or constants)
    return order


_TOO_EARLY = (
    "a tensor was listed when it was first met. It may be met on a short way while tensors on a longer way need it too: "
    "list it after all its inputs"
)

EXERCISE = Exercise(
    stub=topological_order,
    reference="neural_networks.backpropagation:Tensor.topological_order",
    cases=cases,
    hints=(
        "A tensor may be put into the list only when all its inputs are in it. With recursion: first visit the inputs, "
        "then append yourself, and remember by id() whom you have visited.",
        "Instead of recursion, keep a stack of pairs (tensor, inputs are done). Take a pair off. If it has False, put the "
        "tensor back with True, and put its inputs on top of it with False. If it has True, append the tensor.",
        "stack = [(self, False)]; node, done = stack.pop(); if done: order.append(node); elif id(node) not in visited: "
        "add it, stack.append((node, True)), stack.extend((t, False) for t in node._inputs if t.requires_grad).",
    ),
    mistakes=(
        Mistake(
            _recursive, "the order is right, but recursion fails at Python's limit of about 1,000 calls: use a stack"
        ),
        Mistake(_outputs_first, "this is the opposite order: inputs come before outputs"),
        Mistake(_with_constants, "tensors with requires_grad = False have no gradient and are left out"),
        Mistake(_repeated, "a tensor that is used twice is in the list twice: remember by id() whom you have visited"),
        Mistake(_when_met, _TOO_EARLY),
        Mistake(_breadth_first, _TOO_EARLY),
        Mistake(_depth_first, _TOO_EARLY),
    ),
)

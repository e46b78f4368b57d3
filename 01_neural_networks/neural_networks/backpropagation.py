"""Reverse-mode automatic differentiation on NumPy arrays.

A `Tensor` remembers which operation made it from which inputs. Together the tensors form a graph. The
engine walks it backwards from a loss L. Each operation turns the gradient of its output into gradients
of its inputs by the chain rule (Linnainmaa, 1970; Rumelhart, Hinton and Williams, 1986):

    dL/dx = sum over the uses of x of (dL/dy) · (dy/dx)

The whole engine is `Tensor.backward`. The rest of this file is operations, each with the formula of its
gradient. The module `operations` has the further functions that a network needs.

    python -m neural_networks.backpropagation      # a neuron, forwards and backwards, with numbers
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import numpy as np

from neural_networks.broadcasting import Array, Axes, restore_axes, unbroadcast

ArrayLike = Union["Tensor", Array, float, int, Sequence[Any]]
# Takes the gradient of an output and returns the gradients of the inputs; None for an input that needs none.
Backward = Callable[[Array], Sequence[Array | None]]

_recording = True


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Compute without building a graph, for example to evaluate."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Tensor:
    """A NumPy array that knows how it was made.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> y = x * x + 2 * x
    >>> y.backward()
    >>> float(x.grad)  # dy/dx = 2x + 2
    8.0

    Args:
        data: the numbers; floats keep their precision. Integers become float64 where a gradient is
            wanted, as when NumPy computes with integers and floats together.
        requires_grad: whether `backward` should fill in `grad`.

    Raises:
        TypeError: the data are not real numbers.
    """

    __array_ufunc__ = None  # so that NumPy leaves `array * tensor` to the tensor

    def __init__(self, data: ArrayLike, requires_grad: bool = False):
        array = data.data if isinstance(data, Tensor) else np.asarray(data)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"a tensor holds real numbers, got {array.dtype}; to join tensors: operations.concatenate")
        if requires_grad and not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
        self.data: Array = array
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.operation = "leaf"
        self._inputs: tuple[Tensor, ...] = ()
        self._backward: Backward | None = None
        self._keeps_grad = False

    @staticmethod
    def from_operation(data: ArrayLike, inputs: tuple[Tensor, ...], backward: Backward, operation: str) -> Tensor:
        """Make the output of an operation. Every operation, here and elsewhere, adds a node this way.

        Args:
            data: the result.
            inputs: what it was computed from.
            backward: gradient of the result → gradients of the inputs, in order, a tuple even for one
                input. It must not change the array that it is given, because other operations may use the same one.
            operation: its name, for drawings.
        """
        out = Tensor(data)
        if _recording and any(tensor.requires_grad for tensor in inputs):
            out.requires_grad = True
            out.operation, out._inputs, out._backward = operation, inputs, backward
        return out

    # --- the engine --------------------------------------------------------------------------

    def backward(self, gradient: ArrayLike | None = None, retain_graph: bool = False) -> None:
        """Fill in `grad` of every leaf that this tensor depends on and that requires one.

        Gradients are added to those that are already there, so that a loss may be computed in pieces. Set
        `grad` to None before the next step.

        Args:
            gradient: dL/d(this), in this tensor's shape; not needed for a single number.
            retain_graph: keep the graph for another call. By default it is freed node by node, and
                a second call is an error, as in PyTorch. (PyTorch allows a second call where no
                operation had to save an array. Here it is always refused.)

        Raises:
            RuntimeError: this tensor requires no gradient, the graph was freed by an earlier call, or the
                gradient has another shape or is missing for several numbers. No `grad` has changed.
            TypeError: the backward function of an operation returned an array instead of a tuple.
            ValueError: it returned a gradient that does not have the shape of its input.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that does not require a gradient")
        if gradient is None and self.data.size != 1:
            raise RuntimeError(
                f"backward() needs a gradient for a tensor of shape {self.shape}: only a single number has an "
                "obvious one, 1"
            )
        given = gradient.data if isinstance(gradient, Tensor) else gradient
        start = np.ones_like(self.data) if given is None else np.asarray(given, dtype=self.data.dtype)
        if start.shape != self.shape:
            raise RuntimeError(f"the gradient has shape {start.shape}, the tensor {self.shape}")
        order = self.topological_order()
        if any(node._backward is _freed for node in order):
            _freed(start)

        gradients: dict[int, Array] = {id(self): start}
        for node in reversed(order):  # every use of a node comes before the node itself
            grad = gradients.pop(id(node), None)
            if grad is not None and (node._backward is None or node._keeps_grad):
                if node.grad is None:
                    node.grad = np.array(grad)  # a copy: `grad` may be a view, or shared
                else:
                    node.grad += grad
            if node._backward is None:
                continue
            if grad is not None:
                contributions = node._backward(grad)
                if isinstance(contributions, np.ndarray):
                    raise TypeError(
                        f"the backward function of {node.operation!r} returned an array; it must return a tuple, "
                        "one gradient for each input: (gradient,)"
                    )
                for tensor, contribution in zip(node._inputs, contributions, strict=True):
                    if tensor.requires_grad and contribution is not None:
                        if contribution.shape != tensor.shape:
                            raise ValueError(
                                f"the backward function of {node.operation!r} returned a gradient of shape "
                                f"{contribution.shape} for an input of shape {tensor.shape}: see unbroadcast"
                            )
                        contribution = contribution.astype(tensor.data.dtype, copy=False)
                        known = gradients.get(id(tensor))
                        gradients[id(tensor)] = contribution if known is None else known + contribution
            if not retain_graph:
                node._backward, node._inputs = _freed, ()

    def topological_order(self) -> list[Tensor]:
        """Every tensor that this one depends on and that needs a gradient, inputs before outputs.

        It uses a stack instead of recursion, because a graph may be deeper than Python's recursion limit.
        """
        order: list[Tensor] = []
        visited: set[int] = set()
        stack: list[tuple[Tensor, bool]] = [(self, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif id(node) not in visited:
                visited.add(id(node))
                stack.append((node, True))
                stack.extend((tensor, False) for tensor in node._inputs if tensor.requires_grad)
        return order

    def keep_grad(self) -> Tensor:
        """Make `backward` fill in `grad` here too, although this is not a leaf. Returns the tensor itself."""
        self._keeps_grad = True
        return self

    def detach(self) -> Tensor:
        """The same numbers without the graph that made them."""
        return Tensor(self.data)

    # --- arithmetic --------------------------------------------------------------------------

    def __add__(self, other: ArrayLike) -> Tensor:
        a, b = self, as_tensor(other, self)
        return Tensor.from_operation(
            a.data + b.data, (a, b), lambda g: (unbroadcast(g, a.shape), unbroadcast(g, b.shape)), "+"
        )

    def __sub__(self, other: ArrayLike) -> Tensor:
        a, b = self, as_tensor(other, self)
        return Tensor.from_operation(
            a.data - b.data, (a, b), lambda g: (unbroadcast(g, a.shape), unbroadcast(-g, b.shape)), "-"
        )

    def __mul__(self, other: ArrayLike) -> Tensor:
        a, b = self, as_tensor(other, self)
        return Tensor.from_operation(
            a.data * b.data,
            (a, b),
            lambda g: (
                unbroadcast(g * b.data, a.shape) if a.requires_grad else None,
                unbroadcast(g * a.data, b.shape) if b.requires_grad else None,
            ),
            "×",
        )

    def __truediv__(self, other: ArrayLike) -> Tensor:
        a, b = self, as_tensor(other, self)
        out = a.data / b.data
        return Tensor.from_operation(
            out,
            (a, b),
            lambda g: (
                unbroadcast(g / b.data, a.shape) if a.requires_grad else None,
                unbroadcast(-g * out / b.data, b.shape) if b.requires_grad else None,  # d(a/b)/db = -a/b²
            ),
            "÷",
        )

    def __pow__(self, exponent: float) -> Tensor:
        """Power with a constant exponent: d(xⁿ)/dx = n xⁿ⁻¹."""
        if isinstance(exponent, Tensor):
            raise TypeError("the exponent must be a number; for a tensor in the exponent: exp(exponent * log(base))")
        x = self.data
        derivative = (lambda: np.zeros_like(x)) if exponent == 0 else (lambda: exponent * x ** (exponent - 1))
        return Tensor.from_operation(x**exponent, (self,), lambda g: (g * derivative(),), f"^{exponent}")

    def __neg__(self) -> Tensor:
        return Tensor.from_operation(-self.data, (self,), lambda g: (-g,), "neg")

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other, self) - self

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other, self) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __matmul__(self, other: ArrayLike) -> Tensor:
        """Matrix product, over any leading batch dimensions.

        For Y = A B: dL/dA = dL/dY Bᵀ and dL/dB = Aᵀ dL/dY. No other order gives a product of the right
        shape, which is an easy way to remember them.
        """
        a, b = self, as_tensor(other, self)
        if a.data.ndim < 2 or b.data.ndim < 2:
            raise ValueError(f"a matrix product needs matrices, got shapes {a.shape} and {b.shape}")

        def backward(g: Array) -> tuple[Array | None, Array | None]:
            grad_a = unbroadcast(g @ b.data.swapaxes(-1, -2), a.shape) if a.requires_grad else None
            grad_b = None
            if b.requires_grad and b.data.ndim == 2:  # one product instead of one for each batch entry and their sum
                grad_b = a.data.reshape(-1, a.shape[-1]).T @ g.reshape(-1, g.shape[-1])
            elif b.requires_grad:
                grad_b = unbroadcast(a.data.swapaxes(-1, -2) @ g, b.shape)
            return grad_a, grad_b

        return Tensor.from_operation(a.data @ b.data, (a, b), backward, "@")

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other, self) @ self

    # --- shape -------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Tensor:
        """Pick elements by slices, masks or integer arrays: a gather, whose gradient is a scatter.

        An element that was picked twice gets both gradients. `np.add.at` adds them, while a plain
        assignment would keep only the last.
        """

        def backward(g: Array) -> tuple[Array]:
            gradient = np.zeros_like(self.data)
            np.add.at(gradient, index, g)
            return (gradient,)

        return Tensor.from_operation(self.data[index], (self,), backward, "index")

    def reshape(self, *shape: int) -> Tensor:
        """The same numbers in another shape."""
        return Tensor.from_operation(self.data.reshape(*shape), (self,), lambda g: (g.reshape(self.shape),), "reshape")

    def transpose(self, *axes: int) -> Tensor:
        """Put the axes in another order; without arguments, reverse them. Negative axes count from the end."""
        out = self.data.transpose(axes or None)  # refuses axes that do not exist
        order = [axis % self.data.ndim for axis in axes] or list(reversed(range(self.data.ndim)))
        back = np.argsort(order)
        return Tensor.from_operation(out, (self,), lambda g: (g.transpose(back),), "transpose")

    # --- reductions --------------------------------------------------------------------------

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Sum over axes. Every summand has derivative 1, so the gradient is copied to all of them."""
        return Tensor.from_operation(
            self.data.sum(axis=axis, keepdims=keepdims),
            (self,),
            lambda g: (np.broadcast_to(restore_axes(g, self.shape, axis), self.shape),),
            "sum",
        )

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Mean over axes."""
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the numbers."""
        return self.data.shape

    def item(self) -> float:
        """The number, if the tensor has only one."""
        return float(self.data.item())

    def __bool__(self) -> bool:
        return bool(self.data)  # whether the number is not 0, as in NumPy; otherwise every tensor would be true

    def __repr__(self) -> str:
        return f"Tensor({np.array2string(self.data, threshold=20)}, operation={self.operation!r})"


def as_tensor(value: ArrayLike, like: Tensor) -> Tensor:
    """Make a constant in the precision of `like` if that holds floats. A tensor is returned as it is."""
    if isinstance(value, Tensor):
        return value
    return Tensor(np.asarray(value, dtype=like.data.dtype if np.issubdtype(like.data.dtype, np.floating) else None))


def _freed(gradient: Array) -> Sequence[Array | None]:
    raise RuntimeError(
        "backward() a second time through the same graph: the first call freed it; compute the loss again, "
        "or pass retain_graph=True to the first call"
    )


def main() -> None:
    """Print every value and every gradient of one neuron with a squared error."""
    # The example of the lesson: a neuron that is too high by 3.
    x, w, b = Tensor(2.0), Tensor(3.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    product = (x * w).keep_grad()
    y = (product + b).keep_grad()
    error = (y - 4.0).keep_grad()
    loss = (error * error).keep_grad()
    loss.backward()
    print("L = (w·x + b - 4)²  with x = 2\n\n            value   dL/d(it)")
    for name, tensor in [("w", w), ("b", b), ("w·x", product), ("w·x + b", y), ("error", error), ("L", loss)]:
        print(f"{name:<10}{tensor.data:7.2f}{tensor.grad:11.2f}")
    epsilon = 1e-6
    slope = (((3 + epsilon) * 2 + 1 - 4) ** 2 - ((3 - epsilon) * 2 + 1 - 4) ** 2) / (2 * epsilon)
    print(f"\nBy finite differences, dL/dw = {slope:.4f}")


if __name__ == "__main__":
    main()

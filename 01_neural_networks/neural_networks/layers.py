"""Layers: parameters and the computation that uses them, with the `Tensor` of this stage.

Names, shapes and starting values are those of `torch.nn`, with one exception: the weights of Linear
are (in, out), so that the code reads like the equation x W + b.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from neural_networks import operations
from neural_networks.backpropagation import Tensor
from neural_networks.broadcasting import Array


class Module(ABC):
    """Something with parameters. They are tensors that require a gradient, in the module itself or in its parts.

    Attributes that are tensors, modules or lists of modules are found automatically.

    >>> model = Sequential(Linear(3, 4, np.random.default_rng(0)), Tanh())
    >>> {name: parameter.shape for name, parameter in model.named_parameters()}
    {'layers.0.weight': (3, 4), 'layers.0.bias': (4,)}
    """

    training = True

    def __call__(self, x: Any) -> Tensor:
        """Apply the layer."""
        return self.forward(x)

    @abstractmethod
    def forward(self, x: Any) -> Tensor:
        """Compute the output; each layer defines this."""

    def parts(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, Module))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, with the path to it as its name."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.requires_grad:
                yield name, value
        for name, part in self.parts():
            yield from ((f"{name}.{inner}", parameter) for inner, parameter in part.named_parameters())

    def parameters(self) -> list[Tensor]:
        """Every parameter."""
        return [parameter for _, parameter in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget the gradients of the last step, because `backward` would add to them."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, training: bool = True) -> None:
        """Switch between training and evaluation. Only dropout behaves differently in the two."""
        self.training = training
        for _, part in self.parts():
            part.train(training)


class Linear(Module):
    """y = x W + b.

    Starting values are uniform within ±1/√in, for weights and bias, as in `torch.nn.Linear`. The sum
    of `in` products then has a standard deviation of about 1/√3 for every width.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        rng: draws the starting values.
        bias: whether there is a b.

    Raises:
        ValueError: `in_features` is below 1.
    """

    def __init__(self, in_features: int, out_features: int, rng: np.random.Generator, bias: bool = True):
        if in_features < 1:
            raise ValueError(f"a linear layer needs at least one input, got in_features = {in_features}")
        bound = 1 / math.sqrt(in_features)
        self.weight = Tensor(rng.uniform(-bound, bound, (in_features, out_features)).astype(np.float32), True)
        self.bias = Tensor(rng.uniform(-bound, bound, out_features).astype(np.float32), True) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Embedding(Module):
    """A table with one vector for each symbol; the starting values are from a normal distribution.

    Args:
        num_embeddings: how many symbols.
        dim: width of a vector.
        rng: draws the starting values.
    """

    def __init__(self, num_embeddings: int, dim: int, rng: np.random.Generator):
        self.weight = Tensor(rng.normal(size=(num_embeddings, dim)).astype(np.float32), True)

    def forward(self, x: Array | Tensor) -> Tensor:
        """(...) integers → (..., dim)."""
        return operations.embedding(self.weight, x.data if isinstance(x, Tensor) else x)


class LayerNorm(Module):
    """Bring each vector to mean 0 and variance 1, then scale and shift (Ba et al., 2016).

    Args:
        dim: width of the vectors.
        eps: added to the variance, so that a constant vector does not divide by 0.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        self.weight = Tensor(np.ones(dim, dtype=np.float32), True)
        self.bias = Tensor(np.zeros(dim, dtype=np.float32), True)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) → (..., dim). The engine finds the gradient through mean and variance.

        Raises:
            ValueError: the vectors have another width. NumPy would repeat them silently if one width were 1.
        """
        if x.shape[-1:] != self.weight.shape:
            raise ValueError(
                f"this layer normalises vectors of {self.weight.shape[0]} numbers, got the shape {x.shape}"
            )
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / (variance + self.eps) ** 0.5 * self.weight + self.bias


class Dropout(Module):
    """In training, set each number to 0 with probability p and divide the others by 1 - p.

    The division keeps the expected value, so that evaluation needs no change (Srivastava et al., 2014).

    Args:
        p: share to drop, at least 0 and below 1.
        rng: chooses what to drop.

    Raises:
        ValueError: p is not such a share.
    """

    def __init__(self, p: float, rng: np.random.Generator):
        if not 0 <= p < 1:
            raise ValueError(f"the share to drop must be at least 0 and below 1, got {p}")
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape."""
        if not self.training or self.p == 0:
            return x
        kept = self.rng.random(x.shape, dtype=np.float32) >= self.p
        return x * (kept / np.result_type(x.data, np.float16).type(1 - self.p))  # integers give float64


class _Elementwise(Module):
    function: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return type(self).function(x)


class Tanh(_Elementwise):
    """`operations.tanh` as a layer."""

    function = staticmethod(operations.tanh)


class Sigmoid(_Elementwise):
    """`operations.sigmoid` as a layer."""

    function = staticmethod(operations.sigmoid)


class ReLU(_Elementwise):
    """`operations.relu` as a layer."""

    function = staticmethod(operations.relu)


class GELU(_Elementwise):
    """`operations.gelu_tanh` as a layer. The exact form would need erf, and NumPy has no fast one."""

    function = staticmethod(operations.gelu_tanh)


class Sequential(Module):
    """One layer after the other.

    Raises:
        TypeError: an argument is not a layer, for example a list of layers.
    """

    def __init__(self, *layers: Module):
        for layer in layers:
            if not isinstance(layer, Module):
                raise TypeError(
                    f"Sequential takes layers, got a {type(layer).__name__}; for a list: Sequential(*layers)"
                )
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers in order."""
        for layer in self.layers:
            x = layer(x)
        return x


class SoftmaxCrossEntropy:
    """The loss of a classifier: mean -ln softmax(logits)[target], in nats."""

    def __call__(self, logits: Tensor, targets: Array) -> Tensor:
        """(..., classes) and (...) → one number."""
        return operations.cross_entropy(logits, targets)

"""A neural language model on bytes, with every gradient computed by hand (Bengio et al., 2003).

    the n bytes before  →  n vectors, joined into one  →  tanh layer  →  256 scores  →  softmax

Forward, for a batch of B (the second column has the shapes):

    x = E[bytes]                    (B, n·d)    look up each byte, join the vectors
    a = x W₁ + b₁                   (B, H)
    h = tanh a                      (B, H)
    z = h W₂ + b₂                   (B, 256)
    p = softmax z                   (B, 256)
    L = mean of -ln p[target]

Backward, from the last line of the list above to the first (the lesson derives the formulas; y is 1 at
the target and 0 elsewhere):

    dz = (p - y) / B
    dW₂ = hᵀ dz,    db₂ = Σ dz      dh = dz W₂ᵀ
    da = dh · (1 - h²)
    dW₁ = xᵀ da,    db₁ = Σ da      dx = da W₁ᵀ
    dE[byte] = sum of the rows of dx where that byte was looked up

The code is made to be fast. It uses float32, work arrays that are allocated once, and in-place updates.
All parameters are in one piece of memory, so that the optimizer makes one pass over one array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.byte_models import NUM_BYTES, context_windows, last_bytes
from neural_networks.operations import scatter_rows


class MLPError(ValueError):
    """A size that a network cannot have."""


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of the network.

    Args:
        context: n, how many bytes the network sees.
        embedding_dim: d, numbers for each of these bytes.
        hidden: H, width of the tanh layer.
    """

    context: int = 12
    embedding_dim: int = 24
    hidden: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise MLPError(f"{name} must be at least 1, got {value}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter."""
        return {
            "embedding": (NUM_BYTES, self.embedding_dim),
            "w1": (self.context * self.embedding_dim, self.hidden),
            "b1": (self.hidden,),
            "w2": (self.hidden, NUM_BYTES),
            "b2": (NUM_BYTES,),
        }


class MLP:
    """The network, its gradients, and the work arrays for both.

    Args:
        config: sizes.
        rng: draws the starting values as `torch.nn` does: embeddings normal, weights and biases
            uniform within ±1/√(inputs of the layer).
        dtype: float32 to train; float64 to check gradients.

    Attributes:
        parameters: all parameters as one array (num_parameters,).
        gradients: their gradients in the same order, after `loss_and_gradients`.
        views: each parameter by its name, a view into `parameters`.
        gradient_views: each gradient by its name, a view into `gradients`.
    """

    def __init__(self, config: MLPConfig, rng: np.random.Generator, dtype: type[np.floating] = np.float32):
        self.config = config
        size = sum(math.prod(shape) for shape in config.shapes.values())
        self.parameters = np.empty(size, dtype=dtype)
        self.gradients = np.zeros(size, dtype=dtype)
        self.views = _cut(self.parameters, config.shapes)
        self.gradient_views = _cut(self.gradients, config.shapes)
        self.views["embedding"][:] = rng.normal(size=config.shapes["embedding"])
        for layer in "12":
            bound = 1 / math.sqrt(config.shapes[f"w{layer}"][0])
            for name in (f"w{layer}", f"b{layer}"):
                self.views[name][:] = rng.uniform(-bound, bound, config.shapes[name])
        self._work = _Work(config, 0, self.parameters.dtype)

    def _forward(self, contexts: Array) -> tuple[Array, Array, Array]:
        """(batch, context) bytes → x, h and z, in work arrays that the next call overwrites."""
        if len(contexts) != self._work.batch_size:
            self._work = _Work(self.config, len(contexts), self.parameters.dtype)
        work, p = self._work, self.views
        # A byte is always inside the table; mode="clip" saves the check.
        np.take(p["embedding"], contexts, axis=0, out=work.x, mode="clip")
        x = work.x.reshape(len(contexts), -1)  # (batch, n·d)
        h = np.matmul(x, p["w1"], out=work.h)  # (batch, hidden)
        h += p["b1"]
        np.tanh(h, out=h)
        z = np.matmul(h, p["w2"], out=work.z)  # (batch, 256)
        z += p["b2"]
        return x, h, z

    def loss_and_gradients(self, windows: Array) -> float:
        """Compute the mean loss of a batch in nats a byte, and write its gradient into `gradients`.

        Args:
            windows: (batch, context + 1) bytes; the last of each row is the one to predict.
        """
        contexts, targets = windows[:, :-1], windows[:, -1]
        x, h, z = self._forward(contexts)
        batch, work = len(windows), self._work
        p, grad = self.views, self.gradient_views

        z -= z.max(axis=1, keepdims=True)  # changes no probability, and exp cannot overflow
        target_scores = z[work.rows, targets]
        np.exp(z, out=z)
        totals = z @ work.ones_256  # (batch,): a product with ones is a sum, at the speed of BLAS
        loss = float(np.mean(np.log(totals) - target_scores))

        # dL/dz = (p - y) / batch
        z *= (1 / (batch * totals))[:, None]
        z[work.rows, targets] -= 1 / batch
        dz = z

        np.matmul(h.T, dz, out=grad["w2"])
        np.matmul(work.ones, dz, out=grad["b2"])
        dh = np.matmul(dz, p["w2"].T, out=work.dh)  # (batch, hidden)

        np.multiply(h, h, out=h)
        np.subtract(1, h, out=h)  # tanh' = 1 - tanh²
        dh *= h
        da = dh

        np.matmul(x.T, da, out=grad["w1"])
        np.matmul(work.ones, da, out=grad["b1"])
        dx = np.matmul(da, p["w1"].T, out=work.dx)  # (batch, n·d)

        grad["embedding"][:] = scatter_rows(dx.reshape(contexts.size, -1), contexts.ravel(), NUM_BYTES)
        return loss

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:]."""
        windows = context_windows(stream, self.config.context)
        total = 0.0
        for start in range(0, len(windows), 4096):
            batch = windows[start : start + 4096]
            *_, z = self._forward(batch[:, :-1])
            z -= z.max(axis=1, keepdims=True)
            target_scores = z[np.arange(len(batch)), batch[:, -1]]
            np.exp(z, out=z)
            total += float((np.log(z.sum(axis=1)) - target_scores).sum(dtype=np.float64))
        return total

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,) probabilities of what follows the last bytes of a stream."""
        *_, z = self._forward(last_bytes(stream, self.config.context)[None])
        exponentials = np.exp(z[0] - z[0].max())
        return exponentials / exponentials.sum()


class _Work:
    """Arrays to compute in, for one batch size. Allocating them at every step would cost more than some layers."""

    def __init__(self, config: MLPConfig, batch_size: int, dtype: np.dtype):
        self.batch_size = batch_size
        self.x = np.empty((batch_size, config.context, config.embedding_dim), dtype)
        self.h = np.empty((batch_size, config.hidden), dtype)
        self.z = np.empty((batch_size, NUM_BYTES), dtype)
        self.dh = np.empty_like(self.h)
        self.dx = np.empty((batch_size, config.context * config.embedding_dim), dtype)
        self.rows = np.arange(batch_size)
        self.ones = np.ones(batch_size, dtype)
        self.ones_256 = np.ones(NUM_BYTES, dtype)


def _cut(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Cut one array into several of the given shapes, all of them views."""
    views, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views

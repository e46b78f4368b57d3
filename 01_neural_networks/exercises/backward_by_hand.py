"""Exercise 1.10: Every gradient of a network by hand.

This is the network of the lesson: n bytes become n vectors side by side, go through a tanh layer, and give 256
scores. No engine helps: each line of the derivation is a line of code. When your function passes,

    learn run --only 1.10 01_neural_networks/train_mlp.py --steps 500 --corpus CONTRIBUTING.md

trains the network with it, on one short file. (Without --corpus it reads the whole of Python's documentation.)
"""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.mlp_numpy import MLP
from neural_networks.operations import scatter_rows


def loss_and_gradients(self: MLP, windows: Array) -> float:
    """Return the mean loss of a batch in nats per byte, and fill `self.gradient_views` with its gradient.

    Forward, for a batch of B:                              Backward:

        x = E[bytes]      (B, n·d)  vectors side by side        dz = (p - y) / B            y: 1 at the target
        a = x W₁ + b₁     (B, H)                                dW₂ = hᵀ dz    db₂ = Σ dz    dh = dz W₂ᵀ
        h = tanh a        (B, H)                                da = dh · (1 - h²)
        z = h W₂ + b₂     (B, 256)                              dW₁ = xᵀ da    db₁ = Σ da    dx = da W₁ᵀ
        p = softmax z     (B, 256)                              dE[byte] = sum of dx where the byte was looked up
        L = mean of -ln p[target]

    Args:
        self: the network. `self.views` are its parameters by name: `embedding` (256, d), `w1` (n·d, H), `b1` (H,),
            `w2` (H, 256), `b2` (256,). `self.gradient_views` has arrays of the same names and shapes. Write into them
            (`grad["w2"][:] = …`); they still hold the gradients of the step before.
        windows: (B, n + 1) bytes. The last byte of each row is the target. `scatter_rows(rows, ids, 256)` sums the rows
            that have the same id: rows (N, d), ids (N,), result (256, d).
    """
    raise NotImplementedError("Exercise 1.10: forward, loss, and backward")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake
from neural_networks.mlp_numpy import MLPConfig
from neural_networks.mlp_pytorch import TorchMLP


def _by_torch(model: MLP, windows: Array) -> dict[str, Any]:
    twin = TorchMLP.from_numpy(model)
    loss = twin.loss(torch.tensor(windows.astype(np.int64)))
    loss.backward()
    grads = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters() if parameter.grad is not None}
    return {
        "loss": loss.item(),
        "b2": grads["output.bias"],
        "w2": grads["output.weight"].T,
        "b1": grads["hidden.bias"],
        "w1": grads["hidden.weight"].T,
        "embedding": grads["embedding.weight"],
    }


def cases() -> Iterator[Case]:
    """One window; a batch; bytes that repeat; old gradients. The expected values come from PyTorch."""
    rng = np.random.default_rng(0)

    def question(what: str, windows: Array, scale: float = 1.0) -> Case:
        model = MLP(MLPConfig(context=3, embedding_dim=4, hidden=5), np.random.default_rng(1), np.float64)
        model.views["w2"][:] *= scale
        model.gradients[:] = 7.0  # left from the step before
        views = dict(model.gradient_views)  # what the optimizer sees, whatever the names point to afterwards

        def observe(result: Any, arguments: Any) -> dict[str, Any]:
            return {"loss": float(result), **views, "parameters": model.parameters}

        expected = {**_by_torch(model, windows), "parameters": model.parameters.copy()}
        return Case(what, [model, windows], expected=expected, tolerance=1e-9, observe=observe)

    yield question("one window", rng.integers(0, 256, (1, 4)).astype(np.uint8))
    yield question("a batch of six", rng.integers(0, 256, (6, 4)).astype(np.uint8))
    yield question(
        "a batch in which the bytes 0 to 2 come again and again", rng.integers(0, 3, (8, 4)).astype(np.uint8)
    )
    yield question("scores in the thousands, where exp overflows", rng.integers(0, 256, (6, 4)).astype(np.uint8), 5e3)


def _variant(self: MLP, windows: Array, **wrong: bool) -> float:
    contexts, targets = windows[:, :-1], windows[:, -1]
    batch, p, grad = len(windows), self.views, self.gradient_views
    x = p["embedding"][contexts].reshape(batch, -1)
    h = np.tanh(x @ p["w1"] + p["b1"])
    z = h @ p["w2"] + p["b2"]
    z = z - z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(batch), targets].mean()
    dz = np.exp(log_p)
    dz[np.arange(batch), targets] -= 1
    dz /= 1 if wrong.get("summed") else batch
    slope = 1 - h * h
    if wrong.get("not_squared"):
        slope = 1 - h
    if wrong.get("before_tanh"):
        slope = 1 - np.square(x @ p["w1"] + p["b1"])
    da = dz @ p["w2"].T * slope
    dx = (da @ p["w1"].T).reshape(contexts.size, -1)
    embedding = np.zeros_like(p["embedding"])
    if wrong.get("assigned"):
        embedding[contexts.ravel()] = dx
    else:
        embedding = scatter_rows(dx, contexts if wrong.get("not_flat") else contexts.ravel(), 256)
    new = {"embedding": embedding, "w1": x.T @ da, "b1": da.sum(0), "w2": h.T @ dz, "b2": dz.sum(0)}
    for name, gradient in new.items():
        if wrong.get("rebound") or (wrong.get("weights_rebound") and name.startswith("w")):
            grad[name] = gradient
        else:
            grad[name][:] = grad[name] + gradient if wrong.get("added") else gradient
    return float(loss)


def _mistaken(name: str) -> Callable[..., Any]:
    def loss_and_gradients(self: MLP, windows: Array) -> float:
        return _variant(self, windows, **{name: True})

    return loss_and_gradients


_NEW_ARRAY = "the name points to a new array, which the optimizer does not see: write into the old one with [:]"


EXERCISE = Exercise(
    stub=loss_and_gradients,
    reference="neural_networks.mlp_numpy:MLP.loss_and_gradients",
    cases=cases,
    hints=(
        "Write the forward pass first and compare only the loss. Once the loss is right, the first failed value is one "
        "of the gradients. Go backwards through the lines of the forward pass, and keep x, h and p.",
        "p['embedding'][windows[:, :-1]] has the shape (B, n, d): reshape it to (B, -1). To get dz, subtract 1 from p at "
        "[np.arange(B), targets] and divide by B. Each gradient has the shape of its parameter, which tells you how to "
        "multiply.",
        "dz = p; dz[np.arange(B), targets] -= 1; dz /= B; grad['w2'][:] = h.T @ dz; da = dz @ w2.T * (1 - h * h); "
        "grad['w1'][:] = x.T @ da; dx = da @ w1.T; grad['embedding'][:] = scatter_rows(dx.reshape(B * n, -1), "
        "windows[:, :-1].ravel(), 256).",
    ),
    mistakes=(
        Mistake(_mistaken("not_squared"), "the slope of tanh is 1 - tanh², so da = dh · (1 - h²)"),
        Mistake(_mistaken("before_tanh"), "the slope of tanh is 1 - h² with h = tanh a, not 1 - a²"),
        Mistake(_mistaken("summed"), "the loss is a mean over the batch: divide dz by B, once"),
        Mistake(_mistaken("added"), "the arrays hold the gradients of the step before: write over them, do not add"),
        Mistake(
            _mistaken("assigned"), "a byte that was looked up several times gets the sum of its gradients: scatter_rows"
        ),
        Mistake(
            _mistaken("not_flat"),
            "scatter_rows takes one id for each row of dx.reshape(-1, d): flatten the ids, (B, n) to (B · n,)",
        ),
        Mistake(_mistaken("rebound"), _NEW_ARRAY),
        Mistake(_mistaken("weights_rebound"), _NEW_ARRAY),
    ),
)

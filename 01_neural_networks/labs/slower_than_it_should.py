"""Lab 1.B: It learns, only worse than it should.

This is the network of Bengio et al. on bytes, with every gradient by hand. With the function below the loss falls
smoothly and no number is unusual, but the training ends far above the run beside it.
"""

from __future__ import annotations

import numpy as np

from neural_networks.broadcasting import Array
from neural_networks.mlp_numpy import MLP


def loss_and_gradients(self: MLP, windows: Array) -> float:
    """Return the mean loss of a batch in nats per byte; afterwards `gradient_views` hold its gradient.

        x = E[bytes]    a = x W₁ + b₁    h = tanh a    z = h W₂ + b₂    L = mean of -ln softmax(z)[target]

    Args:
        self: the network. `self._forward(contexts)` gives x (batch, context · d), h (batch, hidden) and z (batch, 256).
        windows: (batch, context + 1) bytes; the last byte of each row is the one to predict.
    """
    contexts, targets = windows[:, :-1], windows[:, -1]
    x, h, z = self._forward(contexts)
    weights, gradients = self.views, self.gradient_views
    rows, batch = np.arange(len(windows)), len(windows)

    z = z - z.max(axis=1, keepdims=True)  # changes no probability, and exp cannot overflow
    totals = np.exp(z).sum(axis=1)
    loss = float(np.mean(np.log(totals) - z[rows, targets]))

    dz = np.exp(z) / totals[:, None]
    dz[rows, targets] -= 1
    dz /= batch

    gradients["w2"][:] = h.T @ dz
    gradients["b2"][:] = dz.sum(axis=0)
    da = (dz @ weights["w2"].T) * (1 - h * h)  # tanh' = 1 - tanh²

    gradients["w1"][:] = x.T @ da
    gradients["b1"][:] = da.sum(axis=0)
    dx = (da @ weights["w1"].T).reshape(*contexts.shape, -1)  # (batch, context, d)

    gradients["embedding"][:] = 0
    gradients["embedding"][contexts] += dx
    return loss


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import TEXT
from neural_networks.byte_models import byte_stream, context_windows
from neural_networks.mlp_numpy import MLPConfig
from neural_networks.optimizers import SGD

STEPS = 300


def measure() -> Measurement:
    """Train on a short text by gradient descent."""
    rng = np.random.default_rng(0)
    model = MLP(MLPConfig(context=4, embedding_dim=8, hidden=64), rng)
    optimizer = SGD([model.parameters], lr=0.5)
    windows = context_windows(byte_stream([TEXT]), 4)
    losses = []
    for _ in range(STEPS):
        losses.append(model.loss_and_gradients(windows[rng.integers(0, len(windows), 128)]))
        optimizer.step([model.gradients])
    return {"loss": losses, "mean loss of the last 20 steps": sum(losses[-20:]) / 20}


def visible(file: Measurement, package: Measurement) -> bool:
    """The loss ends above the package's."""
    name = "mean loss of the last 20 steps"
    return float(file[name]) > 1.1 * float(package[name])  # type: ignore[arg-type]


LAB = Lab(
    broken=loss_and_gradients,
    reference="neural_networks.mlp_numpy:MLP.loss_and_gradients",
    cases=load_exercise("backward_by_hand").cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[
        (
            '    gradients["embedding"][contexts] += dx\n',
            '    np.add.at(gradients["embedding"], contexts, dx)\n',
        ),
    ],
    hints=(
        "A network with a slightly wrong gradient still learns, so the loss cannot say where. A gradient check can: compare "
        "each parameter's gradient with finite differences, one parameter at a time.",
        "neural_networks.gradient_checking has numerical_gradient. Take a float64 model and one batch. Of five "
        "parameters one disagrees, and only in some of its rows. Which bytes do these rows belong to?",
        "counts[indices] += 1 adds 1 once for each different index. The embedding of a byte that occurs twenty times in "
        "the batch gets one of its twenty contributions.",
    ),
    diagnosis=(
        "The loss alone shows no more than a bad learning rate would. A gradient check, parameter by parameter, finds "
        "w1, b1, w2 and b2 right to ten digits and the embedding wrong. Within the embedding, the bytes that occur "
        "once in the batch are right, so the repetitions are lost. array[indices] += values reads, adds and writes back "
        "once for each different index; np.add.at adds for every occurrence."
    ),
)

"""The bigram again, learned by gradient descent instead of counted.

The model is a table of 256 × 256 scores, one row for each byte. The softmax of a row is p(next | byte).
The loss is the cross-entropy, so the gradient of one row is

    dL/dz[a, b] = share of a · (p(b | a) - count(a b) / count(a))

It is zero exactly where the softmax equals the counted share. Counting is the solution of this
optimization problem in closed form. A larger network has no such closed form and can only use
gradient descent. That is the step from statistics to learning.

    python -m neural_networks.neural_bigram      # watch the probabilities approach the counted ones
"""

from __future__ import annotations

import numpy as np

from neural_networks.backpropagation import Tensor, no_grad
from neural_networks.broadcasting import Array
from neural_networks.byte_models import NUM_BYTES
from neural_networks.ngram import pair_counts
from neural_networks.operations import cross_entropy, embedding, log_softmax, softmax
from neural_networks.optimizers import Adam


class NeuralBigram:
    """A table of scores, all 0 at the start, so that every byte is equally likely.

    Attributes:
        scores: the parameters, (256 before, 256 next).
    """

    def __init__(self, dtype: type[np.floating] = np.float32) -> None:
        self.scores = Tensor(np.zeros((NUM_BYTES, NUM_BYTES), dtype), requires_grad=True)

    def loss(self, previous: Array, following: Array) -> Tensor:
        """Mean -ln p over pairs of bytes, (batch,) each, to learn from examples."""
        return cross_entropy(embedding(self.scores, previous), following)

    def loss_on_counts(self, counts: Array) -> Tensor:
        """The same loss over all the pairs that were counted, at the cost of one pass over the table.

        Args:
            counts: (256, 256) how often each byte (row) is followed by each (column).
        """
        shares = counts / counts.sum()
        return -(log_softmax(self.scores) * shares).sum()

    @property
    def probabilities(self) -> Array:
        """(256 before, 256 next)."""
        with no_grad():
            return softmax(self.scores).data

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:]."""
        with no_grad():
            return -float((log_softmax(self.scores).data * pair_counts(stream)).sum(dtype=np.float64))

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,): the row of the last byte."""
        return self.probabilities[stream[-1]]


def descend(model: NeuralBigram, counts: Array, steps: int, lr: float = 0.5) -> float:
    """Fit the table to all pairs at once by Adam, with a learning rate that falls to 0.

    Args:
        model: changed in place.
        counts: (256, 256) what to fit; if every count is above 0, the optimum is finite.
        steps: how many steps to take.
        lr: learning rate of the first step.

    Returns:
        The last loss, in nats a byte.
    """
    optimizer = Adam([model.scores.data], lr)
    loss = Tensor(0.0)
    for step in range(steps):
        optimizer.lr = lr * (1 - step / steps)
        model.scores.grad = None
        loss = model.loss_on_counts(counts)
        loss.backward()
        assert model.scores.grad is not None
        optimizer.step([model.scores.grad])
    return loss.item()


def main() -> None:
    """Compare the learned with the counted probabilities after more and more steps."""
    text = b"the cat sat on the mat, and the rat sat on the cat. " * 50
    counts = pair_counts(np.frombuffer(text, dtype=np.uint8)) + 1.0
    counted = counts / counts.sum(axis=1, keepdims=True)
    print("steps   p(h | t)   largest difference from the counted probabilities")
    for steps in (1, 10, 100, 300, 1000):
        model = NeuralBigram(np.float64)
        descend(model, counts, steps)
        learned = model.probabilities
        print(f"{steps:5}{learned[ord('t'), ord('h')]:11.6f}   {np.abs(learned - counted).max():.1e}")
    print(f"counted{counted[ord('t'), ord('h')]:9.6f}")


if __name__ == "__main__":
    main()

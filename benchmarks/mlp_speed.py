"""Training steps per second of the MLP of stage 1: NumPy with gradients by hand, compared with PyTorch.

Both sides have the same sizes, the same starting weights, the same batches in the same order, Adam and float32. Both
use every core; with `OMP_NUM_THREADS=1` before the command, both use one. PyTorch runs with its
fused Adam, which is its fastest on a CPU, and with its default Adam.
"""

from __future__ import annotations

import numpy as np
import torch

from harness import Comparison, Contender, compare
from neural_networks.mlp_numpy import MLP, MLPConfig
from neural_networks.mlp_pytorch import TorchMLP
from neural_networks.optimizers import Adam

LR = 1e-3
# (sizes, batch size): first those of train_mlp.py, then smaller and larger ones.
SHAPES = [
    (MLPConfig(), 256),
    (MLPConfig(context=8, embedding_dim=16, hidden=128), 64),
    (MLPConfig(context=8, embedding_dim=16, hidden=256), 256),
    (MLPConfig(context=12, embedding_dim=32, hidden=1024), 1024),
]


def run(quick: bool) -> list[Comparison]:
    """Measure each shape. A run has enough steps for about half a second."""
    return [
        _compare(config, batch_size, max(10, int(5e10 / _flops(config, batch_size))), rounds=2 if quick else 5)
        for config, batch_size in (SHAPES[:1] if quick else SHAPES)
    ]


def _flops(config: MLPConfig, batch_size: int) -> float:
    """Multiplications and additions of one step: two for each weight in each of three matrix products."""
    weights = config.context * config.embedding_dim * config.hidden + config.hidden * 256
    return 6 * weights * batch_size + 1e7  # plus the cost of a step that computes nothing


def _compare(config: MLPConfig, batch_size: int, steps: int, rounds: int) -> Comparison:
    rng = np.random.default_rng(0)
    start = MLP(config, rng)
    # The bytes of a text are unevenly distributed, and this matters for the gradient of the embedding.
    letters = np.frombuffer(b"etaoin shrdlu etaoin  eta", dtype=np.uint8)
    batches = [rng.choice(letters, (batch_size, config.context + 1)) for _ in range(steps)]
    torch_batches = [torch.from_numpy(batch.astype(np.int64)) for batch in batches]

    ours = MLP(config, rng)
    ours.parameters[:] = start.parameters
    our_optimizer = Adam([ours.parameters], LR)

    def step_numpy() -> None:
        for batch in batches:
            ours.loss_and_gradients(batch)
            our_optimizer.step([ours.gradients])

    def step_pytorch(fused: bool) -> Contender:
        model = TorchMLP.from_numpy(start)
        optimizer = torch.optim.Adam(model.parameters(), LR, fused=fused)

        def step() -> None:
            for batch in torch_batches:
                optimizer.zero_grad()
                loss = model.loss(batch)
                loss.backward()
                optimizer.step()
                loss.item()  # because ours returns the loss as a number too

        return Contender(f"PyTorch, {'fused' if fused else 'default'} Adam", step)

    return compare(
        f"Train an MLP: context {config.context}, {config.embedding_dim} each, hidden {config.hidden}, "
        f"batch {batch_size}, {torch.get_num_threads()} threads",
        "steps/s",
        steps,
        [Contender("NumPy, gradients by hand", step_numpy), step_pytorch(fused=True), step_pytorch(fused=False)],
        rounds,
    )

"""The network of `mlp_numpy` again. PyTorch finds the gradients, and the code has a fifth of the lines.

From the same weights and the same batches it gives the same losses, step by step. The tests check
that, and `benchmarks/mlp_speed.py` measures both. This is the only module of stage 1 that needs PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neural_networks.byte_models import NUM_BYTES
from neural_networks.mlp_numpy import MLP, MLPConfig


class TorchMLP(nn.Module):
    """Bytes → vectors → tanh layer → scores.

    Args:
        config: sizes.
    """

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.embedding = nn.Embedding(NUM_BYTES, config.embedding_dim)
        self.hidden = nn.Linear(config.context * config.embedding_dim, config.hidden)
        self.output = nn.Linear(config.hidden, NUM_BYTES)

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        """(batch, context) int64 → (batch, 256) scores."""
        x = self.embedding(contexts).flatten(1)  # (batch, context · embedding_dim)
        return self.output(torch.tanh(self.hidden(x)))

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch of (batch, context + 1) int64, in nats a byte."""
        return F.cross_entropy(self(windows[:, :-1]), windows[:, -1])

    @classmethod
    def from_numpy(cls, model: MLP) -> TorchMLP:
        """The same network with a copy of the weights. PyTorch keeps those of Linear as (out, in), so transposed."""
        twin = cls(model.config)
        state = {
            "embedding.weight": model.views["embedding"],
            "hidden.weight": model.views["w1"].T,
            "hidden.bias": model.views["b1"],
            "output.weight": model.views["w2"].T,
            "output.bias": model.views["b2"],
        }
        twin.to(torch.from_numpy(model.parameters).dtype)
        twin.load_state_dict({name: torch.tensor(values) for name, values in state.items()})
        return twin

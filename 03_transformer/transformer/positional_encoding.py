"""Positions: attention alone cannot tell "dog bites man" from "man bites dog".

- Learned: a table of vectors, one a position, added to the token embedding (GPT-2). It ends at the
  context length. It is an ordinary embedding and lives in the model.
- Rotary (RoPE; Su et al., 2021): each pair of dimensions of a query or key is turned by an angle
  proportional to its position. The dot product of two turned vectors depends on the difference of
  their positions alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotates queries and keys by their positions.

    Dimension i is paired with dimension i + head_dim / 2, as in Llama's Hugging Face weights, and
    the pair turns by position · theta^(-2i / head_dim): fast for small i, slowly for large i.

    Args:
        head_dim: size of a head's vector; must be even.
        context_length: positions to prepare.
        theta: base of the geometric series of speeds.
    """

    cos: Tensor
    signed_sin: Tensor

    def __init__(self, head_dim: int, context_length: int, theta: float = 10_000.0):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions pair up dimensions: head_dim must be even, got {head_dim}")
        speeds = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.arange(context_length, dtype=torch.float32)[:, None] * speeds  # (time, head_dim / 2)
        angles = torch.cat([angles, angles], dim=-1)  # (time, head_dim)
        # Not persistent: they are computed, not learned, so they do not belong in a checkpoint.
        self.register_buffer("cos", angles.cos(), persistent=False)
        # The sign of rotate_half is folded in: x·cos + rotate_half(x)·sin = x·cos + swap(x)·sin
        sign = torch.cat([-torch.ones(head_dim // 2), torch.ones(head_dim // 2)])
        self.register_buffer("signed_sin", angles.sin() * sign, persistent=False)

    def forward(self, heads: Tensor, start: int = 0) -> Tensor:
        """Rotate (batch, heads, time, head_dim), the first of time being at position `start`."""
        stop = start + heads.shape[-2]
        if stop > self.cos.shape[0]:
            raise ValueError(f"position {stop - 1} is outside the context of {self.cos.shape[0]}")
        cos = self.cos[start:stop].to(heads.dtype)
        sin = self.signed_sin[start:stop].to(heads.dtype)
        # Rolling by half swaps the two members of every pair.
        return heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * sin

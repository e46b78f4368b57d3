"""Weights in 8 and 4 bits: a number is kept as a small integer, and shares a scale with its neighbours.

The speed of decoding is the speed at which the weights can be read. So weights of a quarter of the size are up to four
times as fast, and they fit into memory where large ones do not.

- **int8**: w ≈ scale · q, with one scale for each output channel (row of W). Activations stay as they are.
- **w8a8**: activations are integers too, with one scale for each token, computed when the token comes. Products of
  integers are exact and have their own instructions (Dettmers et al., 2022: "LLM.int8()").
- **int4**: w ≈ scale · (q - 8) + zero, with one scale and zero for each group of 64 along a row. With only 16 levels,
  one scale is not enough for a whole row. `optimization.weights.gptq` chooses better integers than rounding does.

The layers here say what the numbers mean, in plain PyTorch. `optimization.weights.packed_quantized` computes the
same results faster on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT4_GROUP = 64
EXACT_TERMS = 1024  # sums of so many products of 8-bit integers stay below 2^24, so float32 holds them exactly


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 8 bits with its own scale: x ≈ scale · q, |q| <= 127.

    Args:
        x: (..., n) float.

    Returns:
        q (..., n) int8 and scale (..., 1) float32. A row of zeros has scale 1e-12 / 127.

    >>> q, scale = quantize_rows(torch.tensor([[0.5, -1.0, 0.25]]))
    >>> q.tolist(), (q * scale).tolist()[0][1]
    ([[64, -127, 32]], -1.0)
    """
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round().to(torch.int8), scale


def group_scales(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and zero that spread 16 levels evenly from the smallest to the largest number of each group.

    Args:
        groups: (..., group) float.

    Returns:
        scale and zero, each (..., 1) with the precision of bfloat16, which is how they are stored.
    """
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-8).bfloat16().float()
    zero = (low + 8 * scale).bfloat16().float()
    return scale, zero


def to_levels(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest of the 16 levels scale · (q - 8) + zero, as q from 0 to 15."""
    return ((x - zero) / scale + 8).round().clamp(0, 15)


def from_levels(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The numbers that q stands for."""
    return (q - 8) * scale + zero


class QuantizedLayer(nn.Module):
    """A layer whose numbers are integers and scales. A change of precision must not change them.

    Args:
        out_features: rows of the weight.
        in_features: its columns.
    """

    weight: Tensor

    def __init__(self, out_features: int, in_features: int):
        super().__init__()
        self.out_features, self.in_features = out_features, in_features
        self.activation_dtype = torch.float32

    def require_shape_of(self, linear: nn.Linear) -> None:
        """Check that a layer is as large as this one and has a bias if this one has.

        Raises:
            ValueError: the layers differ.
        """
        ours = (self.out_features, self.in_features, getattr(self, "bias", None) is not None)
        theirs = (linear.out_features, linear.in_features, linear.bias is not None)
        if ours != theirs:
            raise ValueError(f"this layer is for (out_features, in_features, bias) = {ours}, got a layer with {theirs}")

    @property
    def num_weights(self) -> int:
        """Numbers that the layer stands for, bias included."""
        bias = getattr(self, "bias", None)
        return self.out_features * self.in_features + (0 if bias is None else bias.numel())


class Int8Linear(QuantizedLayer):
    """y = (x qᵀ) · scale + b: the weights have 8 bits; the activations stay as they are.

    Args:
        out_features: rows.
        in_features: columns.
        bias: whether there is one.
    """

    scale: Tensor

    def __init__(self, out_features: int, in_features: int, bias: bool):
        super().__init__(out_features, in_features)
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @torch.no_grad()
    def quantize(self, linear: nn.Linear) -> None:
        """Take over a layer's numbers."""
        self.require_shape_of(linear)
        q, scale = quantize_rows(linear.weight)
        self.weight.copy_(q)
        self.scale.copy_(scale[:, 0])
        if self.bias is not None:
            self.bias.copy_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        return self._finish(F.linear(x, self.weight.to(x.dtype)), x.dtype)

    def _finish(self, products: Tensor, dtype: torch.dtype) -> Tensor:
        y = products * self.scale
        return (y if self.bias is None else y + self.bias).to(dtype)


class W8A8Linear(Int8Linear):
    """y = (q_x qᵀ) · scale_x · scale + b: weights and activations in 8 bits, products and sums in integers.

    A token's scale depends only on the token, and a sum of integers does not depend on its order. So a token's result
    does not depend on the other tokens.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        q, scale = quantize_rows(x.reshape(-1, self.in_features))
        # Integer kernels take only some sizes, or only some processors. Parts of a sum are exact in float32, in any order.
        pairs = zip(q.split(EXACT_TERMS, dim=1), self.weight.split(EXACT_TERMS, dim=1), strict=True)
        products = sum(F.linear(left.float(), right.float()).double() for left, right in pairs)
        return self._finish((products * scale).float(), x.dtype).view(*x.shape[:-1], self.out_features)


class Int4Linear(QuantizedLayer):
    """y = x Wᵀ + b with W in groups of 16 levels, two numbers in a byte.

    Args:
        out_features: rows.
        in_features: columns, a multiple of `INT4_GROUP`.
        bias: whether there is one.

    Raises:
        ValueError: the rows are not a multiple of the group.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, out_features: int, in_features: int, bias: bool):
        super().__init__(out_features, in_features)
        groups, left = divmod(in_features, INT4_GROUP)
        if left:
            raise ValueError(f"4 bits come in groups of {INT4_GROUP}, got rows of {in_features}: use 8 bits")
        self.register_buffer("weight", torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(out_features, groups, dtype=torch.bfloat16))
        self.register_buffer("zero", torch.zeros(out_features, groups, dtype=torch.bfloat16))
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @torch.no_grad()
    def quantize(self, linear: nn.Linear) -> None:
        """Take over a layer's numbers, each rounded to its nearest level."""
        self.require_shape_of(linear)
        grouped = linear.weight.float().unflatten(1, (-1, INT4_GROUP))
        scale, zero = group_scales(grouped)
        self.store(to_levels(grouped, scale, zero).flatten(1), scale[..., 0], zero[..., 0], linear.bias)

    @torch.no_grad()
    def store(self, levels: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> None:
        """Keep levels (out, in) from 0 to 15 with scales and zeros (out, groups).

        Raises:
            ValueError: a level is nan, or 4 bits cannot hold it.
        """
        if not (levels.amin() >= 0 and levels.amax() <= 15):
            raise ValueError(f"4 bits hold levels from 0 to 15, got {levels.amin():g} to {levels.amax():g}")
        levels = levels.to(torch.uint8)
        self.weight.copy_(levels[:, 0::2] | levels[:, 1::2] << 4)
        self.scale.copy_(scale)
        self.zero.copy_(zero)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def levels(self) -> Tensor:
        """(out, in) int32 from 0 to 15."""
        return torch.stack([self.weight & 15, self.weight >> 4], dim=-1).flatten(1).int()

    def dequantize(self) -> Tensor:
        """(out, in) float32."""
        # By columns, as the numbers lie in memory where prompts are computed (`optimization.weights.stacked_model`).
        scale, zero = self.scale.T.float()[:, None], self.zero.T.float()[:, None]  # (groups, 1, out)
        packed = self.weight.T.unflatten(0, (len(scale), -1))  # (groups, half a group, out)
        halves = [torch.addcmul(zero - 8 * scale, half.float(), scale) for half in (packed & 15, packed >> 4)]
        return torch.stack(halves, dim=2).flatten(0, 2).T

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantize().to(x.dtype), bias)


class Int8Embedding(QuantizedLayer):
    """An 8-bit table that gives row i for id i. A tied output head multiplies with the same table.

    Args:
        num_embeddings: rows.
        embedding_dim: columns.
    """

    scale: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__(num_embeddings, embedding_dim)
        self.num_embeddings = num_embeddings
        self.register_buffer("weight", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_embeddings))

    @torch.no_grad()
    def quantize(self, embedding: nn.Embedding) -> None:
        """Take over a table's numbers."""
        q, scale = quantize_rows(embedding.weight)
        self.weight.copy_(q)
        self.scale.copy_(scale[:, 0])

    def forward(self, ids: Tensor) -> Tensor:
        """(...) → (..., embedding_dim)."""
        rows = F.embedding(ids, self.weight)  # unlike an index, it refuses negative ids
        return (rows * self.scale[ids][..., None]).to(self.activation_dtype)

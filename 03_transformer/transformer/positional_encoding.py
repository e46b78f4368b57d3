"""Positions: without them attention cannot tell "dog bites man" from "man bites dog".

- Sinusoidal: fixed waves are added to the token embedding (Vaswani et al., 2017).
- Learned: a table of vectors, one for each position, is added to the token embedding (GPT-2). It ends
  at the context length. It is an ordinary embedding, and its code is in the model.
- Rotary (RoPE; Su et al., 2021): each pair of dimensions of a query or key is turned by an angle
  proportional to its position. The dot product of two turned vectors depends only on the difference
  of their positions.
- ALiBi (Press et al., 2021): a score is lowered in proportion to the distance, at a different rate
  in each head. It was made to be used beyond the trained length.

python -m transformer.positional_encoding
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from transformer.rope_scaling import RopeScaling, rotary_speeds


def sinusoidal_table(context_length: int, d_model: int) -> Tensor:
    """PE[p, 2i] = sin(p / 10000^(2i / d_model)), PE[p, 2i + 1] = cos of the same.

    Args:
        context_length: how many positions.
        d_model: width; must be even.

    Returns:
        (context_length, d_model) float32.

    Raises:
        ValueError: the width is odd.
    """
    speeds, _ = rotary_speeds(d_model, 10_000.0)
    angles = torch.arange(context_length, dtype=torch.float32)[:, None] * speeds  # (time, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Rotation:
    """Turns queries or keys by the angles of given positions; `RotaryEmbedding` makes it.

    Args:
        cos: (time, size), or (batch, 1, time, size) if each sequence has other positions. Dimensions of a head after
            the first `size` are not turned.
        signed_sin: the same shape; see `RotaryEmbedding`.
    """

    def __init__(self, cos: Tensor, signed_sin: Tensor):
        self.cos, self.signed_sin = cos, signed_sin

    def __call__(self, heads: Tensor) -> Tensor:
        """(batch, heads, time, head_dim) → the same shape."""
        cos, sin = self.cos.to(heads.dtype), self.signed_sin.to(heads.dtype)
        size = cos.shape[-1]
        if size < heads.shape[-1]:
            return torch.cat([self(heads[..., :size]), heads[..., size:]], dim=-1)
        # A roll by half swaps the two members of every pair.
        return heads * cos + heads.roll(size // 2, dims=-1) * sin


class RotaryEmbedding(nn.Module):
    """The angles of all positions, from which `Rotation`s are made.

    Dimension i forms a pair with dimension i + head_dim / 2, as in Llama's Hugging Face weights. The
    pair turns by position · theta^(-2i / head_dim), fast for small i and slowly for large i.

    Args:
        head_dim: how many dimensions of a head's vector are turned, usually all; must be even.
        context_length: how many positions to prepare.
        theta: base of the geometric series of speeds.
        scaling: stretches the speeds over a longer context.

    Raises:
        ValueError: the head size is odd, or the base is not above 0.
    """

    cos: Tensor
    signed_sin: Tensor

    def __init__(self, head_dim: int, context_length: int, theta: float = 10_000.0, scaling: RopeScaling | None = None):
        super().__init__()
        speeds, amplitude = rotary_speeds(head_dim, theta, scaling)
        angles = torch.arange(context_length, dtype=torch.float32)[:, None] * speeds  # (time, head_dim / 2)
        angles = torch.cat([angles, angles], dim=-1)  # (time, head_dim)
        # Not persistent: they are computed, not learned, so they do not belong in a checkpoint.
        self.register_buffer("cos", angles.cos() * amplitude, persistent=False)
        # The sign of rotate_half is included: x·cos + rotate_half(x)·sin = x·cos + swap(x)·signed_sin
        sign = torch.cat([-torch.ones(head_dim // 2), torch.ones(head_dim // 2)])
        self.register_buffer("signed_sin", angles.sin() * sign * amplitude, persistent=False)

    def forward(self, positions: Tensor | slice) -> Rotation:
        """The rotation for given positions; each position must be below `context_length`.

        Args:
            positions: a slice or (time,) integers if all sequences have the same positions; otherwise (batch, time)
                integers. Negative integers (padding) turn by the angle of position 0.

        Raises:
            ValueError: `positions` has other axes, or is a slice that ends after `context_length`.
        """
        if isinstance(positions, slice):
            if positions.stop is not None and positions.stop > len(self.cos):
                raise ValueError(f"position {positions.stop - 1} is past the {len(self.cos)} that were prepared")
            return Rotation(self.cos[positions], self.signed_sin[positions])
        if positions.ndim not in (1, 2):
            raise ValueError(f"positions must be (time,) or (batch, time), got the shape {tuple(positions.shape)}")
        positions = positions.clamp(min=0)
        # All heads use the same angles: (time, head_dim) → (1, time, head_dim), or with a batch before it.
        return Rotation(self.cos[positions].unsqueeze(-3), self.signed_sin[positions].unsqueeze(-3))


def alibi_slopes(num_heads: int) -> Tensor:
    """How much each head's score falls with each position of distance.

    If the number of heads is a power of two, they are 2^(-8 / heads), 2^(-16 / heads), …, 2^-8. For other
    numbers the slopes of the next lower power of two are used, and the missing ones are taken from the next
    higher one, as in the authors' code.

    Returns:
        (num_heads,) float32.

    Raises:
        ValueError: there are no heads.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (head + 1) / lower) for head in range(lower)]
    slopes += [2.0 ** (-4 * (2 * extra + 1) / lower) for extra in range(num_heads - lower)]
    return torch.tensor(slopes)


class AlibiBias(nn.Module):
    """Adds -slope · distance to the scores.

    Args:
        num_heads: query heads.
    """

    slopes: Tensor

    def __init__(self, num_heads: int):
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(num_heads), persistent=False)

    def forward(self, num_queries: int, num_keys: int) -> Tensor:
        """(heads, 1, num_keys): the same for every query.

        A softmax does not change when a number is added to all scores of a query. So the distance to
        the last key can be used instead of the distance to each query. It also makes the bias
        independent of how sequences are padded.
        """
        distance = torch.arange(num_keys - 1, -1, -1, device=self.slopes.device)
        return -self.slopes[:, None, None] * distance


def main() -> None:
    """Show how the score of a query and a key depends on their distance, for each method."""
    torch.manual_seed(0)
    head_dim, distances = 64, [0, 1, 2, 4, 8, 16, 32, 64, 128]
    vector = torch.randn(head_dim)
    rotary = RotaryEmbedding(head_dim, 256)
    heads = vector.expand(1, 1, 256, head_dim)
    turned = rotary(slice(0, 256))(heads)[0, 0]
    table = sinusoidal_table(256, head_dim)
    slopes = alibi_slopes(8)
    print("score of a query at position 200 with an equal key, by the distance between their positions\n")
    print("distance     " + "".join(f"{distance:>8}" for distance in distances))
    rows = {
        "sinusoidal": [(table[200] @ table[200 - d]).item() for d in distances],
        "rotary": [(turned[200] @ turned[200 - d]).item() for d in distances],
        "alibi, head 0": [-slopes[0].item() * d for d in distances],
        "alibi, head 7": [-slopes[7].item() * d for d in distances],
    }
    for name, scores in rows.items():
        print(f"{name:13}" + "".join(f"{score:8.2f}" for score in scores))


if __name__ == "__main__":
    main()

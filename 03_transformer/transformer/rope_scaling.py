"""Rotary speeds, and the ways to stretch them over a longer context than the model was trained on.

From one position to the next, a pair of dimensions turns by its speed. Beyond the trained context
the slow pairs reach angles that the model has never seen. Each method makes pairs slower, so
that the angles stay in the known range. The methods differ in which pairs they slow:

- linear: all pairs, by the factor (Chen et al., 2023: "Extending Context Window … via Positional Interpolation");
- ntk: the base is raised, which does not change the fastest pair and slows the slowest by the factor
  ("NTK-aware", bloc97, 2023);
- yarn: pairs that complete many turns within the trained context keep their speed. Pairs that complete
  less than one turn are slowed by the factor, with a ramp between. Scores become a little sharper
  (Peng et al., 2023);
- llama3: the same idea with a smooth step between two wavelengths (Llama 3.1's published code).

python -m transformer.rope_scaling
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from groundwork.user_errors import require_choices, require_types


@dataclass(frozen=True)
class RopeScaling:
    """How to stretch the rotary positions of a trained model.

    Args:
        kind: linear, ntk, yarn or llama3.
        factor: how many times longer the new context is than the trained one.
        original_context_length: the trained context; yarn and llama3 need it.
        beta_fast: for yarn. Pairs with at least this many turns within the trained context keep their speed.
        beta_slow: for yarn. Pairs with at most this many turns are slowed by the factor.
        attention_factor: for yarn. It multiplies queries and keys; null for 0.1 ln(factor) + 1.
        low_freq_factor: for llama3. Wavelengths above trained context / this are slowed by the factor.
        high_freq_factor: for llama3. Wavelengths below trained context / this keep their speed.
    """

    kind: Literal["linear", "ntk", "yarn", "llama3"] = "linear"
    factor: float = 1.0
    original_context_length: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        require_types(self, "rope_scaling")
        require_choices(self, "rope_scaling")
        if not self.factor >= 1.0:
            raise ValueError(f"rope_scaling.factor must be at least 1, got {self.factor}")
        if self.kind in ("yarn", "llama3") and (self.original_context_length or 0) < 1:
            raise ValueError(f"rope scaling {self.kind!r} needs original_context_length, the context of the training")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor must be above low_freq_factor, and both above 0, got "
                f"{self.high_freq_factor} and {self.low_freq_factor}"
            )
        if self.attention_factor is not None and self.attention_factor <= 0:
            raise ValueError(f"rope_scaling.attention_factor must be above 0, got {self.attention_factor}")
        if self.kind == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"rope_scaling.beta_fast must be above beta_slow, and both above 0, got {self.beta_fast} and {self.beta_slow}"
            )


def rotary_speeds(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, float]:
    """The angle in radians by which each pair of dimensions turns from one position to the next.

    Args:
        head_dim: size of a head's vector; must be even.
        theta: pair i turns by theta^(-2i / head_dim).
        scaling: how to stretch; None for no stretching.

    Returns:
        (head_dim / 2,) float32, fastest first; and the factor by which queries and keys are multiplied.

    Raises:
        ValueError: the size is not even, or the base is not above 0.
    """
    if head_dim < 2 or head_dim % 2 or not theta > 0:
        raise ValueError(
            f"dimensions are paired up: their number must be even, and theta above 0, got {head_dim} and {theta}"
        )
    if scaling is not None and scaling.kind == "ntk" and head_dim > 2:
        theta = theta * scaling.factor ** (head_dim / (head_dim - 2))
    speeds = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is None or scaling.kind == "ntk":
        return speeds, 1.0
    if scaling.kind == "linear":
        return speeds / scaling.factor, 1.0
    trained = float(scaling.original_context_length or 0)
    if scaling.kind == "llama3":
        turns = trained * speeds / (2 * math.pi)  # within the trained context
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: leave the speed, 0: divide it
        return speeds * kept + speeds / scaling.factor * (1 - kept), 1.0
    first, last = (
        _pair_with_turns(turns, head_dim, theta, trained) for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - first) / max(last - first, 0.001)
    slowed = ramp.clamp(0.0, 1.0)
    amplitude = scaling.attention_factor
    if amplitude is None:
        amplitude = 0.1 * math.log(scaling.factor) + 1.0
    return speeds * (1 - slowed) + speeds / scaling.factor * slowed, amplitude


def _pair_with_turns(turns: float, head_dim: int, theta: float, context: float) -> float:
    """Index of the pair that completes this many turns within the context; it need not be a whole number."""
    return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))


def main() -> None:
    """Print what each method does to the wavelengths of a head of 16 dimensions."""
    trained, factor = 2048, 4.0
    print(f"positions for one full turn, head_dim 16, theta 10,000, context {trained:,} × {factor:g}\n")
    methods: list[tuple[str, RopeScaling | None]] = [("trained", None)]
    for kind in ("linear", "ntk", "yarn", "llama3"):
        methods.append((kind, RopeScaling(kind, factor, trained)))
    for name, scaling in methods:
        speeds, amplitude = rotary_speeds(16, 10_000.0, scaling)
        cells = "".join(f"{2 * math.pi / speed:>9,.0f}" for speed in speeds.tolist())
        print(f"{name:>8} {cells}   × {amplitude:.3f}")


if __name__ == "__main__":
    main()

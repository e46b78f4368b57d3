"""NF4: four bits a weight, with the 16 levels where normally distributed weights need them.

Weights of a trained matrix are close to normal. Levels at equal steps would waste most of them on the
rare large values; levels at the quantiles of the normal distribution are used about equally often. A block
of 64 weights is divided by its largest absolute value, and each quotient becomes the nearest level
(Dettmers et al., 2023: "QLoRA").

The 64 weights share one float32 scale, half a bit each. Double quantization stores the scales in 8 bits. Their
mean is subtracted, and they are quantized in blocks of 256, with levels that are dense near zero. Together:
4 + 8/64 + 32/(64 · 256) = 4.127 bits a weight.

This code is for reading; bitsandbytes computes the same with fused kernels, and `qlora` uses that.

python -m finetuning.adapters.nf4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a scale of scales


def nf4_levels() -> Tensor:
    """The 16 levels, (16,) float32, from -1 to 1 with an exact 0.

    Eight quantiles for the positive side and seven for the negative, so that zero is a level. The outermost
    quantile is that of the mean of 1 - 1/32 and 1 - 1/30, because that of 1 would be infinite.
    """
    outermost = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    positive = torch.special.ndtri(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]).sort().values
    return (levels / levels.max()).float()


def dynamic_levels() -> Tensor:
    """256 levels between -1 and 1 for scales: each power of ten below 1 has twice the levels of the next lower one.

    (Dettmers, 2016: "8-Bit Approximations for Parallelism in Deep Learning".)

    Returns:
        (256,) float32.
    """
    magnitudes = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2**exponent + 1)
        magnitudes.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6))
    magnitude = torch.cat(magnitudes)  # 127 of them
    return torch.cat([-magnitude, magnitude, torch.tensor([0.0, 1.0])]).sort().values


@dataclass(frozen=True)
class NF4Weight:
    """A quantized matrix.

    Args:
        codes: (blocks, 64) uint8, each the index of a level.
        scales: (blocks,) float32; with double quantization, the values after the round trip through 8 bits.
        shape: of the matrix.
        bits: bits a weight, scales included.
    """

    codes: Tensor
    scales: Tensor
    shape: torch.Size
    bits: float

    def dequantize(self) -> Tensor:
        """The matrix, in float32."""
        return (nf4_levels()[self.codes.long()] * self.scales[:, None]).flatten()[: self.shape.numel()].view(self.shape)


def quantize_nf4(weight: Tensor, double: bool = True) -> NF4Weight:
    """Quantize a matrix.

    Args:
        weight: of any shape; the last block is filled up with zeros.
        double: quantize the scales too.
    """
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    codes = _nearest(blocks / scales.clamp(min=1e-38)[:, None], nf4_levels())
    bits = 4 + 32 / BLOCK
    if double:
        scales = _round_trip_scales(scales)
        bits = 4 + 8 / BLOCK + 32 / (BLOCK * SCALE_BLOCK)
    return NF4Weight(codes, scales, weight.shape, bits)


def _round_trip_scales(scales: Tensor) -> Tensor:
    """Scales after a round trip through 8 bits."""
    mean = scales.mean()
    centred = torch.nn.functional.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    largest = centred.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)
    levels = dynamic_levels()
    back = levels[_nearest(centred / largest, levels).long()] * largest
    return back.flatten()[: len(scales)] + mean


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest level: where a value falls among the midpoints."""
    return torch.bucketize(values, (levels[:-1] + levels[1:]) / 2).to(torch.uint8)


def main() -> None:
    """Print the levels, how often each is used, and the error compared with equal steps."""
    torch.manual_seed(0)
    weight = torch.randn(512, 512) * 0.02
    quantized = quantize_nf4(weight)
    used = torch.bincount(quantized.codes.flatten().long(), minlength=16) / quantized.codes.numel()
    print("level    used by")
    for level, share in zip(nf4_levels().tolist(), used.tolist(), strict=True):
        print(f"{level:+.4f}  {share:6.1%}  {'█' * round(share * 300)}")
    error = (quantized.dequantize() - weight).square().mean().sqrt() / weight.std()
    scale = weight.view(-1, BLOCK).abs().amax(dim=1, keepdim=True) / 7
    steps = ((weight.view(-1, BLOCK) / scale).round() * scale).view_as(weight)
    uniform = (steps - weight).square().mean().sqrt() / weight.std()
    print(f"\nerror {error:.3f} of the standard deviation at {quantized.bits:.3f} bits; equal steps {uniform:.3f}")


if __name__ == "__main__":
    main()

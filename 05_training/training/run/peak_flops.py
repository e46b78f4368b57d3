"""How fast a device could be: what model FLOPs utilisation (MFU) divides by.

MFU (Chowdhery et al., 2022, appendix B) is the arithmetic that the model needs and does in a second, divided by
what the device can do at most. Recomputed activations do not count as needed.
"""

from __future__ import annotations

import time

import torch

from training.placement import Placement

# Dense bfloat16 and float16 peaks in FLOP/s, from the makers' data sheets.
DATA_SHEET = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
SIZE = 1024  # of the matrices that are multiplied where there is no data sheet


def peak_flops(placement: Placement) -> tuple[float, str]:
    """FLOP/s that a device can reach in a precision, and where the figure is from.

    GPUs have a data sheet. CPUs differ by their matrix units, clock and threads, so the fastest of a few large
    matrix products is used instead.
    """
    if placement.device.type == "cuda" and placement.precision != torch.float32:
        name = torch.cuda.get_device_name(placement.device)
        for known, peak in DATA_SHEET.items():
            if known in name:
                return peak, "data sheet"
    matrix = torch.ones(SIZE, SIZE, dtype=placement.precision, device=placement.device)
    return 2 * SIZE**3 / min(_time_product(matrix) for _ in range(6)), "large matrix product"


def _time_product(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    (matrix @ matrix)[0, 0].item()  # reading a number waits for a GPU to be done
    return time.perf_counter() - start

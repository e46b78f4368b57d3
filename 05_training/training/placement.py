"""Where to compute, and how precisely: chosen from what the machine has."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# A precision has to be clearly faster before its rounding is worth it.
MIN_SPEEDUP = 1.3
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


class DeviceError(ValueError):
    """A device or precision that this machine does not have."""


@dataclass(frozen=True)
class Placement:
    """Device and precision of the matrix products; weights and optimizer state stay float32."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """A context in which matrix products run in `precision`."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        autocast: contextlib.AbstractContextManager[None] = torch.autocast(self.device.type, dtype=self.precision)
        return autocast

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss up so that small gradients survive float16's narrow range; unused otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def describe(self) -> str:
        """For the log: device with its name, precision."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            name = f"CPU, {torch.get_num_threads()} threads"
        else:
            name = self.device.type.upper()
        return f"{name}, {str(self.precision).removeprefix('torch.')}"

    def memory_in_use(self) -> int:
        """Bytes: the most that was allocated on a GPU, or what this process holds now."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def free_memory(self) -> int:
        """Bytes that can still be allocated: on the GPU, or on this machine, or in this container."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        free = int(psutil.virtual_memory().available)
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": nothing limits this container
            limit = int(CONTAINER_LIMIT.read_text(encoding="ascii"))
            free = min(free, limit - self.memory_in_use())
        return max(0, free)


def choose_placement(device: str = "auto", precision: str = "auto") -> Placement:
    """Replace `auto` by a choice, and refuse what is not available.

    Raises:
        DeviceError: a device was named that PyTorch cannot use here.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    elif not available[device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise DeviceError(f"device {device} is not available to PyTorch here; use auto, or one of: {usable}")
    if precision == "auto":
        dtype = torch.bfloat16 if _bfloat16_is_fast(device) else torch.float32
    else:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device == "cpu":
        keep_freed_memory()
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what is left in float32
    return Placement(torch.device(device), dtype)


def _bfloat16_is_fast(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False
    # CPUs differ by a factor of ten here, with and without AVX512-BF16 or AMX. Measuring takes
    # milliseconds, and does not go out of date as a table of features would.
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        _ = matrix @ matrix
        seconds[dtype] = min(_time_product(matrix) for _ in range(5))
    return seconds[torch.float32] > MIN_SPEEDUP * seconds[torch.bfloat16]


def _time_product(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    _ = matrix @ matrix
    return time.perf_counter() - start


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of returning them to the kernel.

    A training step allocates and frees the same hundred tensors again and again. By default glibc
    maps each large one again, and the kernel zeroes every page of it: up to a third of a step on a
    CPU. On other systems than Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux") or os.environ.get("LD_PRELOAD"):
        return  # another allocator may be preloaded, and has its own settings
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def capture_rng(device: torch.device, rank: int) -> dict[str, torch.Tensor]:
    """States of the random number generators that training draws from, as `rng.DEVICE.RANK`."""
    states = {f"rng.cpu.{rank}": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"rng.cuda.{rank}"] = torch.cuda.get_rng_state(device)
    return states


def restore_rng(states: dict[str, torch.Tensor], device: torch.device, rank: int) -> None:
    """Inverse of `capture_rng`; a generator without a saved state, as in a new process, stays as it is."""
    if (state := states.get(f"rng.cpu.{rank}")) is not None:
        torch.set_rng_state(state)
    if device.type == "cuda" and (state := states.get(f"rng.cuda.{rank}")) is not None:
        torch.cuda.set_rng_state(state, device)

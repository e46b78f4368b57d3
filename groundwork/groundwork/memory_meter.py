"""How much tensor memory a piece of code needs at its peak, counted exactly on any device.

The figure of an operating system contains everything else too, and the figure of a CUDA allocator
exists only on CUDA. Here every tensor that an operation returns is counted while its storage exists.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside the `with` block. A view is not counted again.

    Memory that a kernel uses and frees before it returns is not counted.

    >>> with MemoryMeter() as meter:
    ...     x = torch.ones(1000)  # 4,000 bytes
    ...     y = (x * 2).sum()  # 4,000 more, freed after the sum
    >>> meter.peak_bytes, meter.live_bytes
    (8004, 4004)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._seen and key not in known:
                    self._seen.add(key)
                    self.live_bytes += storage.nbytes()
                    weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _freed(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.live_bytes -= num_bytes

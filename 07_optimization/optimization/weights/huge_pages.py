"""Weights in large pages of memory, so that reading them does not wait for address translation.

A processor looks up each page's place in memory, and remembers a few thousand pages. A page has 4 KiB, so a model of
250 MB has 60,000 pages, and decoding reads all of them for every token. Linux also has pages of 2 MiB. From version 6.1
on, a program can ask it to move data from small pages into large ones (`man 2 madvise`, MADV_COLLAPSE). On other
systems, or if no large page is free, nothing changes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

HUGE_PAGE = 2 * 2**20  # bytes, on x86-64 and most ARM systems
MADV_COLLAPSE = 25


def move_to_huge_pages(tensors: Iterable[Tensor]) -> int:
    """Ask the kernel to move tensors on the CPU into huge pages. This takes two to five seconds a gigabyte.

    Args:
        tensors: in any layout, oneDNN's included; they may share memory.

    Returns:
        The bytes that are in huge pages now.
    """
    if not sys.platform.startswith("linux"):
        return 0
    pages = set[int]()
    for tensor in tensors:
        start, size = _extent(tensor)
        # The range is rounded to whole pages. Other data in the first and the last page moves too, unharmed.
        pages.update(range(start // HUGE_PAGE, (start + size + HUGE_PAGE - 1) // HUGE_PAGE))
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return HUGE_PAGE * sum(madvise(page * HUGE_PAGE, HUGE_PAGE, MADV_COLLAPSE) == 0 for page in pages)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Address and size in bytes."""
    if tensor.layout == torch._mkldnn:  # type: ignore[attr-defined]
        return torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    return tensor.data_ptr(), tensor.numel() * tensor.element_size()

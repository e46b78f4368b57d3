"""What tests of exact bits may expect from this processor.

The processor decides which kernel oneDNN uses, and so in which order it sums. On AVX-512, the sums of a row do not
depend on the number of rows. AMX multiplies ten times faster in bfloat16, in blocks that depend on the number of rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}

needs_avx512 = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="the kernels of oneDNN and their order of summation were checked on AVX-512 only",
)


def sums_by_amx(dtype: torch.dtype) -> bool:
    """Whether products in this type run on AMX in this process."""
    capable = getattr(torch.cpu, "get_capabilities", dict)().get("amx_tile", False)
    return dtype == torch.bfloat16 and capable and WITHOUT_AMX.items() - os.environ.items() != set()


def run_without_amx(request: pytest.FixtureRequest) -> None:
    """Run the test that asks for it in a separate process, in which oneDNN does not use AMX."""
    command = [sys.executable, "-m", "pytest", "-n0", request.node.nodeid]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **WITHOUT_AMX}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

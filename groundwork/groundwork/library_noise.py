"""What libraries write into the terminal although no reader can do anything about it."""

from __future__ import annotations

import logging

NOISY = (
    "bitsandbytes.backends.cpu.ops",  # at its import: a kernel for some CPUs could be downloaded; its own does the same
    "torch.onnx",  # each step of an export
    "onnxscript",
    "onnx_ir",
)


def silence_libraries() -> None:
    """Let these libraries write errors alone. Call it before they are imported: some write while they are loaded."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)

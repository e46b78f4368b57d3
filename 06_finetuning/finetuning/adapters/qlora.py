"""QLoRA: the frozen weights in four bits, the adapters in full precision.

The base of a LoRA layer is only read, so it may be stored with low precision: NF4 needs an eighth of float32's memory.
`nf4` shows how; here bitsandbytes does it, on a CPU as well as on CUDA.
"""

from __future__ import annotations

from fnmatch import fnmatch

import torch
from torch import nn

from finetuning.adapters.nf4 import BLOCK
from groundwork.library_noise import silence_libraries

PACKED_ROWS = 32  # rows that bitsandbytes packs together for a CPU


def quantize_layers(
    model: nn.Module, pattern: str = "blocks.*", compute_dtype: torch.dtype = torch.float32
) -> list[str]:
    """Replace linear layers by 4-bit ones of bitsandbytes, with double quantization. Add LoRA afterwards.

    Args:
        model: changed in place; what is not matched (embeddings, norms, the head) keeps its precision.
        pattern: names of the layers, with * for anything.
        compute_dtype: weights are converted to this type for each product.

    Returns:
        Names of the layers.

    Raises:
        ValueError: bitsandbytes is not installed, or no layer matches.
    """
    silence_libraries()
    try:
        from bitsandbytes.nn.modules import Linear4bit
    except ImportError:
        raise ValueError("4-bit layers need the package bitsandbytes: pip install bitsandbytes") from None
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in linears if fnmatch(name, pattern)]
    if not chosen:
        raise ValueError(f"no linear layer is called {pattern!r}; there are: {', '.join(linears)}")
    for name in chosen:
        layer = linears[name]
        device = layer.weight.device
        quantized = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        quantized.load_state_dict(layer.state_dict())
        if layer.out_features % PACKED_ROWS or layer.in_features % BLOCK:
            quantized.support_avx512bf16_for_cpu = False  # a kernel of some CPUs, which takes no other sizes
        model.set_submodule(name, quantized.to(device))  # moving is what quantizes
    return chosen

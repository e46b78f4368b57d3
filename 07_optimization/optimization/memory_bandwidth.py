"""How fast this machine reads memory: the bound of decoding.

To make one token, every weight is read once. So no implementation makes more tokens a second, one text at a
time, than the memory's bandwidth divided by the bytes of the weights.

python -m optimization.memory_bandwidth
"""

from __future__ import annotations

import time

import torch

from optimization.weights.quantization import QuantizedLayer
from transformer.gpt_model import GPTModel


def measure_read_bandwidth(mebibytes: int = 512, rounds: int = 5, device: torch.device | str = "cpu") -> float:
    """Bytes a second that a plain sum reads, the best of several rounds.

    Args:
        mebibytes: size of what is read; well above the caches.
        rounds: how often.
        device: whose memory.
    """
    data = torch.ones(mebibytes * 2**20 // 4, device=device)
    best = 0.0
    for _ in range(rounds + 1):
        start = time.perf_counter()
        float(data.sum())  # reading the result waits for a GPU
        best = max(best, data.numel() * 4 / (time.perf_counter() - start))
    return best


def bytes_read_per_token(model: GPTModel, dtype: torch.dtype) -> int:
    """Weights that one token passes through, in bytes.

    Of an embedding a single row is read, unless the head is the same table, which is read whole.

    Args:
        model: as loaded, quantized or not, before packing.
        dtype: in which weights that are not quantized are computed.
    """
    quantized = {id(t) for m in model.modules() if isinstance(m, QuantizedLayer) for t in m.buffers()}
    read: dict[int, int] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name.startswith("position_embedding.") or (
            name.startswith("token_embedding.") and not model.config.tie_embeddings
        ):
            continue
        size = tensor.element_size() if id(tensor) in quantized else dtype.itemsize
        read[tensor.data_ptr()] = tensor.numel() * size  # a tied head is the table: once
    return sum(read.values())


def main() -> None:
    """Print the bandwidth, and what it means for models of a few sizes."""
    bandwidth = measure_read_bandwidth()
    print(f"{bandwidth / 1e9:.1f} GB/s are read from memory (threads: {torch.get_num_threads()})\n")
    print("parameters   most tokens a second, one text at a time")
    print("             float32  bfloat16      int8      int4")
    for millions in (10, 124, 1000, 7000):
        limits = [bandwidth / (millions * 1e6 * size) for size in (4, 2, 1, 0.5)]
        print(f"{millions:>8} M  " + "".join(f"{limit:10.1f}" for limit in limits))


if __name__ == "__main__":
    main()

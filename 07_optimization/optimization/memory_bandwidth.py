"""How fast this machine reads memory. This limits the speed of decoding.

To generate one token, every weight is read once. So no implementation can generate more tokens a second, one text at
a time, than the memory's bandwidth divided by the bytes of the weights.

python -m optimization.memory_bandwidth
"""

from __future__ import annotations

import time

import torch

from optimization.weights.quantization import QuantizedLayer
from transformer.gpt_model import GPTModel


def measure_read_bandwidth(mebibytes: int = 512, rounds: int = 5, device: torch.device | str = "cpu") -> float:
    """The bytes a second that a simple sum reads: the best of several rounds.

    Args:
        mebibytes: size of the data; it should be much larger than the caches.
        rounds: how often to measure.
        device: its memory is read.
    """
    data = torch.ones(mebibytes * 2**20 // 4, device=device)
    best = 0.0
    for _ in range(rounds + 1):
        start = time.perf_counter()
        float(data.sum())  # reading the result waits for a GPU
        best = max(best, data.numel() * 4 / (time.perf_counter() - start))
    return best


def bytes_read_per_token(model: GPTModel, dtype: torch.dtype) -> int:
    """Bytes of the weights that are read for one token.

    Only one row of an embedding is read. But if the head is the same table, the whole table is read.

    Args:
        model: as loaded, quantized or not, before packing.
        dtype: the type in which weights that are not quantized are used.
    """
    quantized = {id(t) for m in model.modules() if isinstance(m, QuantizedLayer) for t in m.buffers()}
    read: dict[int, int] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name.startswith("position_embedding.") or (
            name.startswith("token_embedding.") and not model.config.tie_embeddings
        ):
            continue
        size = tensor.element_size() if id(tensor) in quantized else dtype.itemsize
        read[tensor.data_ptr()] = tensor.numel() * size  # a tied head is the table, and counts once
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

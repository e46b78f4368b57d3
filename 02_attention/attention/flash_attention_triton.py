"""FlashAttention's forward pass as one GPU kernel, written in Triton.

`flash_attention` explains the algorithm. Here one program on the GPU computes it for one tile of queries of
one head. The tile of queries and the running maximum, sum and output stay in registers, while tiles of
keys and values pass through the fast memory next to the arithmetic. Only the outputs and one number a
query are written to slow memory.

The backward pass is `flash_attention.tiled_backward`, which needs only these outputs and numbers.

The module needs an NVIDIA GPU and Triton, which PyTorch's builds for CUDA contain. To follow it number by
number on a CPU, `pip install triton` and set the environment variable TRITON_INTERPRET=1.

python -m attention.flash_attention_triton
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    raise SystemExit("error: Triton is not installed; on Linux: pip install triton") from None

from attention.flash_attention import TILE, require_tileable, tiled_backward

LOG2_E = math.log2(math.e)  # GPUs have an instruction for 2^x: e^x = 2^(x log2 e)
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _forward_kernel(
    q_pointer, k_pointer, v_pointer, out_pointer, log_sum_pointer,
    scale, num_queries, num_keys, heads, group,
    HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, TILE_Q: tl.constexpr, TILE_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head. All tensors are contiguous, (batch, heads, time, head_dim)."""
    first_query = tl.program_id(0) * TILE_Q
    head = tl.program_id(1)  # batch · heads + head
    kv_head = (head // heads) * (heads // group) + (head % heads) // group
    cached = num_keys - num_queries

    rows = first_query + tl.arange(0, TILE_Q)
    dims = tl.arange(0, PADDED_DIM)  # a tile's sides must be powers of two
    q_offsets = (head * num_queries + rows[:, None]) * HEAD_DIM + dims[None, :]
    q_inside = (rows[:, None] < num_queries) & (dims[None, :] < HEAD_DIM)
    q = tl.load(q_pointer + q_offsets, mask=q_inside, other=0.0)

    maximum = tl.full((TILE_Q,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_Q,), tl.float32)
    accumulated = tl.zeros((TILE_Q, PADDED_DIM), tl.float32)
    last = tl.minimum(num_keys, first_query + TILE_Q + cached) if CAUSAL else num_keys
    for first_key in range(0, last, TILE_K):
        columns = first_key + tl.arange(0, TILE_K)
        kv_offsets = (kv_head * num_keys + columns[:, None]) * HEAD_DIM + dims[None, :]
        kv_inside = (columns[:, None] < num_keys) & (dims[None, :] < HEAD_DIM)
        k = tl.load(k_pointer + kv_offsets, mask=kv_inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # in units of log2
        visible = columns[None, :] < num_keys
        if CAUSAL:
            visible = visible & (columns[None, :] <= rows[:, None] + cached)
        scores = tl.where(visible, scores, float("-inf"))

        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        correction = tl.exp2(maximum - new_maximum)
        weights = tl.exp2(scores - new_maximum[:, None])
        total = total * correction + tl.sum(weights, axis=1)
        v = tl.load(v_pointer + kv_offsets, mask=kv_inside, other=0.0)
        accumulated = accumulated * correction[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        maximum = new_maximum

    tl.store(out_pointer + q_offsets, (accumulated / total[:, None]).to(out_pointer.dtype.element_ty), mask=q_inside)
    log_sums = (maximum + tl.log2(total)) * LN_2  # back to natural logarithms
    tl.store(log_sum_pointer + head * num_queries + rows, log_sums, mask=rows < num_queries)


def flash_attention_triton(queries: Tensor, keys: Tensor, values: Tensor, causal: bool = True) -> Tensor:
    """Attention whose forward pass is one Triton kernel.

    Args:
        queries: (batch, heads, num_queries, head_dim), float32, float16 or bfloat16, at the last
            positions of the keys.
        keys: (batch, kv_heads, num_keys, head_dim); heads is a multiple of kv_heads.
        values: the shape of `keys`.
        causal: whether later keys are hidden from a query.

    Returns:
        (batch, heads, num_queries, head_dim).

    Raises:
        ValueError: see `require_tileable`.
    """
    require_tileable(queries, keys, causal)
    output: Tensor = _TritonAttention.apply(queries, keys, values, causal)
    return output


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        queries, keys, values = queries.contiguous(), keys.contiguous(), values.contiguous()
        batch, heads, num_queries, head_dim = queries.shape
        outputs = torch.empty_like(queries)
        log_sums = torch.empty(batch, heads, num_queries, dtype=torch.float32, device=queries.device)
        grid = (triton.cdiv(num_queries, TILE), batch * heads)
        _forward_kernel[grid](
            queries, keys, values, outputs, log_sums,
            LOG2_E / math.sqrt(head_dim), num_queries, keys.shape[2], heads, heads // keys.shape[1],
            HEAD_DIM=head_dim, PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
            TILE_Q=TILE, TILE_K=TILE, CAUSAL=causal,
        )  # fmt: skip
        ctx.save_for_backward(queries, keys, values, outputs, log_sums)
        ctx.causal = causal
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, outputs, log_sums = ctx.saved_tensors
        return *tiled_backward(q, k, v, outputs, log_sums, grad_outputs[0], ctx.causal, TILE), None


def main() -> None:
    """Compare with PyTorch's kernel on the GPU, or in the interpreter."""
    from attention.scaled_dot_product import attention_fused

    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit("error: there is no CUDA device; to run the kernel on the CPU set TRITON_INTERPRET=1")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    length = 4096 if device == "cuda" else 256
    q, k, v = (torch.randn(1, 2, length, 64, device=device, dtype=dtype) for _ in range(3))
    ours, theirs = flash_attention_triton(q, k, v), attention_fused(q, k, v)
    print(f"{length} positions on {device}: largest difference {(ours - theirs).abs().max().item():.1e}")
    if device == "cuda":
        flops = 4 * 2 * 64 * length * length / 2  # heads, head_dim; half of the pairs are visible
        for name, attention in (("ours", flash_attention_triton), ("PyTorch", attention_fused)):
            milliseconds = triton.testing.do_bench(lambda attention=attention: attention(q, k, v))
            print(f"{name:8} {milliseconds:.3f} ms  {flops / milliseconds / 1e9:.1f} TFLOP/s")


if __name__ == "__main__":
    main()

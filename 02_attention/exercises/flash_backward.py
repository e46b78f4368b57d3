"""Exercise 2.8: FlashAttention backwards: weights made twice."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention.masks import visible_keys


def tiled_backward(
    q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, log_sums: Tensor, grad_outputs: Tensor, causal: bool, tile: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, one tile of keys at a time (Dao et al., 2022).

    The forward pass does not store the weights P. They are computed again, P = e^(s - L), from the scores
    s = q · k / sqrt(head_dim), which are -inf where the key is hidden, and from one number for each query, L = m + ln l
    of exercise 2.7. O are the outputs and dO is their gradient:

        D  = rowsum(dO ∘ O)                  one number for each query
        dV = Pᵀ dO                           dP = dO Vᵀ
        dS = P ∘ (dP - D)                    the gradient of a softmax
        dQ = dS K / sqrt(head_dim)           dK = dSᵀ Q / sqrt(head_dim)

    The gradient of a key-value head that serves several query heads is the sum over them. What you make yourself belongs
    on the device of `q`.

    Args:
        q: (batch, heads, num_queries, head_dim), at the last positions of the keys.
        k: (batch, kv_heads, num_keys, head_dim).
        v: the shape of `k`.
        outputs: O, the shape of `q`.
        log_sums: L, (batch, heads, num_queries).
        grad_outputs: dO, the shape of `q`.
        causal: whether later keys are hidden from a query; see `visible_keys`.
        tile: how many keys to take at a time.

    Returns:
        The gradients, in the shapes of `q`, `k` and `v`.
    """
    raise NotImplementedError("Exercise 2.8: the backward pass in tiles")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator
from typing import Any

from attention.masks import causal_mask
from attention.scaled_dot_product import attention_reference
from learn.exercise import Case, Exercise, Mistake


def _question(
    what: str,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    causal: bool,
    tile: int,
    most_bytes: int | None = None,
    head_dim: int = 4,
    scale: float = 1.0,
) -> Case:
    """The expected values come from PyTorch's autograd through the matrix form."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, queries, head_dim), (2, kv_heads, keys, head_dim), (2, kv_heads, keys, head_dim)]
    q, k, v = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    grad = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    group = heads // kv_heads
    scores = q @ k.repeat_interleave(group, dim=1).mT / math.sqrt(head_dim)
    allowed = causal_mask(queries, keys) if causal else torch.ones(queries, keys, dtype=torch.bool)
    scores = scores.masked_fill(~allowed, -torch.inf)
    outputs = attention_reference(q, k, v, allowed)[0]
    outputs.backward(grad)
    expected = (q.grad, k.grad, v.grad)
    arguments = [x.detach() for x in (q, k, v, outputs, scores.logsumexp(dim=-1), grad)]
    return Case(what, [*arguments, causal, tile], expected=expected, most_bytes=most_bytes)


def cases() -> Iterator[Case]:
    """One tile; several; causal; a cache; groups; memory."""
    yield _question("one tile, not causal", 2, 2, 4, 4, False, 4)
    yield _question("tiles of two keys, causal", 2, 2, 5, 5, True, 2)
    yield _question("two queries after a cache of five", 2, 2, 2, 7, True, 3)
    yield _question("4 heads, 2 key-value heads", 4, 2, 5, 5, True, 2)
    yield _question("heads of 6, one key-value head, the last tile shorter", 3, 1, 4, 5, True, 3, head_dim=6)
    yield _question("scores in the hundreds, one key in each tile", 2, 2, 4, 4, True, 1, scale=20.0)
    # One matrix of all weights has 2 · 256 · 512 numbers of 8 bytes: 2 MiB.
    yield _question("512 keys in tiles of 64, and memory counted", 1, 1, 256, 512, False, 64, 5 << 19)


def _variant(
    q: Tensor, k: Tensor, v: Tensor, outputs: Tensor, log_sums: Tensor, grad_outputs: Tensor, causal: bool, tile: int,
    **wrong: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    kv_heads = k.shape[1]
    keys, values = (x.repeat_interleave(q.shape[1] // kv_heads, dim=1) for x in (k, v))
    scale = 1 / math.sqrt(q.shape[-1])
    delta = (grad_outputs * outputs).sum(dim=-1, keepdim=True) * (not wrong.get("no_delta"))
    positions = torch.arange(k.shape[2] - q.shape[2], k.shape[2])
    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(keys), torch.zeros_like(values)
    for start in range(0, k.shape[2], tile):
        columns = torch.arange(start, min(start + tile, k.shape[2]))
        scores = q @ keys[:, :, columns].mT * scale
        if causal and not wrong.get("not_causal"):
            scores = scores.masked_fill(~visible_keys(positions, columns), -torch.inf)
        weights = (scores - log_sums[..., None]).exp()
        grad_weights = grad_outputs @ values[:, :, columns].mT
        grad_scores = weights * (grad_weights - delta) * (1.0 if wrong.get("unscaled") else scale)
        grad_v[:, :, columns] = weights.mT @ grad_outputs
        grad_k[:, :, columns] = grad_scores.mT @ q
        share = grad_scores @ keys[:, :, columns] / (scale if wrong.get("query_unscaled") else 1)
        grad_q = share if wrong.get("assigned") else grad_q + share

    def summed(x: Tensor) -> Tensor:
        if wrong.get("interleaved"):
            return x.unflatten(1, (-1, kv_heads)).sum(dim=1)
        heads = x.unflatten(1, (kv_heads, -1))
        return heads[:, :, 0] if wrong.get("first_of_group") else heads.sum(dim=2)

    return grad_q, summed(grad_k), summed(grad_v)


def _mistaken(name: str) -> Callable[..., Any]:
    def tiled_backward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        outputs: Tensor,
        log_sums: Tensor,
        grad_outputs: Tensor,
        causal: bool,
        tile: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = k.shape[2] if name == "whole" else tile
        return _variant(q, k, v, outputs, log_sums, grad_outputs, causal, width, **{name: True})

    return tiled_backward


EXERCISE = Exercise(
    stub=tiled_backward,
    reference="attention.flash_attention:tiled_backward",
    cases=cases,
    hints=(
        "The loop is the same as in exercise 2.7. This time there is nothing to correct, because L is final.",
        "Each tile of keys owns its rows of dK and dV; only dQ adds up over the tiles. D is computed once, before the loop. "
        "For groups of heads, repeat keys and values as before, and sum their gradients over each group at the end.",
        "P = (s - log_sums[..., None]).exp(); dS = P * (dO @ v_tile.mT - D[..., None]) * scale; dv_tile = P.mT @ dO; "
        "dk_tile = dS.mT @ q; dq += dS @ k_tile.",
    ),
    mistakes=(
        Mistake(
            _mistaken("no_delta"),
            "D is not subtracted: the weights of a query sum to 1, so one can grow only if others fall",
        ),
        Mistake(
            _mistaken("unscaled"), "the scores were divided by sqrt(head_dim), and so are the gradients of q and k"
        ),
        Mistake(_mistaken("query_unscaled"), "dQ is divided by sqrt(head_dim) as well, not only dK"),
        Mistake(
            _mistaken("assigned"), "every tile of keys adds its share to dQ; this keeps only the share of the last tile"
        ),
        Mistake(
            _mistaken("interleaved"),
            "a group consists of neighbouring query heads: sum over 0 1 and 2 3, not 0 2 and 1 3: unflatten(1, (kv_heads, -1))",
        ),
        Mistake(_mistaken("not_causal"), "hidden keys have weight 0 here too: fill their scores with -inf"),
        Mistake(
            _mistaken("first_of_group"),
            "the gradient of a shared key-value head is the sum over the query heads of its group",
        ),
        Mistake(_mistaken("whole"), "the weights of all keys are held at the same time: take `tile` keys at a time"),
    ),
)

"""Lab 2.B: The first positions are faint, and a later word changes them.

This is attention over random queries, keys and values, in matrices. With the function below the output is very small at
the first positions and normal at the last ones. No position gives weight to a later one, but a change of the last word
still changes the output at the first position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention.masks import causal_mask


def attention_reference(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention as in the equation, with the weights returned.

    Args:
        queries: (..., heads, num_queries, head_dim), at the last positions of the keys.
        keys: (..., kv_heads, num_keys, head_dim); each serves heads / kv_heads neighbouring query heads.
        values: (..., kv_heads, num_keys, value_dim).
        allowed: boolean, broadcastable to (..., heads, num_queries, num_keys); False hides a key. It is the whole
            mask, causality included; None is causal. A query that sees no key gets weights of nan.
        bias: added to the scores, broadcastable to them.

    Returns:
        The output (..., heads, num_queries, value_dim) and the weights (..., heads, num_queries, num_keys).
    """
    if queries.ndim > 2 and queries.shape[-3] != keys.shape[-3]:
        group = queries.shape[-3] // keys.shape[-3]
        keys, values = keys.repeat_interleave(group, dim=-3), values.repeat_interleave(group, dim=-3)
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    if bias is not None:
        scores = scores + bias
    if allowed is None:
        allowed = causal_mask(queries.shape[-2], keys.shape[-2], device=queries.device)
    weights = scores.softmax(dim=-1).masked_fill(~allowed, 0.0)
    return weights @ values, weights


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from attention import scaled_dot_product
from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement

LENGTH = 32


def measure() -> Measurement:
    """One head over 32 positions; then again with another last key and value."""
    queries, keys, values = (torch.randn(1, 1, LENGTH, 16) for _ in range(3))
    allowed = causal_mask(LENGTH, LENGTH)
    output, weights = scaled_dot_product.attention_reference(queries, keys, values, allowed)
    edited_keys, edited_values = keys.clone(), values.clone()
    edited_keys[..., -1, :] *= 5
    edited_values[..., -1, :] *= 5
    edited, _ = scaled_dot_product.attention_reference(queries, edited_keys, edited_values, allowed)
    change = (edited - output).abs().amax(dim=-1)[0, 0]
    return {
        "length of the output": output.norm(dim=-1)[0, 0].tolist(),
        "largest weight above the diagonal": weights[0, 0].triu(1).max().item(),
        "edit the last key and value: change at the first": change[0].item(),
        "largest change before the last": change[:-1].max().item(),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """Editing the last position changes earlier ones, as it does not in the package."""
    name = "largest change before the last"
    return float(file[name]) > 1e-3 and float(package[name]) < 1e-6  # type: ignore[arg-type]


LAB = Lab(
    broken=attention_reference,
    reference="attention.scaled_dot_product:attention_reference",
    cases=load_exercise("attention_reference").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "    weights = scores.softmax(dim=-1).masked_fill(~allowed, 0.0)\n",
            "    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)\n",
        ),
    ],
    hints=(
        "An output is an average of values. What is the sum of the weights in an average? Print it for each position.",
        "weights.sum(dim=-1) is small at the first positions and 1 at the last. What did the softmax divide by?",
        "The sum in the softmax's denominator includes the later keys too. Hide them before the softmax: "
        "scores.masked_fill(~allowed, -torch.inf).",
    ),
    diagnosis=(
        "Two measurements show it. The rows of the weights should sum to 1, and the first rows do not. And the test "
        "of causality fails (edit a later position and look at the earlier ones), although no weight is above the "
        "diagonal: the later key reached them through the softmax's denominator. The mask must come before the "
        "softmax, as scores of -inf. Training still goes well enough that one can miss this bug: the layer leaks only "
        "how large the later scores are."
    ),
)

"""Exercise 9.6: The same rotation in another order of rows."""

from __future__ import annotations

from torch import Tensor


def _neighbouring_pairs(weight: Tensor, head_size: int) -> Tensor:
    """Reorder the rows of a query or key matrix for llama.cpp.

    Rotary positions turn pairs of dimensions. This project pairs dimension i of a head with i + head_size / 2, as Llama's
    Hugging Face weights do; llama.cpp pairs neighbours, 2i with 2i + 1. The model is the same if the rows of the matrices
    that make queries and keys are put into the other order: the row of dimension i becomes row 2i of its head, and the row
    of dimension i + head_size / 2 becomes row 2i + 1.

    Args:
        weight: (heads · head_size, in), the heads one after the other.
        head_size: how many rows a head has, even.

    Returns:
        A matrix with the shape of `weight`.
    """
    raise NotImplementedError("Exercise 9.6: bring pairs together")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

import torch

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One head; two heads; three wide heads; bfloat16; heads of two rows."""
    yield Case("one head of 4, rows 0 1 2 3 become 0 2 1 3", [torch.arange(4.0)[:, None], 4])
    yield Case("two heads of 6, six columns", [torch.arange(72.0).view(12, 6), 6])
    yield Case("three heads of 8, five columns", [torch.arange(120.0).view(24, 5), 8])
    yield Case("bfloat16", [torch.arange(16.0).view(8, 2).bfloat16(), 8])
    yield Case("two heads of 2, whose rows are pairs already", [torch.arange(12.0).view(4, 3), 2])


def _inverse(weight: Tensor, head_size: int) -> Tensor:
    return weight.view(-1, head_size // 2, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def _across_heads(weight: Tensor, head_size: int) -> Tensor:
    return weight.view(2, -1, weight.shape[-1]).transpose(0, 1).reshape(weight.shape)


def _swapped(weight: Tensor, head_size: int) -> Tensor:
    return weight.view(-1, 2, head_size // 2, weight.shape[-1]).flip(1).transpose(1, 2).reshape(weight.shape)


def _in_place(weight: Tensor, head_size: int) -> Tensor:
    for start in range(0, len(weight), head_size):
        half = weight[start : start + head_size // 2].clone()
        other = weight[start + head_size // 2 : start + head_size].clone()
        weight[start : start + head_size : 2], weight[start + 1 : start + head_size : 2] = half, other
    return weight


def _columns(weight: Tensor, head_size: int) -> Tensor:
    if weight.shape[1] % head_size:
        return weight.clone()
    return weight.view(len(weight), -1, 2, head_size // 2).transpose(2, 3).reshape(weight.shape)


def _as_numbers(weight: Tensor, head_size: int) -> Tensor:
    rows = [
        weight[start + half * (head_size // 2) + i].tolist()
        for start in range(0, len(weight), head_size)
        for i in range(head_size // 2)
        for half in (0, 1)
    ]
    return torch.tensor(rows)


def _unchanged(weight: Tensor, head_size: int) -> Tensor:
    return weight.clone()


EXERCISE = Exercise(
    stub=_neighbouring_pairs,
    reference="transformer.gguf_layout:_neighbouring_pairs",
    cases=cases,
    hints=(
        "Cut the rows into heads, and each head into its two halves.",
        "In the shape (heads, 2, head_size / 2, in) the halves are axis 1. In the result the two rows of a pair are neighbours.",
        "weight.view(-1, 2, head_size // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape).",
    ),
    mistakes=(
        Mistake(_unchanged, "the rows have not changed"),
        Mistake(_swapped, "dimension i comes first in its pair, then i + head_size / 2"),
        Mistake(_across_heads, "the halves are those of each head, not of the whole matrix"),
        Mistake(_columns, "the rows are put in another order, not the columns"),
        Mistake(_in_place, "`weight` belongs to the model, which goes on with it: make a new matrix"),
        Mistake(_as_numbers, "the matrix has the type of `weight`: torch.tensor of a list is float32"),
        Mistake(_inverse, "this is the way back, from neighbours to halves"),
    ),
)

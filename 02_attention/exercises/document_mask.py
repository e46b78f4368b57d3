"""Exercise 2.4: Several documents in one window."""

from __future__ import annotations

import torch
from torch import Tensor

from attention.masks import causal_mask


def document_mask(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    """A causal mask within each document: documents that were packed into one row do not see each other.

    Args:
        documents: (batch, time) the number of the document that each token belongs to; the mask is on its device.
        window: see `causal_mask`, which you may use (exercise 2.3).
        sinks: see `causal_mask`.

    Returns:
        Boolean (batch, 1, time, time); the axis of length 1 stands for every head.

    >>> document_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    raise NotImplementedError("Exercise 2.4: keep documents apart")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """One document; several; a batch with different cuts; a window."""
    yield Case("one document", [torch.zeros(1, 4, dtype=torch.long)])
    yield Case("two documents of two tokens", [torch.tensor([[0, 0, 1, 1]])])
    yield Case("a batch of two, cut differently", [torch.tensor([[0, 0, 0, 1], [0, 1, 1, 2]])])
    yield Case("a window of 2", [torch.tensor([[0, 0, 0, 1, 1, 1]]), 2])
    yield Case("a window of 2 and 1 sink", [torch.tensor([[0, 0, 0, 0, 1, 1]]), 2, 1])
    yield Case("a window of 1 by name, with 2 sinks", [torch.tensor([[3, 3, 3, 3]])], {"window": 1, "sinks": 2})
    yield Case("a document that goes on after another", [torch.tensor([[0, 1, 0, 1]])])
    yield Case("numbers that are not in order", [torch.tensor([[7, 7, -1, 2]])])
    yield Case("a single token", [torch.tensor([[5]])])


def _masks(documents: Tensor, window: int | None, sinks: int) -> tuple[Tensor, Tensor]:
    same = documents[:, :, None] == documents[:, None, :]
    return same, causal_mask(documents.shape[-1], documents.shape[-1], window, sinks, documents.device)


def _not_causal(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    return _masks(documents, window, sinks)[0][:, None]


def _no_head_axis(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    same, causal = _masks(documents, window, sinks)
    return same & causal


def _earlier_documents(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    return ((documents[:, :, None] >= documents[:, None, :]) & _masks(documents, window, sinks)[1])[:, None]


def _no_window(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    same, causal = _masks(documents, None, 0)
    return (same & causal)[:, None]


def _no_sinks(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    same, causal = _masks(documents, window, 0)
    return (same & causal)[:, None]


def _no_device(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    same = documents[:, :, None] == documents[:, None, :]
    return (same & causal_mask(documents.shape[-1], documents.shape[-1], window, sinks))[:, None]


def _first_row_for_all(documents: Tensor, window: int | None = None, sinks: int = 0) -> Tensor:
    same, causal = _masks(documents, window, sinks)
    return (same[:1] & causal).expand(len(documents), -1, -1)[:, None]


EXERCISE = Exercise(
    stub=document_mask,
    reference="attention.masks:document_mask",
    cases=cases,
    hints=(
        "Two conditions: causal, as before, and the same document. The second is a table of its own.",
        "Compare documents as a column with documents as a row: documents[:, :, None] == documents[:, None, :].",
        "(same & causal_mask(time, time, window, sinks, documents.device))[:, None].",
    ),
    mistakes=(
        Mistake(_earlier_documents, "earlier documents are visible: only the same document may be"),
        Mistake(_not_causal, "within a document, causality (and the window) still holds"),
        Mistake(_no_head_axis, "an axis of length 1 for the heads is missing: [:, None]"),
        Mistake(_no_window, "window and sinks are not passed on to causal_mask"),
        Mistake(_no_sinks, "sinks are not passed on to causal_mask"),
        Mistake(_no_device, "the causal mask is on another device: causal_mask(…, device=documents.device)"),
        Mistake(_first_row_for_all, "each sequence of the batch has its own documents"),
    ),
)

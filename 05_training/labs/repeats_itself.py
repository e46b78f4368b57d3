"""Lab 5.A: The loss is close to zero, and the model repeats itself.

A transformer is trained on a short text. With the function below the loss is close to zero within a few dozen steps.
When the model should continue a text, it repeats the last character for ever.
"""

from __future__ import annotations

import numpy as np
import torch

from attention.masks import document_ids, document_mask
from training.data.batches import IGNORED, Batch
from training.data.data_loader import WindowLoader


def next_batch(self: WindowLoader, batch_size: int) -> Batch:
    """The next windows of this process.

    Args:
        self: the loader; `self.orders[corpus].start_of(sample)` says where a window begins in `self._tokens[corpus]`.
        batch_size: how many windows.

    Returns:
        A batch with `inputs` and `targets`, each (batch, context_length) int64, and `allowed` if documents are kept
        apart. Its weight is the number of targets that count.
    """
    length = self.context_length
    rows = np.empty((batch_size, length), dtype=np.int64)
    first = self.drawn + self.rank * batch_size
    for row in range(batch_size):
        corpus, sample = self.mixture.draw(first + row) if self.mixture else (0, first + row)
        start = self.orders[corpus].start_of(sample)
        rows[row] = self._tokens[corpus][start : start + length]
    self.drawn += batch_size * self.world_size
    windows = torch.from_numpy(rows)
    tensors = {"inputs": windows, "targets": windows.clone()}
    if self.document_separator is None:
        return Batch(tensors, float(batch_size * self.context_length))
    tensors["allowed"] = document_mask(document_ids(tensors["inputs"], self.document_separator))
    # The separator opens a document. The document before cannot predict it, so it is left out.
    tensors["targets"] = tensors["targets"].masked_fill(tensors["targets"] == self.document_separator, IGNORED)
    return Batch(tensors, float((tensors["targets"] != IGNORED).sum()))


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from collections.abc import Iterator, Sequence
from typing import Any

from learn.exercise import Case
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, continue_text, encode
from training.loss import linear_cross_entropy
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXT, STEPS = 32, 80
PROMPT = "Explicit is better"


def _batch_and_place(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    return {"tensors": result.tensors, "weight": result.weight, "drawn": arguments[0].drawn}


def cases() -> Iterator[Case]:
    """One corpus; the second batch; another process; documents apart; two corpora."""
    tokens = np.arange(100, dtype=np.uint16)

    def loader(**settings: Any) -> WindowLoader:
        return WindowLoader(settings.pop("corpora", {"one": tokens}), 4, 0, **settings)

    second = loader()
    second.drawn = 2
    yield Case("two windows of four tokens", [loader(), 2], observe=_batch_and_place)
    yield Case("the next two", [second, 2], observe=_batch_and_place)
    yield Case("the second of two processes", [loader(rank=1, world_size=2), 3], observe=_batch_and_place)
    documents = {"one": np.array([0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 8, 9] * 8, dtype=np.uint16)}
    yield Case("documents kept apart", [loader(corpora=documents, document_separator=0), 6], observe=_batch_and_place)
    two = {"one": tokens, "two": tokens + 100}
    yield Case("two corpora", [loader(corpora=two, weights={"one": 1.0, "two": 3.0}), 8], observe=_batch_and_place)


def measure() -> Measurement:
    """Train as the trainer does, and write."""
    ids = encode(TEXT)
    loader = WindowLoader({"text": ids.numpy().astype(np.uint16)}, CONTEXT, seed=0)
    model = GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=2, num_heads=2, d_model=48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(STEPS):
        batch = loader.next_batch(16).tensors
        loss = linear_cross_entropy(model.hidden_states(batch["inputs"]), model.head.weight, batch["targets"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {
        "loss": losses,
        "loss of the last step": losses[-1],
        f"after {PROMPT!r}": continue_text(model, PROMPT, 40, CONTEXT),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The loss is far too low, and the text is one character."""
    text = str(file[f"after {PROMPT!r}"])
    return float(file["loss of the last step"]) < 0.1 < float(package["loss of the last step"]) and len(set(text)) == 1  # type: ignore[arg-type]


LAB = Lab(
    broken=next_batch,
    reference="training.data.data_loader:WindowLoader.next_batch",
    cases=cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[
        ("    length = self.context_length\n", "    length = self.context_length + 1\n"),
        (
            '    tensors = {"inputs": windows, "targets": windows.clone()}\n',
            '    tensors = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}\n',
        ),
    ],
    hints=(
        "A few dozen steps are too few to learn a text by heart: the task itself must be too easy. Print one row "
        "of a batch as text, inputs above targets.",
        "What stands at targets[0, i], and what stands at inputs[0, i]? Which of the two has the model seen when it answers?",
        "The target of a position is the token after it, so a window needs one token more than the model reads.",
    ),
    diagnosis=(
        "Always read a batch before training on it: decode one row of inputs and one of targets and compare them. "
        "Here they are the same, so the model learns to copy its input, which a residual stream with tied embeddings "
        "can do at once. A causal mask does not help: a position may see itself. A related bug is to shift twice, "
        "in the loader and again in the loss; the loss is then not low, but the text skips characters."
    ),
)

"""Lab 5.B: The same data in smaller batches has another loss.

Eight rows of very different lengths go through a model: in one batch of eight, in two of four, in four of two, and one by
one, with the gradients accumulated. Only the memory may differ. But with the function below, the loss and the length of
the gradient depend on how the rows are cut into batches.
"""

from __future__ import annotations

import torch

from training.data.batches import Batch
from training.parallel.distributed import synchronise
from training.trainer import Trainer


def _accumulate_gradients(self: Trainer, batches: list[Batch]) -> float:
    """Gradients of the mean over all micro-batches of all processes.

    Args:
        self: the trainer. `self.module(batch.tensors)` gives the mean loss of a micro-batch over the tokens it predicts;
            `batch.weight` is their number. `self.workers` are the processes that train together. Gradients are averaged
            over `self.workers.world_size` processes, so the shares of all of them must add up to that number.
        batches: this step's micro-batches.

    Returns:
        The mean loss of the step.
    """
    self.tokens_seen += self.workers.sum(sum(batch.weight for batch in batches))[0]
    total = torch.zeros((), device=self.placement.device)
    for index, batch in enumerate(batches):
        batch = batch.to(self.placement.device)
        share = 1 / len(batches)
        with synchronise(self.module, index == len(batches) - 1):
            with self.placement.autocast():
                loss = self.module(batch.tensors)
            self.scaler.scale(loss * share).backward()
        total += loss.detach() * share
    return self.workers.sum(total.item())[0] / self.workers.world_size


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from learn.exercise import Case
from learn.lab import Lab, Measurement
from tokenizer.byte_tokenizer import ByteTokenizer
from training.data.batches import IGNORED
from training.loss import linear_cross_entropy
from training.parallel.workers import Workers
from training.placement import Placement
from training.recipe import Recipe
from training.trainer import Run
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

LENGTHS = (31, 2, 29, 1, 3, 30, 2, 1)  # tokens that each row predicts


class _NoSource:
    """The experiment passes its batches itself."""

    def next_batch(self, batch_size: int) -> Batch:
        raise AssertionError("no batch is drawn")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError("nothing is resumed")


class _Two(Workers):
    """Stand for two processes with the same batches; only this one really runs."""

    def __init__(self) -> None:
        super().__init__(rank=0, world_size=2)

    def sum(self, *values: float) -> list[float]:
        return [2 * value for value in values]


def _loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    assert isinstance(model, GPTModel)
    return linear_cross_entropy(model.hidden_states(tensors["inputs"]), model.head.weight, tensors["targets"])


def _trainer() -> Trainer:
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocab_size=50, context_length=32, num_layers=1, num_heads=2, d_model=16))
    nn.init.normal_(model.token_embedding.weight, std=0.3)  # the rows' losses then differ, as after some training
    return Trainer(
        model,
        _loss,
        _NoSource(),
        recipe=Recipe(),
        placement=Placement(torch.device("cpu"), torch.float32),
        run=Run(Path(), ByteTokenizer()),
    )


def _batches(rows_each: int, lengths: Sequence[int] = LENGTHS) -> list[Batch]:
    """Cut the rows into micro-batches of a size; nothing after the end of a row is predicted."""
    ids = torch.randint(50, (len(lengths), 33), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    for row, length in enumerate(lengths):
        targets[row, :length] = ids[row, :length]  # the long rows are easy, because they repeat
        targets[row, length:] = IGNORED
    return [
        Batch(
            {"inputs": ids[i : i + rows_each, :-1], "targets": targets[i : i + rows_each]},
            float(sum(lengths[i : i + rows_each])),
        )
        for i in range(0, len(lengths), rows_each)
    ]


def _loss_and_gradients(result: float, arguments: Sequence[Any]) -> dict[str, Any]:
    trainer: Trainer = arguments[0]
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    return {"loss": result, "gradients": gradients, "tokens": trainer.tokens_seen}


def cases() -> Iterator[Case]:
    """One batch; equal batches; unequal batches; one with nothing to predict; two processes."""
    yield Case("one batch", [_trainer(), _batches(8)], tolerance=1e-5, observe=_loss_and_gradients)
    equal = _batches(1, (7, 7, 7, 7))
    yield Case("four of 7 tokens each", [_trainer(), equal], tolerance=1e-5, observe=_loss_and_gradients)
    yield Case("four of two rows", [_trainer(), _batches(2)], tolerance=1e-5, observe=_loss_and_gradients)
    yield Case("eight of one row", [_trainer(), _batches(1)], tolerance=1e-5, observe=_loss_and_gradients)
    empty = _batches(1, (7, 0, 3))
    yield Case("one of three is all padding", [_trainer(), empty], tolerance=1e-5, observe=_loss_and_gradients)
    trainer = _trainer()
    trainer.workers = _Two()
    what = "four of two rows, and the same in a second process"
    yield Case(what, [trainer, _batches(2)], tolerance=1e-5, observe=_loss_and_gradients)


def measure() -> Measurement:
    """The loss and the gradient of the same eight rows, cut in four ways."""
    measured: Measurement = {}
    for rows_each in (8, 4, 2, 1):
        trainer = _trainer()
        loss = trainer._accumulate_gradients(_batches(rows_each))
        squares = [float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None]
        measured[f"loss, {8 // rows_each} × {rows_each} rows"] = loss
        measured[f"gradient, {8 // rows_each} × {rows_each} rows"] = sum(squares) ** 0.5
    return measured


def visible(file: Measurement, package: Measurement) -> bool:
    """The loss depends on how the rows are cut; with the package's function it does not."""

    def spread(measured: Measurement) -> float:
        losses = [float(value) for name, value in measured.items() if name.startswith("loss")]  # type: ignore[arg-type]
        return max(losses) - min(losses)

    return spread(file) > 0.05 and spread(package) < 1e-4


LAB = Lab(
    broken=_accumulate_gradients,
    reference="training.trainer:Trainer._accumulate_gradients",
    cases=cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[
        (
            "    self.tokens_seen += self.workers.sum(sum(batch.weight for batch in batches))[0]\n",
            "    total_weight = self.workers.sum(sum(batch.weight for batch in batches))[0]\n"
            "    self.tokens_seen += total_weight\n",
        ),
        (
            "        share = 1 / len(batches)\n",
            "        share = batch.weight * self.workers.world_size / max(total_weight, 1e-9)\n",
        ),
    ],
    hints=(
        "With rows of equal length all four ways agree. So the bug depends on how many tokens a micro-batch predicts.",
        "Compute it by hand for two micro-batches: 30 tokens with a mean loss of 2, and 1 token with a mean loss of 4. "
        "What is the mean over the 31 tokens?",
        "A mean of means counts every micro-batch the same. Each should count by its share of all the tokens of the step, "
        "batch.weight over the sum of the weights.",
    ),
    diagnosis=(
        "The measurement tests an invariance: change something that must not matter, and look at the loss. It stays "
        "the same for rows of equal length and changes for unequal ones. So the weights of the micro-batches are wrong: "
        "each mean loss counted 1/n, whether it was over thirty tokens or over one. Short answers then count as much as "
        "long ones. Hugging Face's Trainer had this bug until October 2024; the loss curve looks healthy."
    ),
)

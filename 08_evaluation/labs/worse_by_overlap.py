"""Lab 8.A: The more the windows overlap, the worse the model gets.

A model is measured on a text in windows that overlap. More overlap means more context for each counted token, so the
result should get better. But with the function below the bits per byte double and double again, while perplexity and
accuracy look plausible.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.sequence_scores import score_sequences
from evaluation.sliding_window import TextScores, _join
from groundwork.user_errors import UserError
from training.placement import Placement
from transformer.gpt_model import GPTModel


def _score(
    model: GPTModel, texts: Sequence[list[int]], num_bytes: int, placement: Placement, stride: int | None
) -> TextScores:
    """Measure a model on texts, window by window.

    Args:
        model: in evaluation mode.
        texts: the ids of each text; the first id of a text is never predicted.
        num_bytes: the size of all the texts.
        placement: device and precision.
        stride: how far each window moves on, from 1 to the context length; None for half the context.

    Raises:
        UserError: a text is too short, or the stride is impossible.
    """
    context = model.config.context_length
    stride = stride if stride is not None else max(1, context // 2)
    if not 1 <= stride <= context:
        raise UserError(f"the stride must be between 1 and the context length of {context}, got {stride}")
    windows: list[list[int]] = []
    counts: list[int] = []  # tokens at the end of each window whose loss counts
    owners: list[int] = []  # which text each window belongs to
    for number, ids in enumerate(texts):
        if len(ids) < 2:
            raise UserError("the text is too short: there is no token to predict")
        stop = 1
        while stop < len(ids):
            stop = min(len(ids), context + 1 if stop == 1 else stop + stride)
            window = ids[max(0, stop - 1 - context) : stop]
            windows.append(window)
            counts.append(len(window) - 1)
            owners.append(number)
    if not windows:
        raise UserError("there is no text to measure")
    return _join(windows, counts, owners, score_sequences(model, windows, counts, placement), num_bytes)


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch

from evaluation.sliding_window import score_text
from learn.exercise import Case
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, encode, train
from tokenizer.character_tokenizer import CharacterTokenizer
from transformer.config import GPTConfig

CPU = Placement(torch.device("cpu"), torch.float32)
CONTEXT, STRIDES = 32, (32, 16, 8, 4)


def cases() -> Iterator[Case]:
    """A text that fits; windows end to end; overlapping; two texts; refusals."""

    def question(what: str, lengths: Sequence[int], stride: int | None, raises: type[Exception] | None = None) -> Case:
        torch.manual_seed(0)
        model = GPTModel(GPTConfig(20, 8, num_layers=1, num_heads=2, d_model=16)).eval()
        texts = [torch.randint(20, (length,)).tolist() for length in lengths]
        return Case(
            what, [model, texts, sum(lengths), CPU, stride], tolerance=1e-5, raises=raises,
            observe=lambda result, _: None if result is None else dict(vars(result)),
        )  # fmt: skip

    yield question("a text that fits one window", [7], 4)
    yield question("windows end to end: a context of 8, a stride of 8", [25], 8)
    yield question("a stride of 4", [30], 4)
    yield question("no stride given", [30], None)
    yield question("two texts, a stride of 3", [20, 5], 3)
    yield question("a text of one token", [1], 4, raises=UserError)
    yield question("a stride beyond the context", [20], 9, raises=UserError)


@functools.cache
def _trained() -> GPTModel:
    """The same model for both sides: the function plays no part in training."""
    torch.manual_seed(0)
    learned_in = CONTEXT * 3 // 2
    model = GPTModel(GPTConfig(len(LETTERS), learned_in, num_layers=2, num_heads=2, d_model=48))
    train(model, encode(TEXT), 150, learned_in)
    # At the end of the longest window that it has learned from, such a small model is a little worse again: it has seen
    # the largest distances least often. In a shorter window more context is always better.
    shorter = GPTModel(replace(model.config, context_length=CONTEXT))
    shorter.load_state_dict(model.state_dict())
    return shorter.eval()


def measure() -> Measurement:
    """Measure a model with four strides."""
    tokenizer = CharacterTokenizer(LETTERS)
    measured: Measurement = {"characters in the text": len(TEXT)}
    for stride in STRIDES:
        scores = score_text(_trained(), tokenizer, TEXT, CPU, stride)
        measured[f"stride {stride}: bits per byte"] = scores.bits_per_byte
        measured[f"stride {stride}: perplexity"] = scores.perplexity
    return measured


def visible(file: Measurement, package: Measurement) -> bool:
    """Bits per byte rise with overlap; with the package's function they do not."""

    def rise(measured: Measurement) -> float:
        wide, narrow = (measured[f"stride {stride}: bits per byte"] for stride in (STRIDES[0], STRIDES[-1]))
        return float(narrow) / float(wide)  # type: ignore[arg-type]

    return rise(file) > 2 and rise(package) < 1


LAB = Lab(
    broken=_score,
    reference="evaluation.sliding_window:_score",
    cases=cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "        stop = 1\n",
            "        stop = counted = 1  # tokens that are accounted for; the first is never predicted\n",
        ),
        (
            "            counts.append(len(window) - 1)\n",
            "            counts.append(stop - counted)\n            counted = stop\n",
        ),
    ],
    hints=(
        "Perplexity divides by the tokens that were counted, bits per byte by the bytes of the text. One rises and the "
        "other does not: what does that say about the number of counted tokens?",
        "Print len(scores.ids) for each stride beside the length of the text.",
        "A window counts all that it predicts, even in the overlap. It should count only what no earlier window has counted.",
    ),
    diagnosis=(
        "Two measures that must move together do not, so look at what they divide by. The number of counted tokens "
        "must be the text's length minus one at every stride, but it grows as the stride shrinks. The overlap is there "
        "for context and must not be counted again. Perplexity hides this, since sum and count are both too large. It is "
        "also too high, since the tokens with little context are counted too. Always report how many tokens a result "
        "is based on."
    ),
)

"""The loss on a whole text; more context for each token costs more time.

A text is longer than the context, so it is cut into windows. If the windows do not overlap, the first token of
each window is predicted from nothing, and the loss is too high. Windows that overlap give each counted token more
context. With a stride of 1 every token has the longest possible context, and costs one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.sequence_scores import SequenceScores, score_sequences
from groundwork.user_errors import UserError, require_texts
from neural_networks.bits_per_byte import bits_per_byte, perplexity
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class TextScores:
    """How well a model predicts one or several texts, token by token.

    Args:
        ids: (tokens,) the predicted tokens in order.
        nats: (tokens,) -ln p of each token.
        top_ids: (tokens,) the most likely token at each place.
        top_probabilities: (tokens,) the probability of that token.
        context_sizes: (tokens,) how many tokens each prediction was made from.
        documents: (tokens,) which text each belongs to.
        num_bytes: UTF-8 size of the texts.
    """

    ids: NDArray[np.int64]
    nats: NDArray[np.float64]
    top_ids: NDArray[np.int64]
    top_probabilities: NDArray[np.float64]
    context_sizes: NDArray[np.int64]
    documents: NDArray[np.int64]
    num_bytes: int

    @property
    def total_nats(self) -> float:
        """Sum of -ln p over the predicted tokens."""
        return float(self.nats.sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text; can be compared between tokenizers."""
        return bits_per_byte(self.total_nats, self.num_bytes)

    @property
    def perplexity(self) -> float:
        """Perplexity of a token; can be compared only between models with the same tokenizer."""
        return perplexity(self.total_nats / len(self.ids))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most likely token is the right one, (tokens,)."""
        return self.top_ids == self.ids

    @property
    def accuracy(self) -> float:
        """The share of tokens that the model would have chosen itself. Like perplexity, it depends on the tokenizer."""
        return float(self.correct.mean())


def score_text(
    model: GPTModel, tokenizer: Tokenizer, text: str, placement: Placement, stride: int | None = None
) -> TextScores:
    """Measure a model on one text. See `score_documents`."""
    return score_documents(model, tokenizer, [text], placement, stride)


def score_documents(
    model: GPTModel, tokenizer: Tokenizer, documents: Sequence[str], placement: Placement, stride: int | None = None
) -> TextScores:
    """Measure a model on texts that do not see each other.

    Each text stands after an end-of-text token where the tokenizer has one, so that its first token
    is predicted too. A character tokenizer without one leaves the first character out.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        documents: any texts.
        placement: device and precision.
        stride: tokens counted in each window after the first, from 1 to the context length; None for
            half the context.

    Raises:
        UserError: a text is too short, or the stride is impossible.
        TokenizerError: a text has a character that the character tokenizer lacks.
    """
    require_texts(documents)
    begin = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    encoded = [begin + tokenizer.encode(document) for document in documents]
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    return _score(model, encoded, num_bytes, placement, stride)


def score_stream(
    model: GPTModel, tokenizer: Tokenizer, documents: Sequence[str], placement: Placement, stride: int | None = None
) -> TextScores:
    """Measure a model on texts as one stream, each after an end-of-text token that is predicted too.

    Training reports and compressors measure in the same way. A window may reach back into the previous document, and
    the end of a document must be predicted too. The ladder from counting to transformers needs this.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        documents: texts in order.
        placement: device and precision.
        stride: see `score_documents`.

    Raises:
        UserError: the text is too short, or the stride is impossible.
    """
    require_texts(documents)
    begin = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    ids = [token for document in documents for token in begin + tokenizer.encode(document)]
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    return _score(model, [ids], num_bytes, placement, stride)


def _score(
    model: GPTModel, texts: Sequence[list[int]], num_bytes: int, placement: Placement, stride: int | None
) -> TextScores:
    context = model.config.context_length
    stride = stride if stride is not None else max(1, context // 2)
    if not 1 <= stride <= context:
        raise UserError(f"the stride must be between 1 and the context length of {context}, got {stride}")
    windows: list[list[int]] = []
    fresh: list[int] = []  # tokens that each window adds
    owners: list[int] = []
    for number, ids in enumerate(texts):
        if len(ids) < 2:
            raise UserError("the text is too short: there is no token to predict")
        counted = 1  # ids[:counted] are done; the first is never predicted
        while counted < len(ids):
            # The first window counts all that it predicts. Each later window ends `stride` tokens further on.
            stop = min(len(ids), context + 1 if counted == 1 else counted + stride)
            windows.append(ids[max(0, stop - 1 - context) : stop])
            fresh.append(stop - counted)
            owners.append(number)
            counted = stop
    if not windows:
        raise UserError("there is no text to measure")
    return _join(windows, fresh, owners, score_sequences(model, windows, fresh, placement), num_bytes)


def _join(
    windows: list[list[int]], fresh: list[int], owners: list[int], scores: list[SequenceScores], num_bytes: int
) -> TextScores:
    return TextScores(
        ids=np.concatenate([window[-count:] for window, count in zip(windows, fresh, strict=True)]),
        nats=np.concatenate([score.nats for score in scores]),
        top_ids=np.concatenate([score.top_ids for score in scores]),
        top_probabilities=np.concatenate([score.top_probabilities for score in scores]),
        context_sizes=np.concatenate([np.arange(len(w) - n, len(w)) for w, n in zip(windows, fresh, strict=True)]),
        documents=np.repeat(owners, fresh),
        num_bytes=num_bytes,
    )

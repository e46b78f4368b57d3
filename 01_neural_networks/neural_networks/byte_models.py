"""Every model of this stage gives each possible next byte a probability.

The documents of a corpus become one stream of bytes, with a byte 0 before each document:

    0 d o c u m e n t 0 d o c u m e n t 0 …

In the same way, stage 5 puts an end-of-text token before each document, and `xz` compresses this
stream for the baseline. The model must predict every byte after the first. The boundaries cost bits
too, but bits per byte divide by the bytes of text alone. Before the stream, more zeros are assumed.
A context may reach back over a boundary, and the model sees the 0 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from groundwork.user_errors import require_texts
from neural_networks.bits_per_byte import DOCUMENT_SEPARATOR, bits_per_byte
from neural_networks.broadcasting import Array

NUM_BYTES = 256


class ByteModel(Protocol):
    """A model of the next byte, given those before it."""

    def total_nats(self, stream: Array) -> float:
        """Sum of -ln p over stream[1:], each byte predicted from those before it."""
        ...

    def next_byte_probabilities(self, stream: Array) -> Array:
        """(256,) probabilities of the byte that follows a stream of at least one byte."""
        ...


def byte_stream(documents: Sequence[str]) -> Array:
    """Join documents into one stream of bytes, with a 0 before each.

    >>> byte_stream(["ab", "c"])
    array([ 0, 97, 98,  0, 99], dtype=uint8)
    """
    require_texts(documents)
    data = DOCUMENT_SEPARATOR + DOCUMENT_SEPARATOR.join(document.encode("utf-8") for document in documents)
    return np.frombuffer(data, dtype=np.uint8)


def as_stream(stream: Array | bytes) -> Array:
    """Bytes in any form as (length,) uint8.

    Raises:
        ValueError: it has several axes, or numbers that are not whole or not from 0 to 255.
    """
    array = np.frombuffer(stream, np.uint8) if isinstance(stream, bytes) else np.asarray(stream)
    if array.dtype != np.uint8 or array.ndim != 1:
        whole = array.ndim == 1 and array.dtype.kind in "iu"
        if not whole or (array.size and not 0 <= array.min() <= array.max() < NUM_BYTES):
            raise ValueError(
                f"a stream is one row of bytes from 0 to 255, got {array.dtype} of shape {array.shape}; "
                "byte_stream([text]) makes one"
            )
    return array.astype(np.uint8, copy=False)


def context_windows(stream: Array, context: int) -> Array:
    """For each byte after the first, the bytes that it is predicted from, and the byte itself.

    Args:
        stream: (length,) bytes.
        context: how many bytes to predict from, at least one.

    Returns:
        (length - 1, context + 1): in each row the context, oldest byte first, then the byte to
        predict. It is a read-only view of one padded copy of the stream.

    Raises:
        ValueError: the context is below 1, or see `as_stream`.

    >>> context_windows(byte_stream(["abc"]), 2)
    array([[ 0,  0, 97],
           [ 0, 97, 98],
           [97, 98, 99]], dtype=uint8)
    """
    if context < 1:
        raise ValueError(f"the context must be at least one byte, got {context}")
    stream = as_stream(stream)
    if len(stream) < 2:  # nothing to predict
        return np.empty((0, context + 1), dtype=np.uint8)
    padded = np.concatenate([np.zeros(context - 1, dtype=np.uint8), stream])
    return np.lib.stride_tricks.sliding_window_view(padded, context + 1)


def last_bytes(stream: Array, count: int) -> Array:
    """(count,) the last bytes of a stream, with zeros before them if the stream is shorter."""
    stream = as_stream(stream)
    end = stream[max(0, len(stream) - count) :]
    return np.concatenate([np.zeros(count - len(end), dtype=np.uint8), end])


def measure(model: ByteModel, documents: Sequence[str]) -> float:
    """Bits per byte of a model on documents.

    Raises:
        ValueError: there is no text.
    """
    require_texts(documents)
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    return bits_per_byte(model.total_nats(byte_stream(documents)), num_bytes)


def sample(model: ByteModel, prompt: str, length: int, rng: np.random.Generator) -> Iterator[int]:
    """Continue a text byte by byte. Each byte is drawn with the probability that the model gives it.

    Args:
        model: any model of this stage.
        prompt: beginning of a document; may be empty.
        length: the most bytes to draw; a boundary ends the document and is not returned.
        rng: source of randomness.
    """
    stream = byte_stream([prompt])
    for _ in range(length):
        probabilities = model.next_byte_probabilities(stream).astype(np.float64)
        drawn = int(rng.choice(NUM_BYTES, p=probabilities / probabilities.sum()))
        if drawn == DOCUMENT_SEPARATOR[0]:
            return
        yield drawn
        stream = np.append(stream[-64:], np.uint8(drawn))  # no model here looks further back

"""Bits per byte: the one number by which every model in this repository is measured.

A language model that gives the next symbol probability p can be turned into a compressor that
spends -log2(p) bits on it (Shannon, 1948). Adding up those bits over a text and dividing by the
text's size in bytes gives a figure that does not depend on how the text was cut into symbols, so a
character model, a BPE model and a file compressor can stand in one table:

    bits per byte = sum over symbols of -ln p(symbol | those before it) / ln 2 / bytes of text

Perplexity, exp(mean -ln p), counts per symbol, so it is only comparable between models that share
a tokenizer.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Sequence

from groundwork.user_errors import require_texts

# One byte that cannot occur in the documents: it tells a compressor where a document ends, as the
# end-of-text token tells a model. Both pay for the boundary, and neither counts it as text.
DOCUMENT_SEPARATOR = b"\0"


def bits_per_byte(total_nats: float, num_bytes: int) -> float:
    """Bits per byte from a summed negative log-likelihood.

    Args:
        total_nats: sum of -ln p over every symbol of the text, in nats.
        num_bytes: size of the same text in UTF-8 bytes.

    Raises:
        ValueError: `num_bytes` is not positive.

    >>> round(bits_per_byte(total_nats=math.log(256) * 10, num_bytes=10), 3)  # a uniform guess
    8.0
    """
    if num_bytes <= 0:
        raise ValueError(f"bits per byte needs a text of at least one byte, got {num_bytes}")
    return total_nats / math.log(2) / num_bytes


def perplexity(mean_nats: float) -> float:
    """exp(mean negative log-likelihood): the size of the uniform choice that is as hard.

    Args:
        mean_nats: mean -ln p per symbol, in nats.

    Returns:
        Infinity where exp would overflow.
    """
    try:
        return math.exp(mean_nats)
    except OverflowError:
        return math.inf


def xz_bits_per_byte(documents: Sequence[str], context: Sequence[str] = ()) -> float:
    """Bits per byte that `xz -9` spends on `documents`.

    Args:
        documents: the texts to compress, as one stream.
        context: texts that the compressor may look back at for free, such as the training
            documents. Their cost is subtracted: size(context + documents) - size(context).

    Returns:
        Compressed bits divided by the UTF-8 bytes of `documents`.

    With no context the compressor sees nothing but the text itself, while a trained model has
    read the training documents. With context it has seen the same text as the model. A fair
    comparison reports both.
    """
    return _compressed_bits_per_byte(documents, context, _xz)


def gzip_bits_per_byte(documents: Sequence[str]) -> float:
    """Bits per byte that `gzip -9` spends on `documents` as one stream.

    There is no `context` argument: gzip looks back 32 KiB, so training text would not help it.
    """
    return _compressed_bits_per_byte(documents, (), lambda data: len(gzip.compress(data, 9)))


def _compressed_bits_per_byte(documents: Sequence[str], context: Sequence[str], size: Callable[[bytes], int]) -> float:
    require_texts(documents)
    require_texts(context, "context")
    num_bytes = sum(len(document.encode("utf-8")) for document in documents)
    if num_bytes == 0:
        raise ValueError("there is no text to compress: the documents are empty")
    stream = _join([*context, *documents])
    cost_of_context = size(_join(context)) if context else 0
    return 8 * (size(stream) - cost_of_context) / num_bytes


def _join(documents: Sequence[str]) -> bytes:
    return DOCUMENT_SEPARATOR.join(document.encode("utf-8") for document in documents)


def _xz(data: bytes) -> int:
    # Preset 9 has a 64 MiB dictionary; a larger one only matters when the context exceeds it.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(1 << 26, len(data))}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))

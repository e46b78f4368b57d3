"""Bits per byte: the one number by which every model in this repository is measured.

If a language model gives the next symbol the probability p, a compressor made from it spends
-log2(p) bits on that symbol (Shannon, 1948). The sum of those bits over a text, divided by the
text's size in bytes, does not depend on how the text was cut into symbols. So a character model,
a BPE model and a file compressor can be compared in one table:

    bits per byte = sum over symbols of -ln p(symbol | those before it) / ln 2 / bytes of text

Perplexity, exp(mean -ln p), is a figure per symbol. It can only be compared between models that
use the same tokenizer.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Sequence

from groundwork.user_errors import require_texts

# A byte that cannot occur in the documents. It tells a compressor where a document ends, as the
# end-of-text token tells a model. Both pay bits for the boundary, and neither counts it as text.
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
    """exp(mean negative log-likelihood): the number of equally likely symbols that is as hard to guess from.

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
        context: texts that the compressor has read before and does not pay for, such as the training
            documents. Their cost is subtracted: size(context + documents) - size(context).

    Returns:
        Compressed bits divided by the UTF-8 bytes of `documents`.

    Without context the compressor sees only the text itself, while a trained model has read the
    training documents. With them as context it has seen the same text as the model. A fair
    comparison reports both figures.
    """
    return _compressed_bits_per_byte(documents, context, _xz)


def gzip_bits_per_byte(documents: Sequence[str]) -> float:
    """Bits per byte that `gzip -9` spends on `documents` as one stream.

    There is no `context` argument: gzip looks back only 32 KiB, so training text would not help it.
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

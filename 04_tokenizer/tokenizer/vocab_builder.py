"""Look at a vocabulary before and after it is made: what it holds, and what a larger size gains.

A larger vocabulary makes shorter sequences. The gain becomes smaller and smaller, while the embedding and the
output layer of a model grow with it. `compression_by_size` measures the gain in bytes per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundwork.user_errors import require_texts
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.patterns import to_utf8
from tokenizer.tokenizer_trainer import check_vocab_size, train_from_counts


@dataclass(frozen=True)
class VocabularyStatistics:
    """What a vocabulary does to a text.

    Args:
        vocab_size: number of ids.
        text_bytes: bytes of the text in UTF-8.
        tokens: ids that the text becomes.
        used: ids that occur at least once.
        longest: the ten longest tokens that occur, as text.
        most_frequent: the ten most frequent tokens, as text, with their counts.
    """

    vocab_size: int
    text_bytes: int
    tokens: int
    used: int
    longest: list[str]
    most_frequent: list[tuple[str, int]]

    @property
    def bytes_per_token(self) -> float:
        """Compression: how many bytes of text one id stands for."""
        return self.text_bytes / self.tokens

    @property
    def used_share(self) -> float:
        """Share of the vocabulary that the text uses; the embeddings of the rest learn nothing from it."""
        return self.used / self.vocab_size


def vocabulary_statistics(tokenizer: Tokenizer, texts: Iterable[str]) -> VocabularyStatistics:
    """Encode texts and count.

    Raises:
        TokenizerError: the texts are empty.
    """
    require_texts(texts, "texts")
    texts = list(texts)
    ids, _ = tokenizer.encode_batch_to_array(texts)
    if not len(ids):
        raise TokenizerError("there is no text to take statistics of")
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    used = np.flatnonzero(counts)
    shown = {index: tokenizer.decode([index]) for index in used.tolist()}
    longest = sorted(shown, key=lambda index: (-len(shown[index]), index))[:10]
    most_frequent = used[np.argsort(-counts[used], kind="stable")][:10].tolist()
    return VocabularyStatistics(
        vocab_size=tokenizer.vocab_size,
        text_bytes=sum(len(to_utf8(text)) for text in texts),
        tokens=len(ids),
        used=len(used),
        longest=[shown[index] for index in longest],
        most_frequent=[(shown[index], int(counts[index])) for index in most_frequent],
    )


@dataclass(frozen=True)
class CompressionPoint:
    """What one vocabulary size does.

    Args:
        vocab_size: number of ids.
        train: bytes per token of the text it was trained on.
        held_out: bytes per token of held-out text.
        unigram_bits_per_byte: of the held-out text, for the simplest model of tokens. It takes the frequency of
            a token in training (one added to each count) as its probability, whatever stands before it.
    """

    vocab_size: int
    train: float
    held_out: float
    unigram_bits_per_byte: float


def compression_by_size(
    counts: Mapping[bytes, int],
    held_out: Sequence[str],
    vocab_sizes: Iterable[int],
    on_merge: Callable[[int, int], None] | None = None,
) -> list[CompressionPoint]:
    """Bytes per token, and bits per byte of the simplest model, for several vocabulary sizes.

    The merges of a small vocabulary are the first merges of a large one, so one training is enough.

    Args:
        counts: pre-tokens of the training text, from `count_pre_tokens` with GPT-2's pattern.
        held_out: texts that were not trained on.
        vocab_sizes: sizes to compare, without special tokens; those for which the text has too few pairs are left out.
        on_merge: called with (merges done, merges wanted).

    Raises:
        TokenizerError: a size below 256, or no text.
    """
    require_texts(held_out, "held_out")
    sizes = sorted(set(vocab_sizes))
    held_out_bytes = sum(len(to_utf8(text)) for text in held_out)
    if not sizes or not counts or not held_out_bytes:
        raise TokenizerError("comparing vocabulary sizes needs sizes, a training text and a held-out text")
    check_vocab_size(sizes[0], [])
    merges = train_from_counts(counts, sizes[-1], (), on_merge=on_merge).merges
    words = [word.decode("utf-8") for word in counts]
    occurrences = np.array(list(counts.values()))
    train_bytes = int(np.array([len(word) for word in counts]) @ occurrences)
    points = []
    for size in sizes:
        if size - 256 > len(merges):
            break
        tokenizer = BPETokenizer(merges[: size - 256])
        ids, ends = tokenizer.encode_batch_to_array(words)
        weights = np.repeat(occurrences, np.diff(ends, prepend=0))  # for each id, how often its word occurs
        counted = np.bincount(ids, weights, minlength=size)
        probabilities = (counted + 1) / (counted.sum() + size)
        held_out_ids, _ = tokenizer.encode_batch_to_array(held_out)
        bits = -np.log2(probabilities)[held_out_ids].sum()
        points.append(
            CompressionPoint(
                size, train_bytes / counted.sum(), held_out_bytes / len(held_out_ids), bits / held_out_bytes
            )
        )
    return points


def plot_compression(points: Sequence[CompressionPoint], path: Path | str) -> None:
    """Draw bytes per token over vocabulary size, as a picture in the format that the ending of the path names."""
    from matplotlib.figure import Figure  # takes half a second to import, and is rarely needed

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    sizes = [point.vocab_size for point in points]
    axes.plot(sizes, [point.train for point in points], marker="o", label="text it was trained on")
    axes.plot(sizes, [point.held_out for point in points], marker="s", label="held-out text")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
    axes.set_xlabel("vocabulary size")
    axes.set_ylabel("bytes per token")
    axes.grid(alpha=0.3)
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)

"""Whether a generated text repeats itself, or repeats another generated text.

A model may have a low loss and still write the same sentence again and again. The loss is measured on text
that people wrote; repetition shows only in the text that the model writes (Holtzman et al., 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.text_overlap import corpus_bleu
from groundwork.user_errors import UserError, require_texts


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams of words among all n-grams of all texts (Li et al., 2016); 1 is most varied.

    Args:
        texts: generated texts.
        n: words in an n-gram.

    Returns:
        0 where the texts have no n-gram.

    >>> distinct_n(["the cat the cat"], 1)
    0.5
    """
    _check(texts, n)
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that occurred earlier in it: 1 - distinct-n of one text.

    >>> round(repetition("a b c d a b c d a b c d"), 2)
    0.56
    """
    _check([text], n)
    grams = _grams(text.split(), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of each text with all others as references (Zhu et al., 2018): 0 to 100, where 100 is all the same.

    Args:
        texts: at least two texts, generated from the same prompt.

    Raises:
        UserError: there are fewer than two texts.
    """
    require_texts(texts)
    if len(texts) < 2:
        raise UserError(f"self-BLEU compares texts with one another, got {len(texts)}")
    scores = [corpus_bleu([text], [[*texts[:i], *texts[i + 1 :]]]) for i, text in enumerate(texts)]
    return sum(scores) / len(scores)


def loop_length(text: str, min_repeats: int = 3) -> int:
    """Characters of the shortest piece that a text ends with at least `min_repeats` times in a row; 0 if none.

    Raises:
        UserError: fewer than two repeats: every text ends with its last characters once.

    >>> loop_length("It returns. the list, the list, the list,")
    10
    """
    if min_repeats < 2:
        raise UserError(f"a loop repeats at least twice, got min_repeats = {min_repeats}")
    tail = text[-2000:]
    for size in range(1, len(tail) // min_repeats + 1):
        piece = tail[-size:]
        # One repeated space or dash is a line or an indentation, not a loop.
        if tail.endswith(piece * min_repeats) and len(set(piece)) > 1:
            return size
    return 0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _check(texts: Sequence[str], n: int) -> None:
    if n < 1:
        raise UserError(f"n-grams need at least one word, got n = {n}")
    require_texts(texts)

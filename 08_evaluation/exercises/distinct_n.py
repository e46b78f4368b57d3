"""Exercise 8.6: Does a text repeat itself?"""

from __future__ import annotations

from collections.abc import Sequence


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams of words among all n-grams of all texts together (Li et al., 2016).

    The result is 1 if no n-gram repeats. `text.split()` gives the words. An n-gram lies within one text.

    Args:
        texts: generated texts.
        n: how many words an n-gram has, at least 1.

    Returns:
        The ratio; 0.0 if the texts have no n-gram.

    >>> distinct_n(["the cat the cat"], 1)
    0.5
    """
    raise NotImplementedError("Exercise 8.6: different ones over all")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Words; pairs; two texts; too short."""
    yield Case("words of 'the cat the cat'", [["the cat the cat"], 1])
    yield Case("pairs of 'the cat the cat'", [["the cat the cat"], 2])
    yield Case("two texts that are the same", [["a b c", "a b c"], 2])
    yield Case("a pair that would lie across two texts", [["a b", "c d", "a b c d"], 2])
    yield Case("texts shorter than n", [["a", "b c"], 3])


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _across(texts: Sequence[str], n: int) -> float:
    grams = _grams(" ".join(texts).split(), n)
    return len(set(grams)) / len(grams) if grams else 0.0


def _mean_of_texts(texts: Sequence[str], n: int) -> float:
    shares = [len(set(grams)) / len(grams) for text in texts if (grams := _grams(text.split(), n))]
    return sum(shares) / len(shares) if shares else 0.0


def _characters(texts: Sequence[str], n: int) -> float:
    grams = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _disjoint(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.split(), n)[::n]]
    return len(set(grams)) / len(grams) if grams else 0.0


EXERCISE = Exercise(
    stub=distinct_n,
    reference="evaluation.diversity:distinct_n",
    cases=cases,
    hints=(
        "Put all n-grams of all texts into one list. How many of them are different?",
        "The n-grams of a list of words are words[i:i + n] for i from 0 to len(words) - n. As tuples they go into a set.",
        "grams = [tuple(w[i:i + n]) for w in map(str.split, texts) for i in range(len(w) - n + 1)]; len(set(grams)) / "
        "len(grams), or 0.0.",
    ),
    mistakes=(
        Mistake(_characters, "use n-grams of words, not of characters"),
        Mistake(_disjoint, "n-grams overlap: one begins at every word"),
        Mistake(_mean_of_texts, "the n-grams of all texts go into one set: what repeats between texts counts too"),
        Mistake(_across, "an n-gram lies within one text: do not join them"),
    ),
)

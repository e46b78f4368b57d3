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
    """Words; pairs; two texts; too short; what a word is; no text."""
    yield Case("words of 'the cat the cat'", [["the cat the cat"], 1])
    yield Case("pairs of 'the cat the cat'", [["the cat the cat"], 2])
    yield Case("two texts that are the same", [["a b c", "a b c"], 2])
    yield Case("a pair that would lie across two texts", [["a b", "c d", "a b c d"], 2])
    yield Case("texts shorter than n", [["a", "b c"], 3])
    yield Case("a text shorter than n, beside one that is not", [["a", "b c b c b"], 3])
    yield Case("pairs that look alike without the space: 'a bc' and 'ab c'", [["a bc", "ab c"], 2])
    yield Case("two spaces and a line feed between words", [["a  b\na b"], 2])
    yield Case("capitals and punctuation, which stay", [["The cat. the cat"], 1])
    yield Case("no text", [[], 1])
    yield Case("an empty text", [[""], 1])


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


def _joined(texts: Sequence[str], n: int) -> float:
    grams = ["".join(gram) for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _single_spaces(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.split(" "), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _lower(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.lower().split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _padded(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts if text for gram in _grams(text.split(), n) or [tuple(text.split())]]
    return len(set(grams)) / len(grams) if grams else 0.0


def _undefined(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams)


def _one_fewer(texts: Sequence[str], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text.split(), n)[:-1]]
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
        Mistake(_one_fewer, "the last n-gram is missing: they begin at 0 to len(words) - n, both included"),
        Mistake(_joined, "join makes ('a', 'bc') and ('ab', 'c') equal: use tuples"),
        Mistake(_single_spaces, "split() cuts at any white space, split(' ') at every single space"),
        Mistake(_lower, "words are as text.split() gives them: case and punctuation stay"),
        Mistake(_padded, "a text shorter than n has no n-gram"),
        Mistake(_undefined, "texts without an n-gram give 0.0: do not divide by 0"),
        Mistake(_mean_of_texts, "the n-grams of all texts go into one set: what repeats between texts counts too"),
        Mistake(_across, "an n-gram lies within one text: do not join them"),
    ),
)

"""Exercise 8.2: ROUGE-L, the longest common subsequence."""

from __future__ import annotations

import re


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin, 2004).

    Words are runs of ASCII letters and digits in lower case: `re.findall(r"[a-z0-9]+", text.lower())`. A common subsequence
    is a list of words that occur in both texts in the same order; other words may stand between them. If the longest has n
    words, precision is n / words of the prediction, recall is n / words of the reference, and

        F1 = 2 n / (both lengths together),  0 if n is 0

    >>> rouge_l("the cat is on the mat", "the cat sat on the mat")  # the cat · on the mat: 5 of 6
    0.8333333333333334
    """
    raise NotImplementedError("Exercise 8.2: the same words in the same order")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Equal; one word off; order; gaps; greedy; none."""
    yield Case("the same", ["the cat", "The cat."])
    yield Case("one word differs", ["the cat is on the mat", "the cat sat on the mat"])
    yield Case("the same words in another order", ["b a", "a b"])
    yield Case("with other words between them", ["a x b y c", "a b c"])
    yield Case("a wrong first match: 'b' early, or the longer 'a c d'", ["b a c d", "a c d b"])
    yield Case("no word in common", ["red", "blue"])
    yield Case("nothing", ["", "blue"])
    yield Case(
        "a long one", ["to be or not to be that is the question " * 3, "not to be or to be is that a question " * 3]
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _f1(common: int, a: list[str], b: list[str]) -> float:
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _bag(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    return _f1(sum((Counter(a) & Counter(b)).values()), a, b)


def _substring(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    return _f1(SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size, a, b)


def _greedy(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    start = common = 0
    for word in a:
        if word in b[start:]:
            start = b.index(word, start) + 1
            common += 1
    return _f1(common, a, b)


def _recall(prediction: str, reference: str) -> float:
    from evaluation.text_overlap import rouge_l as right

    a, b = _words(prediction), _words(reference)
    return right(prediction, reference) * (len(a) + len(b)) / 2 / len(b)


EXERCISE = Exercise(
    stub=rouge_l,
    reference="evaluation.text_overlap:rouge_l",
    cases=cases,
    hints=(
        "Let L[i][j] be the longest for the first i words of one and the first j of the other. How does it follow from smaller "
        "i and j?",
        "If the i-th and the j-th word are equal, L[i][j] = L[i-1][j-1] + 1; otherwise the larger of L[i-1][j] and L[i][j-1].",
        "L = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]; two loops; n = L[-1][-1]; return 2 * n / (len(a) + len(b)) if n "
        "else 0.0.",
    ),
    mistakes=(
        Mistake(_bag, "the words must be in the same order in both"),
        Mistake(_substring, "other words may stand between: a subsequence may have gaps"),
        Mistake(
            _greedy, "taking each word at its first place can prevent a better match: fill the table of all beginnings"
        ),
        Mistake(_recall, "the result is F1, not the recall alone"),
    ),
)

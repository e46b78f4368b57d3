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
    """Equal; one word off; order; gaps; greedy; none; what a word is."""
    yield Case("the same", ["the cat", "The cat."])
    yield Case("the same, with capitals in the prediction", ["The CAT", "the cat"])
    yield Case("one word differs", ["the cat is on the mat", "the cat sat on the mat"])
    yield Case("the same words in another order", ["b a", "a b"])
    yield Case("with other words between them", ["a x b y c", "a b c"])
    yield Case("a wrong first match: 'b' early, or the longer 'a c d'", ["b a c d", "a c d b"])
    yield Case("the same the other way round", ["a c d b", "b a c d"])
    yield Case("a word that occurs twice in the prediction and once in the reference", ["a b a b", "a b"])
    yield Case("no word in common", ["red", "blue"])
    yield Case("nothing", ["", "blue"])
    yield Case("nothing in both", ["", "…"])
    yield Case("digits, an underscore and a hyphen", ["top_10 well-known", "top 10 well known"])
    yield Case("é, which is no ASCII letter and so ends a word", ["a café", "a caf"])
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


def _longest(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        before = list(row)
        for j, other in enumerate(b):
            row[j + 1] = before[j] + 1 if word == other else max(before[j + 1], row[j])
    return row[-1]


def _recall(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    return _longest(a, b) / len(b) if b else 0.0


def _precision(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    return _longest(a, b) / len(a) if a else 0.0


def _capitals(prediction: str, reference: str) -> float:
    a, b = (re.findall(r"[A-Za-z0-9]+", text) for text in (prediction, reference))
    return _f1(_longest(a, b), a, b)


def _reference_alone_lower(prediction: str, reference: str) -> float:
    a, b = re.findall(r"[A-Za-z0-9]+", prediction), _words(reference)
    return _f1(_longest(a, b), a, b)


def _letters_of_any_script(prediction: str, reference: str) -> float:
    a, b = (re.findall(r"[^\W_]+", text.lower()) for text in (prediction, reference))
    return _f1(_longest(a, b), a, b)


def _word_characters(prediction: str, reference: str) -> float:
    a, b = (re.findall(r"\w+", text.lower()) for text in (prediction, reference))
    return _f1(_longest(a, b), a, b)


def _split(prediction: str, reference: str) -> float:
    a, b = prediction.lower().split(), reference.lower().split()
    return _f1(_longest(a, b), a, b)


def _empty_is_equal(prediction: str, reference: str) -> float:
    a, b = _words(prediction), _words(reference)
    return _f1(_longest(a, b), a, b) if a or b else 1.0


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
        Mistake(_precision, "the result is F1, not the precision alone"),
        Mistake(_capitals, "words are in lower case: 'The' and 'the' are the same"),
        Mistake(_reference_alone_lower, "both texts are in lower case, the prediction too"),
        Mistake(_split, "a word is a run of letters and digits: commas, dots and hyphens are no part of it"),
        Mistake(_word_characters, "\\w is also _ and every letter beyond ASCII: [a-z0-9]+ is asked for"),
        Mistake(_letters_of_any_script, "words are of ASCII letters and digits: é ends a word, as in rouge-score"),
        Mistake(_empty_is_equal, "if the longest common subsequence has no word the result is 0, for empty texts too"),
    ),
)

"""Exercise 8.1: F1 of an answer."""

from __future__ import annotations

from evaluation.text_overlap import normalise_answer


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words in any order (Rajpurkar et al., 2016: SQuAD).

    Both texts go through `normalise_answer` and are split at spaces. The shared words are those in both texts; each counts
    as often as in the text that has it less often. Precision is shared words over words of the prediction. Recall is shared
    words over words of the reference. Their harmonic mean is 2 P R / (P + R) = 2 · shared / (both lengths together).

    If neither text has words left, the score is 1. If only one of them has none, it is 0.

    >>> token_f1("in the year 1991", "1991")
    0.5
    """
    raise NotImplementedError("Exercise 8.1: shared words")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections import Counter
from collections.abc import Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Right; partly; none; repeated in one, in the other, in both; empty."""
    yield Case("the same except for case, articles and punctuation", ["The Answer!", "answer"])
    yield Case("one word of three", ["in the year 1991", "1991"])
    yield Case("nothing in common", ["red", "blue"])
    yield Case("a word that occurs three times in one and once in the other", ["no no no yes", "no yes"])
    yield Case("the same the other way round", ["no yes", "no no no yes"])
    yield Case("words that occur twice in both", ["new york new york", "new york new york"])
    yield Case("nothing left after normalising", ["the", "a"])
    yield Case("nothing left of the prediction", ["the", "answer"])
    yield Case("nothing left of the reference", ["answer", "the"])


def _words(text: str) -> list[str]:
    return normalise_answer(text).split()


def _raw(prediction: str, reference: str) -> float:
    p, r = prediction.split(), reference.split()
    shared = sum((Counter(p) & Counter(r)).values())
    return 2 * shared / (len(p) + len(r)) if p and r else float(p == r)


def _sets(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return 2 * len(set(p) & set(r)) / (len(set(p)) + len(set(r))) if p and r else float(p == r)


def _membership(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return 2 * sum(word in r for word in p) / (len(p) + len(r)) if p and r else float(p == r)


def _membership_of_reference(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return 2 * sum(word in p for word in r) / (len(p) + len(r)) if p and r else float(p == r)


def _precision(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return sum((Counter(p) & Counter(r)).values()) / len(p) if p and r else float(p == r)


def _by_both_shares(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    if not p:
        return float(not r)
    shared = sum((Counter(p) & Counter(r)).values())
    precision, recall = shared / len(p), shared / len(r)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


def _shared_sets(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return 2 * len(set(p) & set(r)) / (len(p) + len(r)) if p and r else float(p == r)


def _recall(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return sum((Counter(p) & Counter(r)).values()) / len(r) if p and r else float(p == r)


def _undefined(prediction: str, reference: str) -> float:
    p, r = _words(prediction), _words(reference)
    return 2 * sum((Counter(p) & Counter(r)).values()) / (len(p) + len(r))


EXERCISE = Exercise(
    stub=token_f1,
    reference="evaluation.text_overlap:token_f1",
    cases=cases,
    hints=(
        "First treat texts that have no words. Then count the words of each.",
        "Counter(a) & Counter(b) has each word as often as the text that has it less often. Sum its values.",
        "2 * sum((Counter(p) & Counter(r)).values()) / (len(p) + len(r)).",
    ),
    mistakes=(
        Mistake(_raw, "both texts are normalised first: case, punctuation and articles do not count"),
        Mistake(
            _recall,
            "this is the recall alone; other words in a long answer must lower its score",
        ),
        Mistake(_precision, "this is the precision alone: an answer that leaves words out must have a lower score"),
        Mistake(
            _membership_of_reference, "a word of the reference is shared only as often as the prediction has it, too"
        ),
        Mistake(_by_both_shares, "the reference may have no words left either: the score is 0 then, and not 0 / 0"),
        Mistake(_sets, "words count as often as they occur: use Counter, not set"),
        Mistake(_membership, "a word is shared only as often as *both* texts have it"),
        Mistake(_shared_sets, "a word that both have twice is shared twice: count, do not take sets"),
        Mistake(_undefined, "two texts without words are equal: return 1, and do not divide by 0"),
    ),
)

"""How much a generated text has in common with a reference: exact match, F1, BLEU, ROUGE-L.

All four count shared words, and none of them understands a text: "not bad" against "bad" scores well. They are for
answers that are short or close to a reference, and for comparing with published results. For that, every detail of
the tokenization matters, so each follows the implementation that the field reports.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

from groundwork.user_errors import UserError, require_texts

BLEU_ORDER = 4
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# --- answers to questions, as SQuAD grades them -----------------------------------------------


def normalise_answer(text: str) -> str:
    """The text in lower case, without punctuation and articles, with single spaces (Rajpurkar et al., 2016).

    >>> normalise_answer("The  Answer, is 42!")
    'answer is 42'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> bool:
    """Whether both are the same after `normalise_answer`."""
    return normalise_answer(prediction) == normalise_answer(reference)


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words after `normalise_answer`; the order does not count.

    >>> token_f1("in the year 1991", "1991")
    0.5
    """
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected))


# --- BLEU ------------------------------------------------------------------------------------


def tokenize_13a(text: str) -> list[str]:
    """Words and punctuation as in the `mteval-v13a` script of the translation contests, sacrebleu's default.

    >>> tokenize_13a("It costs 1,000.5 dollars, or so.")
    ['It', 'costs', '1,000.5', 'dollars', ',', 'or', 'so', '.']
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(entity, character)
    text = f" {text} "
    text = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", text)  # ASCII punctuation except ' , - .
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)  # a dot or comma stays only between digits
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    text = re.sub(r"([0-9])(-)", r"\1 \2 ", text)
    return text.split()


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU over a whole set of texts (Papineni et al., 2002), as sacrebleu reports it.

    It is the geometric mean of the precisions of 1- to 4-grams, times a penalty if the text is shorter than the closest
    reference. Each n-gram counts at most as often as it occurs in one reference. An order without any match counts as
    1/2, 1/4, … of a match instead of 0 ("exp" smoothing).

    Args:
        hypotheses: one text each.
        references: for each hypothesis one or more texts.

    Returns:
        0 to 100.

    Raises:
        UserError: no texts, one without a reference, or one text instead of a list.
    """
    for texts in (hypotheses, *references):
        require_texts(texts)
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise UserError("BLEU needs at least one text, and a reference for each")
    matches, totals = [0] * BLEU_ORDER, [0] * BLEU_ORDER
    hypothesis_length = reference_length = 0
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        words, alternatives = tokenize_13a(hypothesis), [tokenize_13a(text) for text in texts]
        hypothesis_length += len(words)
        reference_length += min((abs(len(r) - len(words)), len(r)) for r in alternatives)[1]
        for order in range(1, BLEU_ORDER + 1):
            counts = _count_grams(words, order)
            allowed: Counter[tuple[str, ...]] = Counter()
            for reference in alternatives:
                allowed |= _count_grams(reference, order)  # the largest count of any reference
            matches[order - 1] += sum((counts & allowed).values())
            totals[order - 1] += sum(counts.values())
    return _combine(matches, totals, hypothesis_length, reference_length)


def _count_grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _combine(matches: list[int], totals: list[int], hypothesis_length: int, reference_length: int) -> float:
    if not any(matches):
        return 0.0
    log_sum, share = 0.0, 1.0
    for matched, total in zip(matches, totals, strict=True):
        if total == 0:  # all texts are shorter than this order
            return 0.0
        if matched == 0:
            share /= 2
            log_sum += math.log(share / total)
        else:
            log_sum += math.log(matched / total)
    penalty = 1.0 if hypothesis_length >= reference_length else math.exp(1 - reference_length / hypothesis_length)
    return 100 * penalty * math.exp(log_sum / BLEU_ORDER)


# --- ROUGE -----------------------------------------------------------------------------------


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin, 2004), as the `rouge-score` package gives it.

    Words are runs of ASCII letters and digits in lower case, without stemming. Unlike in BLEU, the shared words do
    not have to be next to each other. They only need the same order.

    >>> rouge_l("the cat is on the mat", "the cat sat on the mat")  # the cat · on the mat: 5 of 6
    0.8333333333333334
    """
    predicted = re.findall(r"[a-z0-9]+", prediction.lower())
    expected = re.findall(r"[a-z0-9]+", reference.lower())
    common = _longest_common_subsequence(predicted, expected)
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)  # row[j]: for the part of `a` read so far and b[:j]
    for word in a:
        diagonal = 0  # row[j - 1] before this word
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]

"""Stage 8: overlap, diversity, calibration and significance, against the reference packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats

from evaluation.calibration import calibrate, draw_reliability
from evaluation.diversity import distinct_n, loop_length, repetition, self_bleu
from evaluation.significance import bootstrap_interval, compare_paired, mcnemar_p_value, questions_needed
from evaluation.text_overlap import corpus_bleu, exact_match, rouge_l, token_f1, tokenize_13a
from groundwork.user_errors import UserError

HYPOTHESES = [
    "Return the number of items in the container.",
    "Raise ValueError, if the index (1,000.5) is out-of-range!",
    "a b",
    "",
    "The &quot;end&quot; of the list-\nend <skipped> 3-tuple.",
]
REFERENCES = [
    ["Return how many items are in the container.", "The number of items in the container is returned."],
    ["Raise a ValueError if the index (1,000.5) is out of range.", "An error: out-of-range!"],
    ["a b c d", "b a"],
    ["not empty", "also not"],
    ['The "end" of the list end 3-tuple.', "x"],
]
WORDS = st.lists(st.sampled_from(["a", "the", "cat", "sat,", "3-4", "1,000", "x.", "U.S.", "&amp;", "ü"]), max_size=12)


def test_bleu_of_a_corpus_is_sacrebleus():
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)]  # sacrebleu needs them transposed
    expected = sacrebleu.corpus_bleu(HYPOTHESES, streams).score
    assert expected > 10
    assert corpus_bleu(HYPOTHESES, REFERENCES) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4))
def test_bleu_is_sacrebleus_on_any_text(triples):
    hypotheses = [" ".join(h) for h, _, _ in triples]
    references = [[" ".join(a), " ".join(b)] for _, a, b in triples]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    expected = sacrebleu.corpus_bleu(hypotheses, streams, force=True).score
    assert corpus_bleu(hypotheses, references) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aB3.,-!?'\"&;_/ \n<>ü", max_size=40))
def test_the_13a_tokenizer_is_sacrebleus(text: str):
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    assert tokenize_13a(text) == Tokenizer13a()(text.rstrip()).split()


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_is_that_of_rouge_score(prediction, reference):
    expected = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(prediction))["rougeL"].fmeasure
    assert rouge_l(" ".join(prediction), " ".join(reference)) == pytest.approx(expected, abs=1e-12)


def test_answers_are_compared_as_squad_does():
    assert exact_match("The Eiffel Tower!", "eiffel tower")
    assert not exact_match("Eiffel", "eiffel tower")
    assert token_f1("the tower of Eiffel", "Eiffel Tower") == pytest.approx(2 * 2 / 5)
    assert token_f1("", "the") == 1.0  # nothing is left of either
    assert token_f1("x", "") == 0.0


def test_diversity_of_varied_and_of_repeated_texts():
    same, varied = ["it returns the list of all"] * 3, ["one two three four", "five six seven eight", "nine ten"]
    assert distinct_n(same, 2) == pytest.approx(1 / 3)
    assert distinct_n(varied, 2) == 1.0
    assert self_bleu(same) == pytest.approx(100.0)
    assert self_bleu(varied) == 0.0
    streams = [[varied[1]], [same[0]]]
    assert self_bleu([same[1], varied[1], same[0]]) > sacrebleu.corpus_bleu([same[1]], streams).score / 3
    assert repetition("a b c d e f g") == 0.0
    assert loop_length("the list is the list is the list is ") == len("the list is ")
    assert loop_length("----------") == 0
    with pytest.raises(UserError, match="compares texts with one another, got 1"):
        self_bleu(["alone"])


def test_calibration_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False])
    calibration = calibrate(confidence, correct, bins=10)
    assert calibration.counts[[5, 9]].tolist() == [2, 2]
    assert calibration.expected_error == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    with pytest.raises(UserError, match="needs predictions"):
        calibrate(np.array([]), np.array([], bool))


def test_a_model_that_knows_its_chances_is_calibrated():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    honest = rng.uniform(size=confidence.size) < confidence
    assert calibrate(confidence, honest).expected_error < 0.005
    boastful = rng.uniform(size=confidence.size) < confidence - 0.2
    assert calibrate(confidence, boastful).expected_error == pytest.approx(0.2, abs=0.005)
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    draw_reliability(axes, calibrate(confidence, honest))
    assert "ECE 0.00" in axes.get_title()


def test_the_bootstrap_interval_is_scipys():
    values = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap_interval(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)  # both draw at random


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = sum(
        interval.low <= 0.7 <= interval.high
        for interval in (
            bootstrap_interval(rng.uniform(size=150) < 0.7, resamples=400, seed=trial) for trial in range(400)
        )
    )
    assert 0.91 < hits / 400 < 0.98  # 95 %, with two standard errors of 1.1 points and some more for only 150 items


def test_a_ratio_is_weighted():
    interval = bootstrap_interval([10.0, 1.0], weights=[10.0, 2.0], resamples=100)
    assert interval.estimate == pytest.approx(11 / 12)
    assert (interval.low, interval.high) == pytest.approx((0.5, 1.0))


@pytest.mark.slow
def test_the_paired_test_is_scipys_permutation_test():
    rng = np.random.default_rng(3)
    a = rng.normal(size=30)
    b = a + rng.normal(0.2, 0.5, size=30)
    expected = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=50_000, rng=4
    ).pvalue
    assert compare_paired(a, b, resamples=50_000).p_value == pytest.approx(expected, abs=0.01)
    assert compare_paired(a, a).p_value == 1.0


def test_pairing_sees_what_two_separate_intervals_do_not():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=200)
    a, b = difficulty + 0.1, difficulty + rng.normal(0, 0.1, size=200)
    first, second = bootstrap_interval(a), bootstrap_interval(b)
    assert first.low < second.high  # the intervals overlap
    assert compare_paired(a, b).p_value < 0.001


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 3), (9, 1), (20, 7)])
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int):
    a = [1] * only_a + [0] * only_b + [1, 0, 1]
    b = [0] * only_a + [1] * only_b + [1, 0, 1]
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_p_value(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_number_of_questions_gives_the_power_it_promises():
    n = questions_needed(0.1)
    rng = np.random.default_rng(0)
    first, second = rng.binomial(n, 0.55, size=4000) / n, rng.binomial(n, 0.45, size=4000) / n
    z = (first - second) / np.sqrt((first * (1 - first) + second * (1 - second)) / n)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="two equally long lists"):
        compare_paired([1, 2], [1])
    with pytest.raises(UserError, match="one value an item"):
        bootstrap_interval([])
    with pytest.raises(UserError, match="confidence must be between"):
        bootstrap_interval([1.0], confidence=1.0)
    with pytest.raises(UserError, match="a reference for each"):
        corpus_bleu(["a"], [[]])
    assert math.isclose(questions_needed(0.5), 16)

"""Stage 8: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.calibration import calibrate
from evaluation.diversity import distinct_n, loop_length, self_bleu
from evaluation.scaling.law import TrainedPoint, fit_scaling_law, power_law
from evaluation.significance import bootstrap_interval, compare_paired, mcnemar_p_value, questions_needed
from evaluation.text_overlap import corpus_bleu
from groundwork.user_errors import UserError

NAN = float("nan")


def test_one_text_is_not_taken_for_a_list_of_characters():
    for call in (
        lambda: distinct_n("abc", 1),
        lambda: self_bleu("a b c"),
        lambda: corpus_bleu("a b", ["a", "b", "c"]),
        lambda: corpus_bleu(["the cat sat on the mat"], ["the cat sat on the mat"]),
    ):
        with pytest.raises(UserError, match="must be a list of texts, got the single text"):
            call()


def test_a_loop_repeats():
    for repeats in (-1, 0, 1):
        with pytest.raises(UserError, match="at least twice"):
            loop_length("ababab", repeats)


def test_calibration_takes_lists_and_refuses_percentages():
    assert calibrate([0.5, 0.5], [1, 0]).expected_error == 0.0
    for confidence in ([50.0, 60.0], [-0.5, 0.5], [NAN, 0.5]):
        with pytest.raises(UserError, match="between 0 and 1"):
            calibrate(confidence, [True, False])
    with pytest.raises(UserError, match=r"shapes \(2,\) and \(1,\)"):
        calibrate(np.array([0.5, 0.6]), np.array([True]))


def test_a_missing_value_is_not_a_significant_difference():
    with pytest.raises(UserError, match="finite values"):
        compare_paired([1, NAN, 1], [1, 0, 0])
    with pytest.raises(UserError, match="finite values"):
        bootstrap_interval([1, NAN])
    with pytest.raises(UserError, match="weights above 0"):
        bootstrap_interval([1, 2], weights=[0, 1])


@pytest.mark.parametrize("resamples", [0, -5])
def test_a_test_needs_a_resample(resamples):
    with pytest.raises(UserError, match="at least one resample"):
        bootstrap_interval([1, 0], resamples=resamples)
    with pytest.raises(UserError, match="at least one resample"):
        compare_paired([1, 1], [0, 0], resamples=resamples)


def test_mcnemars_test_is_for_right_and_wrong():
    assert mcnemar_p_value([True, False], [True, True]) == 1.0
    for a, b in (([0.3, 0.9], [0.8, 0.1]), ([NAN, 1], [1, 1])):
        with pytest.raises(UserError, match="0 or 1 for each"):
            mcnemar_p_value(a, b)
    for a, b in (([], []), (1, 0), ([1, 0], [1])):
        with pytest.raises(UserError, match="equally long lists"):
            mcnemar_p_value(a, b)


@pytest.mark.parametrize("accuracy", [-0.5, 0.0, 1.5])
def test_an_accuracy_outside_0_to_1_needs_no_negative_number_of_questions(accuracy):
    with pytest.raises(UserError, match="the accuracy must be between 0 and 1"):
        questions_needed(0.1, accuracy)


@pytest.mark.parametrize(("x", "y"), [([2, 2], [2, 4]), ([0, 2], [2, 4]), ([1, 2, 3], [2, 4]), ([1, 2], [NAN, 4])])
def test_a_power_law_needs_points_with_logarithms(x, y):
    with pytest.raises(UserError, match="a power law needs"):
        power_law(x, y)


@pytest.mark.parametrize("loss", [NAN, 0.0, -1.0])
def test_a_scaling_law_needs_losses_with_logarithms(loss):
    points = [TrainedPoint(n, d, n * d, loss) for n in (1e3, 1e4, 1e5) for d in (1e5, 1e6, 1e7)]
    with pytest.raises(UserError, match="finite sizes, amounts and losses above 0"):
        fit_scaling_law(points)

"""Stage 1: models by counting, compared with their definitions, and the bigram that is learned."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from neural_networks.bits_per_byte import DOCUMENT_SEPARATOR
from neural_networks.byte_models import ByteModel, byte_stream, context_windows, last_bytes, measure, sample
from neural_networks.gradient_checking import numerical_gradient
from neural_networks.kneser_ney import KneserNeyModel, NGramError, discounts
from neural_networks.neural_bigram import NeuralBigram, descend
from neural_networks.ngram import BigramModel, UnigramModel, pair_counts
from neural_networks.optimizers import Adam

TEXT = "the cat sat on the mat; the rat sat on the cat. " * 3 + "then the bat ate the rat that sat on the mat."
DOCUMENTS = [TEXT, "a second document, with a zoo.", TEXT[::-1]]


def test_a_stream_has_a_boundary_before_each_document():
    stream = byte_stream(["añ", "b"])
    assert stream.tobytes() == b"\0a\xc3\xb1\0b"
    assert stream[:1].tobytes() == DOCUMENT_SEPARATOR


@pytest.mark.parametrize("context", [1, 3, 9])
def test_windows_predict_every_byte_but_the_first_from_those_before_it(context: int):
    stream = byte_stream(["abc", "de"])
    windows = context_windows(stream, context)
    padded = bytes(context) + stream.tobytes()
    assert windows.shape == (len(stream) - 1, context + 1)
    for i, row in enumerate(windows):
        assert row.tobytes() == padded[i + 1 : i + 2 + context]
        assert row[:-1].tobytes() == last_bytes(stream[: i + 1], context).tobytes()


def test_a_uniform_model_costs_eight_bits_a_byte_and_pays_for_boundaries():
    class Uniform:
        def total_nats(self, stream: np.ndarray) -> float:
            return math.log(256) * (len(stream) - 1)

        def next_byte_probabilities(self, stream: np.ndarray) -> np.ndarray:
            return np.full(256, 1 / 256)

    assert measure(Uniform(), ["abcd"]) == pytest.approx(8.0)
    assert measure(Uniform(), ["ab", "cd"]) == pytest.approx(8.0 * 5 / 4)
    with pytest.raises(ValueError, match="at least one byte"):
        measure(Uniform(), [""])


MODELS = {
    "unigram": lambda stream: UnigramModel(stream),
    "bigram": lambda stream: BigramModel(stream),
    "Kneser-Ney 1": lambda stream: KneserNeyModel(stream, 1),
    "Kneser-Ney 4": lambda stream: KneserNeyModel(stream, 4),
    "Kneser-Ney 8": lambda stream: KneserNeyModel(stream, 8),
}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None)
@given(train=st.text(min_size=1, max_size=60), context=st.text(max_size=12))
def test_every_byte_is_possible_and_the_probabilities_sum_to_one(name: str, train: str, context: str):
    model = MODELS[name](byte_stream([train, TEXT]))
    for seen in (context, TEXT[: len(context)]):
        p = model.next_byte_probabilities(byte_stream([seen]))
        assert p.shape == (256,)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_total_is_the_sum_over_single_predictions(name: str):
    model: ByteModel = MODELS[name](byte_stream(DOCUMENTS))
    stream = byte_stream(["the zebra sat", "on the mat"])
    by_hand = -sum(
        math.log(model.next_byte_probabilities(stream[: i + 1])[stream[i + 1]]) for i in range(len(stream) - 1)
    )
    assert model.total_nats(stream) == pytest.approx(by_hand, rel=1e-12)


def test_counted_probabilities_are_shares():
    stream = byte_stream(["aab", "ab"])  # 0 a a b 0 a b
    unigram = UnigramModel(stream, smoothing=0)
    assert unigram.probabilities[ord("a")] == pytest.approx(3 / 6)  # the first 0 is not predicted
    bigram = BigramModel(stream, smoothing=0)
    assert bigram.probabilities[ord("a"), ord("b")] == pytest.approx(2 / 3)
    assert BigramModel(stream).probabilities[ord("a"), ord("b")] == pytest.approx((2 + 1) / (3 + 256))
    assert bigram.total_nats(byte_stream(["aa"])) < math.inf
    assert bigram.total_nats(byte_stream(["ba"])) == math.inf  # 0 b was never seen


class SlowKneserNey:
    """The definition, for one n-gram at a time: modified Kneser–Ney as in Chen and Goodman (1998), equation 27."""

    def __init__(self, stream: bytes, order: int):
        self.order = order
        padded = bytes(order - 2) + stream if order > 1 else stream[1:]
        raw = Counter(padded[i : i + order] for i in range(len(padded) - order + 1))
        self.counts = {order: raw}
        for length in range(order - 1, 0, -1):
            self.counts[length] = Counter(gram[1:] for gram in self.counts[length + 1])  # different bytes before it
        self.discounts = {length: self._discounts(counts) for length, counts in self.counts.items()}

    @staticmethod
    def _discounts(counts: Counter) -> dict[int, float]:
        n = Counter(counts.values())
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0
        result = {}
        for c in (1, 2, 3):
            value = c - (c + 1) * y * n[c + 1] / n[c] if n[c] else 0
            result[c] = value if 0 < value < c else 0.5
        return result

    def probability(self, context: bytes, byte: int) -> float:
        context = context[len(context) - self.order + 1 :]
        return self._interpolated(context, byte)

    def _interpolated(self, context: bytes, byte: int) -> float:
        length = len(context) + 1
        counts, discount = self.counts[length], self.discounts[length]
        lower = self._interpolated(context[1:], byte) if context else 1 / 256
        followers = [count for gram, count in counts.items() if gram[:-1] == context]
        if not followers:
            return lower
        count = counts[context + bytes([byte])]
        kept = count - discount[min(count, 3)] if count else 0
        return (kept + sum(discount[min(c, 3)] for c in followers) * lower) / sum(followers)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_equals_its_definition(order: int):
    stream = byte_stream(DOCUMENTS)
    fast, slow = KneserNeyModel(stream, order), SlowKneserNey(stream.tobytes(), order)
    for seen in ("", "t", "the c", "the zebra", "qqqq", DOCUMENTS[2][:30], "with a z"):
        context = byte_stream([seen])
        p = fast.next_byte_probabilities(context)
        padded = bytes(order) + context.tobytes()
        for byte in b"\0 aezq\xff":
            assert p[byte] == pytest.approx(slow.probability(padded, byte), rel=1e-12)


def test_discounts_follow_the_formula_and_stay_in_range():
    counts = np.array([1] * 100 + [2] * 40 + [3] * 20 + [4] * 12 + [9] * 30)
    y = 100 / 180
    expected = [0, 1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 12 / 20]
    np.testing.assert_allclose(discounts(counts), expected, rtol=1e-12)
    np.testing.assert_array_equal(discounts(np.array([7, 7, 8])), [0, 0.5, 0.5, 0.5])


def test_a_longer_order_helps_and_smoothing_is_what_makes_it_safe():
    bits = [measure(KneserNeyModel(byte_stream([TEXT * 5]), order), [TEXT]) for order in (1, 2, 3, 5)]
    assert bits == sorted(bits, reverse=True)
    assert measure(KneserNeyModel(byte_stream([TEXT]), 5), ["Ünseen: 0123"]) < 20


@pytest.mark.parametrize("order", [0, 9])
def test_an_impossible_order_names_the_limit(order: int):
    with pytest.raises(NGramError, match=f"from 1 to 8, got {order}"):
        KneserNeyModel(byte_stream([TEXT]), order)
    with pytest.raises(NGramError, match="at least one byte"):
        KneserNeyModel(byte_stream([""]), 2)


def test_samples_follow_the_model_and_end_at_a_boundary():
    model = KneserNeyModel(byte_stream(["ab" * 200]), 3)
    drawn = bytes(sample(model, "a", 20, np.random.default_rng(0)))
    assert drawn.startswith(b"bab")
    assert drawn == bytes(sample(model, "a", 20, np.random.default_rng(0)))
    short = KneserNeyModel(byte_stream(["xy"] * 500), 3)
    assert bytes(sample(short, "", 50, np.random.default_rng(0))) == b"xy"


# --- the bigram that is learned ------------------------------------------------------------------


@pytest.mark.slow
def test_the_learned_bigram_converges_to_the_counted_one():
    stream = byte_stream(DOCUMENTS)
    counted = BigramModel(stream, smoothing=1.0)
    learned = NeuralBigram(np.float64)
    descend(learned, pair_counts(stream) + 1.0, steps=800)
    np.testing.assert_allclose(learned.probabilities, counted.probabilities, atol=1e-9)
    assert measure(learned, DOCUMENTS) == pytest.approx(measure(counted, DOCUMENTS), abs=1e-8)
    np.testing.assert_array_equal(learned.next_byte_probabilities(stream[:2]), learned.probabilities[stream[1]])


def test_learning_from_examples_approaches_the_counts_too():
    stream = byte_stream([TEXT * 4])
    counted, learned, rng = BigramModel(stream, smoothing=0), NeuralBigram(), np.random.default_rng(0)
    optimizer = Adam([learned.scores.data], 0.3)
    for step in range(400):
        optimizer.lr = 0.3 * (1 - step / 400)
        places = rng.integers(0, len(stream) - 1, 256)
        learned.scores.grad = None
        learned.loss(stream[places], stream[places + 1]).backward()
        assert learned.scores.grad is not None
        optimizer.step([learned.scores.grad])
    # For this text, the counted table is the best one. The loss of the learned table approaches its loss from above.
    best = counted.total_nats(stream) / (len(stream) - 1)
    assert best < learned.total_nats(stream) / (len(stream) - 1) < best + 0.02


def test_the_loss_on_counts_is_the_mean_loss_on_all_pairs_and_its_gradient_is_the_difference_of_shares():
    stream = byte_stream(["abcab cab"])
    model = NeuralBigram(np.float64)
    model.scores.data += np.random.default_rng(0).normal(size=(256, 256))
    counts = pair_counts(stream)
    loss = model.loss_on_counts(counts)
    assert loss.item() == pytest.approx(model.loss(stream[:-1], stream[1:]).item(), rel=1e-12)
    loss.backward()
    row = ord("a")
    share = counts[row].sum() / counts.sum()
    expected = share * (model.probabilities[row] - counts[row] / counts[row].sum())
    assert model.scores.grad is not None
    np.testing.assert_allclose(model.scores.grad[row], expected, atol=1e-15)
    part = model.scores.data[row, 90:100]
    measured = numerical_gradient(lambda: model.loss_on_counts(counts).item(), part)
    np.testing.assert_allclose(model.scores.grad[row, 90:100], measured, atol=1e-9)

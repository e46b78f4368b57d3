"""Stage 1: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import numpy as np
import pytest

from neural_networks import layers, operations, optimizers
from neural_networks.backpropagation import Tensor
from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.byte_models import byte_stream, context_windows, last_bytes, measure
from neural_networks.corpus import split_documents
from neural_networks.kneser_ney import KneserNeyModel
from neural_networks.ngram import BigramModel, UnigramModel, pair_counts

RNG = np.random.default_rng(0)


def test_one_text_is_not_taken_for_a_list_of_characters():
    model = UnigramModel(byte_stream(["abc"]))
    for call in (
        lambda: xz_bits_per_byte("hello"),
        lambda: xz_bits_per_byte(["hello"], "hello"),
        lambda: gzip_bits_per_byte("hello"),
        lambda: byte_stream("abc"),
        lambda: measure(model, "abc"),
        lambda: split_documents("mine", "some text to split", 0.1),
    ):
        with pytest.raises(ValueError, match="must be a list of texts, got the single text"):
            call()


@pytest.mark.parametrize("model", [UnigramModel, BigramModel, KneserNeyModel])
def test_a_stream_may_be_bytes_or_integers_and_nothing_else(model):
    stream = byte_stream(["abcabcabd"])
    expected = model(stream).total_nats(stream)
    for same in (stream.tobytes(), stream.tolist(), stream.astype(np.int64)):
        assert model(same).total_nats(same) == pytest.approx(expected)
    for other in (stream.astype(float), stream + np.int64(300), stream - np.int64(200), stream.reshape(2, 5), "abc"):
        with pytest.raises(ValueError, match="a stream is one row of bytes from 0 to 255"):
            model(other)


def test_ids_above_a_byte_are_not_counted_as_another_pair():
    with pytest.raises(ValueError, match="from 0 to 255"):
        pair_counts(np.array([0, 256, 3]))
    with pytest.raises(ValueError, match="from 0 to 255"):
        last_bytes(np.array([0, 256]), 1)


def test_a_stream_with_nothing_to_predict_has_no_windows():
    assert context_windows(byte_stream([]), 3).shape == (0, 4)
    assert KneserNeyModel(byte_stream(["abc"])).total_nats(byte_stream([])) == 0.0
    with pytest.raises(ValueError, match="at least one byte, got 0"):
        context_windows(byte_stream(["abc"]), 0)


@pytest.mark.parametrize("smoothing", [-1.0, np.nan])
def test_a_negative_smoothing_is_refused(smoothing):
    for model in (UnigramModel, BigramModel):
        with pytest.raises(ValueError, match="smoothing must not be negative"):
            model(byte_stream(["abc"]), smoothing)


def test_a_negative_target_is_refused_and_a_list_is_taken():
    logits = Tensor(RNG.normal(size=(2, 3)), True)
    expected = operations.cross_entropy(logits, np.array([0, 2])).item()
    assert operations.cross_entropy(logits, [0, 2]).item() == expected
    with pytest.raises(ValueError, match="between 0 and 2, got -1"):
        operations.cross_entropy(logits, np.array([0, -1]))
    table = Tensor(RNG.normal(size=(4, 2)), True)
    assert np.array_equal(operations.embedding(table, [1, 3]).data, table.data[[1, 3]])


def test_integers_are_not_rounded_away():
    whole = Tensor(np.array([-1, 1, 2]))
    exact = Tensor(np.array([-1.0, 1.0, 2.0]))
    assert operations.gelu(whole).data.tolist() == operations.gelu(exact).data.tolist()
    assert set(layers.Dropout(0.5, RNG)(Tensor(np.ones(50, int))).data) == {0.0, 2.0}


def test_a_tensor_as_condition_counts_by_its_numbers():
    chosen = operations.where(Tensor(np.array([True, False])), Tensor([1.0, 1.0]), 2.0)
    assert chosen.data.tolist() == [1.0, 2.0]
    assert operations.where(np.array([True, False]), 1.0, 2.0).data.tolist() == [1.0, 2.0]
    assert not Tensor(0.0) and Tensor(2.0)


def test_rows_without_an_id_are_refused():
    with pytest.raises(ValueError, match="4 rows and ids of shape"):
        operations.scatter_rows(np.ones((4, 2)), np.array([1, 0]), 3)


@pytest.mark.parametrize("data", ["abc", None, [Tensor(1.0), Tensor(2.0)], 1j])
def test_a_tensor_holds_real_numbers(data):
    with pytest.raises(TypeError, match="a tensor holds real numbers"):
        Tensor(data)


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="out of bounds"):
        Tensor(np.ones((2, 3, 4))).transpose(5, 1, 0)


def test_a_gradient_of_another_shape_names_the_operation():
    x = Tensor(np.ones(3), True)
    wrong = Tensor.from_operation(np.ones((2, 3)), (x,), lambda g: (g,), "mine")
    with pytest.raises(ValueError, match=r"'mine' returned a gradient of shape \(2, 3\) for an input of shape \(3,\)"):
        wrong.backward(np.ones((2, 3)))


def test_layers_refuse_what_they_would_stretch_or_overlook():
    with pytest.raises(ValueError, match="at least one input, got in_features = 0"):
        layers.Linear(0, 3, RNG)
    with pytest.raises(ValueError, match="vectors of 4 numbers"):
        layers.LayerNorm(4)(Tensor(np.ones((2, 1))))
    with pytest.raises(TypeError, match=r"Sequential\(\*layers\)"):
        layers.Sequential([layers.Tanh()])


@pytest.mark.parametrize("kind", [optimizers.SGD, optimizers.Momentum, optimizers.Adam])
def test_parameters_that_a_step_could_not_reach_are_refused(kind):
    for parameter in (np.ones((2, 3)).T, Tensor(np.ones(3), True)):
        with pytest.raises(ValueError, match="must be C-contiguous arrays"):
            kind([parameter], lr=0.1)
    with pytest.raises(ValueError, match="learning rate must not be negative"):
        kind([np.ones(3)], lr=-0.1)

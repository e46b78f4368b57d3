"""Stage 1: layers on the autograd engine, compared with torch.nn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neural_networks.backpropagation import Tensor
from neural_networks.gradient_checking import check_gradients
from neural_networks.layers import (
    GELU,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
)


def test_a_network_has_the_losses_and_gradients_of_its_pytorch_twin():
    rng = np.random.default_rng(0)
    ours = Sequential(Embedding(11, 6, rng), LayerNorm(6), Linear(6, 8, rng), GELU(), Linear(8, 11, rng, bias=False))
    theirs = torch.nn.Sequential(
        torch.nn.Embedding(11, 6),
        torch.nn.LayerNorm(6),
        torch.nn.Linear(6, 8),
        torch.nn.GELU(approximate="tanh"),
        torch.nn.Linear(8, 11, bias=False),
    )
    twins = list(zip(ours.named_parameters(), theirs.named_parameters(), strict=True))
    with torch.no_grad():
        for (name, mine), (their_name, other) in twins:
            assert name == f"layers.{their_name}"
            is_linear = name in ("layers.2.weight", "layers.4.weight")
            other.copy_(torch.tensor(mine.data.T if is_linear else mine.data))
    ids, targets = rng.integers(0, 11, (4, 5)), rng.integers(0, 11, (4, 5))
    loss = SoftmaxCrossEntropy()(ours(ids), targets)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(
        theirs(torch.tensor(ids)).flatten(0, 1), torch.tensor(targets).flatten()
    )
    expected.backward()
    assert loss.data.dtype == np.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, mine), (_, other) in twins:
        gradient = other.grad.numpy()
        assert mine.grad is not None
        np.testing.assert_allclose(
            mine.grad, gradient.T if name in ("layers.2.weight", "layers.4.weight") else gradient, atol=1e-6, rtol=1e-4
        )
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_layer_norm_has_the_gradient_of_its_definition():
    rng = np.random.default_rng(0)
    norm = LayerNorm(4)
    for check in check_gradients(norm, rng.normal(size=(3, 4))):
        assert check.passed, check


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Tanh(), torch.tanh), (Sigmoid(), torch.sigmoid), (ReLU(), torch.relu)],
    ids=["tanh", "sigmoid", "relu"],
)
def test_activations(ours: Module, theirs):
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(ours(Tensor(x)).data, theirs(torch.tensor(x)).numpy(), rtol=1e-12)
    assert not ours.parameters()


def test_starting_values_have_the_spread_of_pytorch():
    rng = np.random.default_rng(0)
    linear, embedding = Linear(400, 300, rng), Embedding(500, 200, rng)
    assert linear.bias is not None
    for values in (linear.weight.data, linear.bias.data):
        assert 0.045 < np.abs(values).max() <= 1 / np.sqrt(400)
    assert embedding.weight.data.std() == pytest.approx(1.0, abs=0.02)


def test_dropout_keeps_the_mean_in_training_and_everything_in_evaluation():
    model = Sequential(Dropout(0.25, np.random.default_rng(0)))
    x = Tensor(np.ones((200, 200), dtype=np.float32), requires_grad=True)
    y = model(x)
    assert y.data.dtype == np.float32
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.mean(y.data == 0) == pytest.approx(0.25, abs=0.01)  # the spread is 0.002
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad, y.data)  # dropped values learn nothing
    model.train(False)
    assert model(x) is x
    with pytest.raises(ValueError, match="below 1, got 1"):
        Dropout(1.0, np.random.default_rng(0))

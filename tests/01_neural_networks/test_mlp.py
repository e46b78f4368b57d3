"""Stage 1: the network with gradients by hand, compared with finite differences, the engine and PyTorch."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from neural_networks import operations as ops
from neural_networks.backpropagation import Tensor
from neural_networks.byte_models import byte_stream, context_windows, measure
from neural_networks.gradient_checking import compare_gradients, numerical_gradient
from neural_networks.mlp_numpy import MLP, MLPConfig, MLPError
from neural_networks.mlp_pytorch import TorchMLP
from neural_networks.operations import scatter_rows
from neural_networks.optimizers import CHUNK, SGD, Adam, Momentum

SMALL = MLPConfig(context=3, embedding_dim=4, hidden=5)
TEXT = "the cat sat on the mat; the rat sat on the cat, and the bat ate the rat. " * 40


def batch(config: MLPConfig, size: int, seed: int = 0) -> np.ndarray:
    # Only a few different bytes, so that each is looked up several times.
    return np.random.default_rng(seed).integers(97, 103, (size, config.context + 1)).astype(np.uint8)


def test_hand_gradients_equal_finite_differences():
    model = MLP(SMALL, np.random.default_rng(0), np.float64)
    windows = batch(SMALL, 6)
    model.loss_and_gradients(windows)
    computed = {name: view.copy() for name, view in model.gradient_views.items()}
    # The bytes that occur, and two that do not. The other rows of the table are like these two.
    used = np.array([65, *range(97, 104)])
    parts = {"embedding": model.views["embedding"][used]}
    for name, values in (parts | {name: model.views[name] for name in ("w1", "b1", "b2")}).items():

        def loss(name: str = name, values: np.ndarray = values) -> float:
            if name == "embedding":
                model.views["embedding"][used] = values
            return model.loss_and_gradients(windows)

        expected = computed[name][used] if name == "embedding" else computed[name]
        check = compare_gradients(name, expected, numerical_gradient(loss, values), tolerance=1e-8)
        assert check.passed, check
    columns = model.views["w2"][:, 95:105]
    measured = numerical_gradient(lambda: model.loss_and_gradients(windows), columns)
    check = compare_gradients("w2", computed["w2"][:, 95:105], measured, tolerance=1e-8)
    assert check.passed, check


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_hand_gradients_equal_those_of_the_engine_and_of_pytorch(sizes: tuple[int, int, int], rows: int, seed: int):
    config = MLPConfig(*sizes)
    model = MLP(config, np.random.default_rng(seed), np.float64)
    windows = batch(config, rows, seed)
    loss = model.loss_and_gradients(windows)

    p = {name: Tensor(view, requires_grad=True) for name, view in model.views.items()}
    x = ops.embedding(p["embedding"], windows[:, :-1]).reshape(rows, -1)
    by_engine = ops.cross_entropy(ops.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], windows[:, -1])
    by_engine.backward()

    twin = TorchMLP.from_numpy(model)
    by_torch = twin.loss(torch.from_numpy(windows.astype(np.int64)))
    by_torch.backward()
    torch_gradients = {
        "embedding": twin.embedding.weight.grad,
        "w1": twin.hidden.weight.grad.T,
        "b1": twin.hidden.bias.grad,
        "w2": twin.output.weight.grad.T,
        "b2": twin.output.bias.grad,
    }
    assert loss == pytest.approx(by_engine.item(), rel=1e-13)
    assert loss == pytest.approx(by_torch.item(), rel=1e-13)
    for name, gradient in model.gradient_views.items():
        np.testing.assert_allclose(gradient, p[name].grad, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(gradient, torch_gradients[name].numpy(), rtol=1e-10, atol=1e-14)


OPTIMIZERS = {
    "sgd": (lambda p: SGD(p, 0.5), lambda p: torch.optim.SGD(p, 0.5)),
    "momentum": (lambda p: Momentum(p, 0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "adam": (lambda p: Adam(p, 4e-3), lambda p: torch.optim.Adam(p, 4e-3)),
}
# Rounding differs and grows over 100 steps. Measured: up to 2e-15 of the loss in float64 and 1.4e-6 in float32.
PRECISIONS = {"float64": (np.float64, 1e-12), "float32": (np.float32, 2e-5)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numpy_and_pytorch_have_the_same_losses_step_by_step(name: str, precision: str):
    dtype, tolerance = PRECISIONS[precision]
    config = MLPConfig(context=4, embedding_dim=8, hidden=32)
    model = MLP(config, np.random.default_rng(0), dtype)
    twin = TorchMLP.from_numpy(model)
    ours, theirs = OPTIMIZERS[name][0]([model.parameters]), OPTIMIZERS[name][1](twin.parameters())
    windows, rng = context_windows(byte_stream([TEXT]), 4), np.random.default_rng(1)
    losses, expected = [], []
    for _ in range(100):
        rows = windows[rng.integers(0, len(windows), 32)]
        losses.append(model.loss_and_gradients(rows))
        ours.step([model.gradients])
        theirs.zero_grad()
        loss = twin.loss(torch.from_numpy(rows.astype(np.int64)))
        loss.backward()
        theirs.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    assert losses[-1] < losses[0] - 1.5  # and the losses went down
    np.testing.assert_allclose(
        model.views["w1"], twin.hidden.weight.detach().numpy().T, atol=10 * tolerance, rtol=10 * tolerance
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_equal_pytorch_on_arrays_of_any_size(name: str):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((3,), (2, 5), (CHUNK + 7,))]
    peers = [torch.tensor(array) for array in arrays]
    ours, theirs = OPTIMIZERS[name][0](arrays), OPTIMIZERS[name][1](peers)
    for _ in range(5):
        gradients = [rng.normal(size=array.shape) for array in arrays]
        kept = [gradient.copy() for gradient in gradients]
        ours.step(gradients)
        for gradient, before in zip(gradients, kept, strict=True):
            np.testing.assert_array_equal(gradient, before)
        for peer, gradient in zip(peers, gradients, strict=True):
            peer.grad = torch.tensor(gradient)
        theirs.step()
    for array, peer in zip(arrays, peers, strict=True):
        np.testing.assert_allclose(array, peer.numpy(), rtol=1e-12, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40))
def test_scattered_rows_are_those_of_add_at(ids: list[int]):
    rows = np.random.default_rng(len(ids)).normal(size=(len(ids), 3))
    expected = np.zeros((10, 3))
    np.add.at(expected, ids, rows)
    for dtype in (np.int64, np.uint8):
        np.testing.assert_allclose(scatter_rows(rows, np.array(ids, dtype=dtype), 10), expected, rtol=1e-12, atol=1e-15)


def test_a_loss_does_not_depend_on_the_batches_before_it():
    model = MLP(SMALL, np.random.default_rng(0))
    first, other = batch(SMALL, 8), batch(SMALL, 5, seed=1)
    loss = model.loss_and_gradients(first)
    gradients = model.gradients.copy()
    model.loss_and_gradients(other)
    assert model.loss_and_gradients(first) == loss
    np.testing.assert_array_equal(model.gradients, gradients)


def test_large_scores_do_not_overflow():
    model = MLP(SMALL, np.random.default_rng(0))
    model.views["b2"][98] = 1e4
    assert math.isfinite(model.loss_and_gradients(batch(SMALL, 8)))
    assert np.isfinite(model.gradients).all()


def test_probabilities_sum_to_one_and_agree_with_the_total():
    model = MLP(SMALL, np.random.default_rng(0), np.float64)
    stream = byte_stream(["abc", "de"])
    by_hand = 0.0
    for i in range(len(stream) - 1):
        p = model.next_byte_probabilities(stream[: i + 1])
        assert p.sum() == pytest.approx(1, abs=1e-12)
        by_hand -= math.log(p[stream[i + 1]])
    assert model.total_nats(stream) == pytest.approx(by_hand, rel=1e-12)
    long = np.tile(stream, 1000)  # more than one batch
    windows = context_windows(long, SMALL.context)
    assert model.total_nats(long) == pytest.approx(model.loss_and_gradients(windows) * len(windows), rel=1e-10)


def test_it_learns_more_than_a_bigram_can():
    # After "a" come b and c in turn. One byte of context does not tell which.
    text = "abac" * 500
    model, rng = MLP(SMALL, np.random.default_rng(0)), np.random.default_rng(0)
    windows = context_windows(byte_stream([text]), SMALL.context)
    optimizer = Adam([model.parameters], 0.02)
    for _ in range(200):
        model.loss_and_gradients(windows[rng.integers(0, len(windows), 64)])
        optimizer.step([model.gradients])
    assert measure(model, [text]) < 0.1  # a bigram needs half a bit


def test_an_impossible_size_is_named():
    with pytest.raises(MLPError, match="hidden must be at least 1, got 0"):
        MLPConfig(hidden=0)


# --- the scripts ---------------------------------------------------------------------------------


def run_script(root: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, str(root / "01_neural_networks" / arguments[0]), *arguments[1:]]
    return subprocess.run(program, cwd=cwd, capture_output=True, encoding="utf-8", check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "expected", "image"),
    [
        ("train_bigram.py", ["--steps", "60"], ["bigram, counted", "bigram, learned", "xz -9"], "bigram.png"),
        ("train_ngram.py", ["--max-order", "3"], ["Kneser-Ney, order 3", "gzip -9"], "ngram.png"),
        ("train_mlp.py", ["--steps", "60", "--hidden", "16"], ["MLP", "Kneser-Ney", "steps/s"], "mlp.png"),
    ],
)
def test_a_script_trains_reports_and_draws(
    root: Path, tmp_path: Path, text_file: Path, script: str, arguments: list[str], expected: list[str], image: str
):
    result = run_script(root, tmp_path, script, "--corpus", str(text_file), *arguments)
    assert result.returncode == 0, result.stderr
    assert not [text for text in [*expected, "uniform guess", "held out"] if text not in result.stdout]
    files = list((tmp_path / "outputs").iterdir())
    assert [file.name for file in files] == [image]
    assert files[0].read_bytes().startswith(b"\x89PNG")


def test_a_run_that_diverges_says_so(root: Path, tmp_path: Path, text_file: Path):
    sizes = ["--hidden", "8", "--steps", "200"]
    result = run_script(
        root, tmp_path, "train_mlp.py", "--corpus", str(text_file), *sizes, "--optimizer", "sgd", "--lr", "1e6"
    )
    assert result.returncode == 1
    assert "training diverged" in result.stderr
    assert "try a smaller --lr than 1000000.0" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_mlp.py", "--hidden", "0"], "error: hidden must be at least 1, got 0"),
        (["train_mlp.py", "--lr", "-1"], "error: --lr must be a number above 0, got -1.0"),
        (["train_mlp.py", "--lr", "nan"], "error: --lr must be a number above 0, got nan"),
        (["train_bigram.py", "--steps", "0"], "error: --steps must be at least 1, got 0"),
        (["train_ngram.py", "--max-order", "9"], "error: --max-order must be from 1 to 8, got 9"),
        (["baselines.py", "--corpus", "no such file"], "error: there is no corpus called 'no such file'"),
    ],
)
def test_a_mistake_gets_one_line(root: Path, tmp_path: Path, arguments: list[str], message: str):
    result = run_script(root, tmp_path, *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()

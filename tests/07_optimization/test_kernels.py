"""Stage 7: each compiled loop gives what PyTorch gives, for every size, and each row has the same bits in any company."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optimization.kernels.arrays import Matrix
from optimization.kernels.numbers import exponential, to_bfloat16
from optimization.kernels.parts import FEED_FORWARDS, activate, normalise, rotate
from optimization.kernels.products import TILE, multiply
from optimization.kernels.threads import FIRST_PHASE, INSIDE, LINE, OPEN, Crew, close, enter, leave
from optimization.weights.quantization import Int4Linear, Int8Linear
from optimization.weights.stacked_model import _stack
from transformer.feed_forward import ACTIVATIONS, GATED
from transformer.positional_encoding import RotaryEmbedding

KINDS = {"float32": nn.Linear, "bfloat16": nn.Linear, "int8": Int8Linear, "int4": Int4Linear}


def a_matrix(kind: str, inputs: int, outputs: int) -> tuple[Matrix, torch.Tensor, torch.Tensor]:
    """A stacked layer, its weight (out, in) as it counts, and its bias."""
    linear = nn.Linear(inputs, outputs)
    layer = linear
    if kind == "bfloat16":
        layer = linear.bfloat16()
    elif kind != "float32":
        layer = KINDS[kind](outputs, inputs, True)
        layer.quantize(linear)
    weight = layer.dequantize() if kind == "int4" else layer.weight.detach().double()
    weight = weight * layer.scale[:, None] if kind == "int8" else weight
    return _stack([[layer]]), weight.double(), layer.bias.detach().double()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_every_size_are_right_and_do_not_depend_on_company(kind):
    torch.manual_seed(0)
    widths = (64, 192) if kind == "int4" else (1, 7, 8, 9, 64, 100)
    sizes = [(inputs, 50) for inputs in widths] + [(64, outputs) for outputs in (1, 15, 16, 17, TILE + 20)]
    for inputs, outputs in sizes:
        matrix, weight, bias = a_matrix(kind, inputs, outputs)
        x = torch.randn(9, inputs + 3)  # rows may be longer than what is read of them
        expected = x[:, :inputs].double() @ weight.T + bias
        alone = np.empty((9, outputs), np.float32)
        for row in range(9):
            multiply(x[row : row + 1].numpy(), inputs, matrix, 0, 0, outputs, alone[row : row + 1])
        torch.testing.assert_close(torch.from_numpy(alone).double(), expected, atol=1e-5, rtol=1e-5)
        for rows in (2, 3, 4, 5, 9):
            for start, stop in ((0, outputs), (outputs // 3, outputs - outputs // 4)):
                y = np.full((rows, outputs), 7, np.float32)
                multiply(x[:rows].numpy(), inputs, matrix, 0, start, stop, y)
                assert np.array_equal(y[:, start:stop], alone[:rows, start:stop])
                assert (y[:, :start] == 7).all() and (y[:, stop:] == 7).all()


def test_numbers_are_those_of_pytorch():
    points = np.concatenate([np.linspace(-87, 88, 400), [0.0, 1e-8, -1e-8]]).astype(np.float32)
    for x in points:
        assert exponential(x) == pytest.approx(math.exp(x), rel=3e-7)
    assert math.isnan(exponential(np.float32(math.nan)))
    assert exponential(np.float32(-1000)) < 1e-37
    numbers = torch.cat([torch.randn(200) * 1e3, torch.tensor([0.0, math.inf, -math.inf, 1 + 2**-8, 1 + 3 * 2**-8])])
    expected = numbers.bfloat16().view(torch.uint16).numpy()
    assert [to_bfloat16(x) for x in numbers.numpy()] == expected.tolist()
    assert to_bfloat16(np.float32(math.nan)) == 0x7FC0


def test_activations_norms_and_rotations_are_those_of_pytorch():
    torch.manual_seed(0)
    x, up = torch.randn(300) * 4, torch.randn(300)
    for kind, name in enumerate(FEED_FORWARDS):
        gate = x.numpy().copy()
        activate(kind, gate, up.numpy())
        expected = GATED[name](x) * up if name in GATED else ACTIVATIONS[name](x)
        torch.testing.assert_close(torch.from_numpy(gate), expected, atol=2e-6, rtol=2e-6)
    weight, bias, y = torch.randn(300), torch.randn(300), np.empty(300, np.float32)
    normalise(x.numpy(), True, 1e-5, weight.numpy(), bias.numpy(), y)
    torch.testing.assert_close(torch.from_numpy(y), F.layer_norm(x, (300,), weight, bias), atol=1e-5, rtol=1e-5)
    normalise(x.numpy(), False, 1e-5, weight.numpy(), 0 * bias.numpy(), y)
    torch.testing.assert_close(torch.from_numpy(y), F.rms_norm(x, (300,), weight, 1e-5), atol=1e-5, rtol=1e-5)
    rotary, head = RotaryEmbedding(8, 40), torch.randn(12)  # a head of which eight dimensions are turned
    turned = head.numpy().copy()
    rotate(turned, rotary.cos[33].numpy(), rotary.signed_sin[33].numpy())
    torch.testing.assert_close(torch.from_numpy(turned), rotary(slice(33, 34))(head[None, None, None])[0, 0, 0])


def test_a_thread_that_comes_late_takes_no_part():
    counters = np.zeros(FIRST_PHASE + 2 * LINE, dtype=np.int64)
    counters[OPEN] = 5
    assert enter(counters, 5) and counters[INSIDE] == 1
    leave(counters)
    assert not enter(counters, 4)  # a step that is over
    close(counters, 5)
    assert not enter(counters, 5)
    assert counters[INSIDE] == 0


def test_a_step_that_fails_leaves_a_crew_that_works():
    crew, seen = Crew(), []

    def fail(*arguments: object) -> None:
        raise MemoryError("no memory")

    with pytest.raises(MemoryError):
        crew.run(fail, 3, 1)
    crew.run(lambda counters, number, thread, word: seen.append((thread, word)), 3, 1, "word")
    assert seen == [(0, "word")] and crew._counters[OPEN] == 0

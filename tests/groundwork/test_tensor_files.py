"""Groundwork: a file of weights holds finite floating-point numbers, or is refused in one line."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from groundwork.tensor_files import is_finite, read_weights
from groundwork.user_errors import UserError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_floating_point_numbers_are_weights(tmp_path, dtype):
    largest = torch.finfo(dtype).max
    tensors = {"a": torch.full((4, 3), largest, dtype=dtype), "empty": torch.zeros(0, dtype=dtype)}  # the sum overflows
    save_file(tensors, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(read[name], tensor) and read[name].dtype == dtype for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_no_other_type_becomes_a_weight(tmp_path, dtype):
    save_file({"head.weight": torch.ones(2, 2).to(dtype)}, tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=rf"w\.safetensors: head\.weight has the type {str(dtype)[6:]}; a weight is"
    ) as error:
        read_weights(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [[float("nan")], [float("inf")], [float("-inf")], [float("inf"), float("-inf")]])
def test_a_number_that_is_not_finite_is_found(tmp_path, dtype, bad):
    tensor = torch.randn(50, 20).to(dtype)
    tensor.view(-1)[-len(bad) :] = torch.tensor(bad, dtype=dtype)
    assert not is_finite(tensor)
    save_file({"fine": torch.ones(2), "norm.weight": tensor}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"{len(bad)} of the 1000 numbers of norm\.weight are nan or infinite"):
        read_weights(tmp_path / "w.safetensors")

"""Export to ONNX and to TorchScript: graphs that run without this project and without Python."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention.attention_visualizer import record_attention
from deployment.export.graph import CachedGraphModel, GraphModel
from groundwork.files import replacing
from groundwork.library_noise import silence_libraries
from groundwork.user_errors import UserError, require_package
from transformer.gpt_model import GPTModel

OPSET = 18


def export_onnx(model: GPTModel, folder: Path) -> list[Path]:
    """Write `model.onnx`, without a cache, and `model_with_cache.onnx`.

    Inputs and outputs have the names of Hugging Face's exports: `input_ids`, `logits`,
    `past_key_values.0.key`, `present.0.key`. Batch and time can have any size.

    Args:
        model: a model in evaluation mode, float32 on the CPU.
        folder: where to write.

    Returns:
        The paths of the files.

    Raises:
        UserError: the package `onnx` is missing, or the exporter fails.
    """
    for package in ("onnx", "onnxscript"):
        require_package(package, "export", "an export to ONNX")
    ids, past = _example(model)
    layers = model.config.num_layers
    names = [f"{layer}.{which}" for layer in range(layers) for which in ("key", "value")]
    batch, time, earlier = (torch.export.Dim(name, min=1, max=2**20) for name in ("batch", "time", "past"))
    folder.mkdir(parents=True, exist_ok=True)
    plain, cached = folder / "model.onnx", folder / "model_with_cache.onnx"
    _write(GraphModel(model), (ids,), plain, ["input_ids"], ["logits"], ({0: batch, 1: time},))
    _write(
        CachedGraphModel(model),
        (ids, past),
        cached,
        ["input_ids", *(f"past_key_values.{name}" for name in names)],
        ["logits", *(f"present.{name}" for name in names)],
        ({0: batch, 1: time}, [{0: batch, 2: earlier} for _ in past]),
    )
    return [plain, cached]


def export_torchscript(model: GPTModel, folder: Path) -> Path:
    """Write `model.pt`, for `torch.jit.load` and C++'s `torch::jit::load`. Batch and time can have any size.

    PyTorch keeps TorchScript for existing programs, and develops `torch.export` instead.

    Args:
        model: a model in evaluation mode, float32 on the CPU.
        folder: where to write.
    """
    ids = _example(model)[0][:, : model.config.context_length]  # these are computed with
    path = folder / "model.pt"
    # Recorded in its matrix form: the call of the fused kernel asks in Python how many heads there are.
    with replacing(path) as temporary, warnings.catch_warnings(), torch.inference_mode(), record_attention(model):
        warnings.simplefilter("ignore")  # it is deprecated, and it warns of ifs that are the same for all lengths
        traced = torch.jit.trace(GraphModel(model).eval(), (ids,), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), temporary)
    return path


def _example(model: GPTModel) -> tuple[Tensor, list[Tensor]]:
    """Inputs for the recording. No size is 1, because recorders treat 1 as a constant.

    The recorder of ONNX looks at shapes alone, so a model with a shorter context can be recorded as well.
    """
    config = model.config
    time = max(2, min(5, config.context_length - 3))
    shape = (2, config.kv_heads, 3, config.head_size)
    return torch.ones(2, time, dtype=torch.int64), [torch.zeros(shape) for _ in range(2 * config.num_layers)]


def _write(
    model: torch.nn.Module, inputs: tuple[Any, ...], path: Path, names: list[str], outputs: list[str], shapes: Any
) -> None:
    silence_libraries()
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                inputs,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(temporary)
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"the model could not be recorded for ONNX: {str(error).strip().splitlines()[0]}") from None

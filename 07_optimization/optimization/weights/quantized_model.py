"""Quantize a whole model, and write and read it as a checkpoint folder with one more file.

`quantization.json` names the method and the version of the layout. The rest is as stage 5 writes it, with the
integers and scales in `model.safetensors`.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from groundwork.files import read_json
from groundwork.tensor_files import is_finite, require_weight, save_tensors
from groundwork.text_sources import TextError
from groundwork.user_errors import UserError, brief
from optimization.weights.gptq import quantize_blocks_gptq
from optimization.weights.quantization import (
    INT4_GROUP,
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    QuantizedLayer,
    W8A8Linear,
)
from training.checkpoints.checkpoint import QUANTIZATION, CheckpointError, LoadedModel
from training.checkpoints.manifest import MANIFEST, write_manifest
from transformer.gpt_model import GPTModel

Method = Literal["int8", "w8a8", "int4", "gptq"]
LAYOUT = "nullm-quantized-1"


class QuantizationError(ValueError):
    """A model or file that cannot be quantized or read."""


def quantize_model(model: GPTModel, method: Method, calibration: Tensor | None = None) -> GPTModel:
    """A quantized copy of a model, for inference.

    The linear layers of the blocks are quantized by the method. The embedding and the head, which are often the same
    table and sensitive, get 8 bits. Norms, biases and positions stay as they are.

    Args:
        model: in float32.
        method: see `optimization.weights.quantization`.
        calibration: (sequences, time) ids for `gptq`.

    Raises:
        QuantizationError: the method is unknown or does not support the sizes, the calibration text is missing, or the
            model is quantized already, or its numbers are too large.
    """
    if method not in get_args(Method):
        raise QuantizationError(f"unknown method {method!r}; the choices are {', '.join(get_args(Method))}")
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise QuantizationError("the model is quantized already: start again from the one in float32")
    quantized = copy.deepcopy(model).eval().requires_grad_(False)
    if method == "gptq":
        if calibration is None or calibration.numel() == 0:
            raise QuantizationError("gptq needs calibration text, of the kind that the model is for")
        _check_groups(quantized)
        quantize_blocks_gptq(quantized, calibration)
    _replace_layers(quantized, method, fill=True)
    for name, tensor in quantized.state_dict().items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise QuantizationError(f"{name} would be nan or infinite: the model's weights are too large for {method}")
    return quantized


def _check_groups(model: GPTModel) -> None:
    for name, module in model.blocks.named_modules():
        if isinstance(module, nn.Linear) and module.in_features % INT4_GROUP:
            raise QuantizationError(
                f"4 bits come in groups of {INT4_GROUP} along a row; blocks.{name} has rows of {module.in_features}: "
                "use int8 or w8a8"
            )


def _replace_layers(model: GPTModel, method: Method, fill: bool) -> None:
    """Replace plain layers by quantized ones. With `fill` they get the numbers; without, these are loaded later."""
    if method in ("int4", "gptq"):
        _check_groups(model)
    eight_bits: type[Int8Linear] = W8A8Linear if method == "w8a8" else Int8Linear
    in_blocks = Int4Linear if method in ("int4", "gptq") else eight_bits
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            # For int4, the head has 8-bit weights only: 8-bit activations would round what softmax sees.
            kind = in_blocks if name.startswith("blocks.") else eight_bits
            layer = kind(module.out_features, module.in_features, module.bias is not None).to(module.weight.device)
            if fill:
                layer.quantize(module)
            model.set_submodule(name, layer)
    table = model.token_embedding
    embedding = Int8Embedding(table.num_embeddings, table.embedding_dim).to(table.weight.device)
    if fill:
        embedding.quantize(table)
    if model.config.tie_embeddings:
        head = model.head
        embedding.weight, embedding.scale = head.weight, head.scale  # type: ignore[assignment]
    model.token_embedding = embedding  # type: ignore[assignment]


def count_weights(model: nn.Module) -> int:
    """How many weights a model has, quantized or not. A tied head counts once."""
    total = sum(parameter.numel() for parameter in model.parameters())
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    return total + sum({layer.weight.data_ptr(): layer.num_weights for layer in layers}.values())


def count_bytes(model: nn.Module) -> int:
    """The memory of all learned tensors. A shared tensor counts once."""
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def save_quantized(folder: Path | str, source: LoadedModel, model: GPTModel, method: Method) -> None:
    """Write a quantized model as a checkpoint folder.

    Args:
        folder: must not exist yet.
        source: the checkpoint it was made from; its configuration and tokenizer are copied.
        model: made by `quantize_model`.
        method: the method that was used.

    Raises:
        QuantizationError: the folder exists or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise QuantizationError(f"{folder} exists already; choose another --output, or remove it first")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        if model.config.tie_embeddings:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("token_embedding.")}
        save_tensors(tensors, temporary / "model.safetensors")
        shutil.copy(source.folder / "config.yaml", temporary / "config.yaml")
        source.tokenizer.save(temporary / "tokenizer.json")
        description = {"layout": LAYOUT, "method": method, "source": source.folder.name}
        (temporary / QUANTIZATION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        write_manifest(temporary)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise QuantizationError(f"the quantized model could not be written to {folder}: {error}") from None


def is_quantized(folder: Path | str) -> bool:
    """Whether `save_quantized` wrote a checkpoint folder."""
    return (Path(folder) / QUANTIZATION).is_file()


def load_quantized(folder: Path | str, model: GPTModel) -> None:
    """Turn a newly built model into the quantized one of a folder, in place.

    Raises:
        CheckpointError: the layout is not this version's, or the tensors are not the model's.
    """
    folder = Path(folder)
    path = folder / QUANTIZATION
    try:
        description = read_json(path)
    except TextError as error:
        raise CheckpointError(f"{path} does not describe a quantized model: {error}") from None
    layout, method = description.get("layout"), description.get("method", "none")
    if layout != LAYOUT or method not in get_args(Method):
        raise CheckpointError(
            f"{path} has layout {brief(layout)} and method {brief(method)}; this version reads {LAYOUT!r} "
            f"with {', '.join(get_args(Method))}: quantize the model again"
        )
    try:
        _replace_layers(model, method, fill=False)
        tensors = load_file(folder / "model.safetensors")
        tied = {}
        if model.config.tie_embeddings:
            tied = {f"token_embedding.{part}": tensors[f"head.{part}"] for part in ("weight", "scale")}
        model.load_state_dict(tensors | tied)
        _check_types(tensors, model, folder / "model.safetensors")
    except UserError as error:
        raise CheckpointError(str(error)) from None
    except (SafetensorError, RuntimeError, KeyError, OSError, QuantizationError) as error:
        problem = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / 'model.safetensors'} does not fit {MANIFEST}'s model: {problem}") from None


def _check_types(tensors: dict[str, Tensor], model: GPTModel, path: Path) -> None:
    """Check that integers are stored as the integers that they are, and all other numbers as weights.

    Raises:
        UserError: a tensor has another type, or is not finite.
    """
    layers = model.state_dict()
    for name, theirs in tensors.items():
        ours = layers[name]
        if ours.is_floating_point():
            require_weight(theirs, name, path)
        elif theirs.dtype != ours.dtype:
            raise UserError(f"{path}: {name} has the type {theirs.dtype}, and this layer keeps {ours.dtype}")

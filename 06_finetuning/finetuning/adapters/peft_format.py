"""Adapters in the file format of Hugging Face's `peft`: peft loads what we write, and we load what peft writes.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. The names in it are those of the
Hugging Face class that the base model is exported as (`transformer.pretrained`), or our own where there is
no such class. GPT-2 stores query, key and value as one matrix, and so does an adapter for it: three
corrections become one, with the three A stacked and the three B on a block diagonal.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from finetuning.adapters.lora import (
    AdapterError,
    LoRAAdapter,
    LoRAConfig,
    LoRALinear,
    adaptable_layers,
    attach_adapters,
    lora_layers,
)
from finetuning.adapters.peft_config import CONFIG, PeftConfig, peft_config_content, read_peft_config
from groundwork.tensor_files import is_finite, read_weights, save_tensors
from groundwork.user_errors import UserError
from transformer.gpt_model import GPTModel
from transformer.pretrained import family_of_model
from transformer.pretrained_family import PretrainedError, Stored

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: GPTModel, folder: Path | str, name: str = "default", base_model: str = "") -> Path:
    """Write an adapter.

    Args:
        model: with the adapter.
        folder: where to write; files of an earlier adapter are replaced.
        name: of the adapter in the model.
        base_model: name or path of the exported base model, noted in the file for peft to find.

    Returns:
        The folder.

    Raises:
        AdapterError: the model has no such adapter, its numbers are not finite, or the folder cannot be written.
    """
    folder = Path(folder)
    stored = _stored_names(model)
    parts: dict[str, dict[int, LoRAAdapter]] = {}
    for layer_name, layer in lora_layers(model):
        if name in layer.adapters:
            adapter = layer.adapters[name]
            assert isinstance(adapter, LoRAAdapter)
            where = stored[layer_name]
            parts.setdefault(where.name, {})[where.piece or 0] = adapter
    if not parts:
        raise AdapterError(f"the model has no adapter {name!r}")
    fused = {where.name: where for where in stored.values() if where.piece is not None}
    tensors: dict[str, Tensor] = {}
    layers: dict[str, tuple[int, float]] = {}  # rank and alpha
    for hf_name, adapters in parts.items():
        a, b, magnitude = _fuse(fused[hf_name], adapters) if hf_name in fused else _plain(adapters[0])
        tensors[f"{PREFIX}{hf_name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{hf_name}.lora_B.weight"] = b
        if magnitude is not None:
            tensors[f"{PREFIX}{hf_name}.lora_magnitude_vector"] = magnitude
        layers[hf_name] = a.shape[0], adapters[0].config.alpha
    if wrong := [tensor_name for tensor_name, tensor in tensors.items() if not is_finite(tensor.detach())]:
        raise AdapterError(
            f"the adapter has numbers that are nan or infinite, in {wrong[0]}: the training has diverged"
        )
    config = next(iter(parts.values()))[0].config
    transposed = any(where.transposed for where in stored.values())
    content = peft_config_content(config, layers, transposed, base_model)
    temporary = folder / f".writing.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        save_tensors(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / WEIGHTS, {"format": "pt"}
        )
        (temporary / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for file in (WEIGHTS, CONFIG):
            os.replace(temporary / file, folder / file)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"the adapter could not be written to {folder}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_adapter(model: GPTModel, folder: Path | str, name: str = "default") -> LoRAConfig:
    """Give a model the adapter of a folder, and make it active.

    Args:
        model: the base model; may hold other adapters.
        folder: written by `save_adapter` or by peft.
        name: how to call the adapter.

    Raises:
        AdapterError: not a LoRA adapter, or made for another model; says which layers differ.
    """
    folder = Path(folder)
    config = read_peft_config(folder)
    try:
        tensors = read_weights(folder / WEIGHTS)
    except UserError as error:
        raise AdapterError(str(error)) from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    ours: dict[str, list[tuple[str, Stored]]] = {}
    for layer_name, where in _stored_names(model).items():
        ours.setdefault(where.name, []).append((layer_name, where))
    modules = sorted({_module_of(key) for key in tensors})
    _check_modules(modules, ours, config, folder)
    layers = adaptable_layers(model)
    parts: dict[str, dict[str, Tensor]] = {}
    configs: dict[str, LoRAConfig] = {}
    wrong = []
    for module in modules:
        whole, layer_config = _tensors_of(tensors, module, config), config.of_layer(module)
        names = [layer_name for layer_name, _ in ours[module]]
        bases = [layer.base if isinstance(layer := layers[name], LoRALinear) else layer for name in names]
        shape = sum(base.out_features for base in bases), bases[0].in_features
        wrong += _differences(names[0], whole, layer_config.rank, shape)
        for layer_name, where in ours[module]:
            parts[layer_name], configs[layer_name] = _piece_of(whole, where), layer_config
    if wrong:
        raise AdapterError(f"{folder} was made for another model; these layers differ: {', '.join(wrong[:5])}")
    attach_adapters(model, configs, name)
    with torch.no_grad():
        for layer_name, layer in lora_layers(model):
            for parameter_name, tensor in parts.get(layer_name, {}).items():
                layer.adapters[name].get_parameter(parameter_name).copy_(tensor)
    return config.default


# --- names ------------------------------------------------------------------------------------


def _stored_names(model: GPTModel) -> dict[str, Stored]:
    """Layer → the module of the Hugging Face class that holds it; our own names where there is no such class."""
    layers = adaptable_layers(model)
    try:
        tensors = family_of_model(model.config).tensors(model.config)
    except PretrainedError:
        return {name: Stored(name) for name in layers}
    return {
        name: replace(stored, name=stored.name.removesuffix(".weight"))
        for name in layers
        if (stored := tensors.get(f"{name}.weight")) is not None
    }


def _module_of(key: str) -> str:
    """The module that a tensor of the file belongs to."""
    for ending in (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"):
        if key.startswith(PREFIX) and key.endswith(ending):
            return key.removeprefix(PREFIX).removesuffix(ending)
    raise AdapterError(f"the adapter holds {key}, which is not a LoRA matrix of a linear layer")


# --- writing ----------------------------------------------------------------------------------


def _plain(adapter: LoRAAdapter) -> tuple[Tensor, Tensor, Tensor | None]:
    return adapter.lora_a, adapter.lora_b, adapter.magnitude


def _fuse(where: Stored, adapters: dict[int, LoRAAdapter]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The corrections of several matrices as one correction of the matrix that they are in the file.

    A file has one alpha a layer and scales by alpha / rank; the fused rank is the sum of all. So B is multiplied by
    what the scale loses.
    """
    count = len(where.sizes)
    if sorted(adapters) != list(range(count)):
        raise AdapterError(
            f"{where.name} is one matrix in the file: adapt all {count} of its parts in a layer, or none"
        )
    ordered = [adapters[piece] for piece in range(count)]
    magnitudes: list[Tensor] = [adapter.magnitude for adapter in ordered if adapter.magnitude is not None]
    magnitude = where.join_rows(magnitudes) if len(magnitudes) == count else None
    first = ordered[0]
    if all(torch.equal(first.lora_a, part.lora_a) and part.config == first.config for part in ordered):
        return first.lora_a, where.join_rows([part.lora_b for part in ordered]), magnitude  # as loaded from such a file
    stacked = torch.cat([part.lora_a for part in ordered])
    written = replace(first.config, rank=stacked.shape[0]).scale
    blocks = torch.block_diag(*(part.lora_b * (part.config.scale / written) for part in ordered))
    return stacked, where.join_rows(blocks.split([len(part.lora_b) for part in ordered])), magnitude


# --- reading ----------------------------------------------------------------------------------


def _check_modules(
    modules: list[str], ours: dict[str, list[tuple[str, Stored]]], config: PeftConfig, folder: Path
) -> None:
    """Check that the layers of the file are layers of the model, and those that its configuration names."""
    if foreign := [module for module in modules if module not in ours]:
        raise AdapterError(
            f"{folder} was made for another model: there is no {', '.join(foreign[:3])}"
            + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        )
    if unused := [module for module in modules if not config.is_target(module)]:
        raise AdapterError(f"{folder} has matrices for {unused[0]}, which the target_modules of {CONFIG} leave out")
    if lacking := [module for module in ours if config.is_target(module) and module not in modules]:
        raise AdapterError(f"{folder} lacks the matrices of {lacking[0]}, which the target_modules of {CONFIG} name")


def _tensors_of(tensors: dict[str, Tensor], module: str, config: PeftConfig) -> dict[str, Tensor]:
    """The tensors of a module of the file, under our names."""
    names = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
    if config.default.dora:
        names["magnitude"] = "lora_magnitude_vector"
    elif f"{PREFIX}{module}.lora_magnitude_vector" in tensors:
        raise AdapterError(f"the adapter has lora_magnitude_vector for {module}, and {CONFIG} does not say use_dora")
    try:
        return {ours: tensors[f"{PREFIX}{module}.{theirs}"] for ours, theirs in names.items()}
    except KeyError as error:
        raise AdapterError(f"the adapter lacks {error}") from None


def _differences(name: str, found: dict[str, Tensor], rank: int, shape: tuple[int, int]) -> list[str]:
    """What is wrong with the shapes of a module: one column or one number would be stretched to fit, silently.

    Args:
        name: of the layer.
        found: see `_tensors_of`.
        rank: by the configuration.
        shape: (out, in) of the matrix that is adapted.
    """
    a, b = found["lora_a"], found["lora_b"]
    if a.ndim == b.ndim == 2 and (b.shape[0], a.shape[1]) != shape:
        return [f"{name} ({b.shape[0]} × {a.shape[1]} in the file, {shape[0]} × {shape[1]} here)"]
    expected = {"lora_a": (rank, shape[1]), "lora_b": (shape[0], rank), "magnitude": (shape[0],)}
    return [
        f"{name} ({part} is {_size(tensor.shape)} in the file, and {_size(expected[part])} by {CONFIG})"
        for part, tensor in found.items()
        if tensor.shape != expected[part]
    ]


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def _piece_of(tensors: dict[str, Tensor], where: Stored) -> dict[str, Tensor]:
    """Our tensors of one layer, cut out of a fused one if needed."""
    return {key: value if key == "lora_a" else where.take_rows(value) for key, value in tensors.items()}

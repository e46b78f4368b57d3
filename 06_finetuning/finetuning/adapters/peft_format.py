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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
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
from groundwork.tensor_files import save_tensors
from transformer.gpt_model import GPTModel
from transformer.pretrained import family_of_model
from transformer.pretrained_family import PretrainedError, Stored

PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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
        AdapterError: the model has no such adapter, or the folder cannot be written.
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
    ranks: dict[str, int] = {}
    for hf_name, adapters in parts.items():
        a, b, magnitude = _fuse(fused[hf_name], adapters) if hf_name in fused else _plain(adapters[0])
        tensors[f"{PREFIX}{hf_name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{hf_name}.lora_B.weight"] = b
        if magnitude is not None:
            tensors[f"{PREFIX}{hf_name}.lora_magnitude_vector"] = magnitude
        ranks[hf_name] = a.shape[0]
    config = next(iter(next(iter(parts.values())).values())).config
    transposed = any(where.transposed for where in stored.values())
    content = _config_content(config, ranks, transposed, base_model)
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
    config, alphas = _read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    stored = _stored_names(model)
    ours: dict[str, list[tuple[str, Stored]]] = {}
    for layer_name, where in stored.items():
        ours.setdefault(where.name, []).append((layer_name, where))
    modules = sorted({_module_of(key) for key in tensors})
    if foreign := [module for module in modules if module not in ours]:
        raise AdapterError(
            f"{folder} was made for another model: there is no {', '.join(foreign[:3])}"
            + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        )
    parts: dict[str, dict[str, Tensor]] = {}
    configs: dict[str, LoRAConfig] = {}
    for module in modules:
        for layer_name, where in ours[module]:
            parts[layer_name] = _part_of(tensors, module, where)
            rank = parts[layer_name]["lora_a"].shape[0]
            configs[layer_name] = replace(config, rank=rank, alpha=alphas.get(module, config.alpha))
    _check_shapes(model, parts, folder)
    attach_adapters(model, configs, name)
    with torch.no_grad():
        for layer_name, layer in lora_layers(model):
            for parameter_name, tensor in parts.get(layer_name, {}).items():
                layer.adapters[name].get_parameter(parameter_name).copy_(tensor)
    return config


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
    a = ordered[0].lora_a
    if all(torch.equal(a, adapter.lora_a) for adapter in ordered):  # as loaded from such a file
        return a, where.join_rows([adapter.lora_b for adapter in ordered]), magnitude
    stacked = torch.cat([adapter.lora_a for adapter in ordered])
    scale = ordered[0].config.scale / replace(ordered[0].config, rank=stacked.shape[0]).scale
    blocks = torch.block_diag(*(adapter.lora_b for adapter in ordered)) * scale
    return stacked, where.join_rows(blocks.split([len(adapter.lora_b) for adapter in ordered])), magnitude


def _config_content(config: LoRAConfig, ranks: dict[str, int], transposed: bool, base_model: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "rank_pattern": {module: rank for module, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {},
    }


# --- reading ----------------------------------------------------------------------------------


def _read_config(folder: Path) -> tuple[LoRAConfig, dict[str, float]]:
    """The configuration, and the layers with a different alpha."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if content.get("peft_type") != "LORA":
            raise AdapterError(f"{folder} holds an adapter of type {content.get('peft_type')}; only LORA is supported")
        if content.get("bias", "none") != "none" or content.get("modules_to_save"):
            raise AdapterError(f"{folder} changes biases or whole layers besides; only LoRA matrices are supported")
        config = LoRAConfig(
            rank=content["r"],
            alpha=content["lora_alpha"],
            dropout=content.get("lora_dropout", 0.0),
            rank_stabilised=content.get("use_rslora", False),
            dora=content.get("use_dora", False),
        )
        return config, dict(content.get("alpha_pattern") or {})
    except FileNotFoundError:
        raise AdapterError(f"{folder} is not an adapter: it has no {CONFIG}") from None
    except (OSError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise AdapterError(f"{folder / CONFIG} is damaged: {error}") from None


def _part_of(tensors: dict[str, Tensor], module: str, where: Stored) -> dict[str, Tensor]:
    """Our tensors of one layer, cut out of a fused one if needed."""
    try:
        a, b = (tensors[f"{PREFIX}{module}.lora_{which}.weight"] for which in "AB")
    except KeyError as error:
        raise AdapterError(f"the adapter lacks {error}") from None
    magnitude = tensors.get(f"{PREFIX}{module}.lora_magnitude_vector")
    part = {"lora_a": a, "lora_b": b}
    if magnitude is not None:
        part["magnitude"] = magnitude.flatten()
    return {key: value if key == "lora_a" else where.take_rows(value) for key, value in part.items()}


def _check_shapes(model: GPTModel, parts: dict[str, dict[str, Tensor]], folder: Path) -> None:
    wrong = []
    for layer_name, layer in adaptable_layers(model).items():
        if part := parts.get(layer_name):
            base = layer.base if isinstance(layer, LoRALinear) else layer
            found, expected = (part["lora_b"].shape[0], part["lora_a"].shape[1]), (base.out_features, base.in_features)
            if found != expected:
                wrong.append(f"{layer_name} ({found[0]} × {found[1]} in the file, {expected[0]} × {expected[1]} here)")
    if wrong:
        raise AdapterError(f"{folder} was made for another model; these layers differ: {', '.join(wrong[:5])}")

"""Read and write models in the Hugging Face format: real weights of the families in `FAMILIES`.

    model = load_pretrained("path/to/folder")        # or a hub name: "openai-community/gpt2"
    save_pretrained(model, "another/folder")         # transformers, vLLM and llama.cpp's converter read it

A folder contains `config.json` and the weights, in one safetensors file or in shards with an index.

python -m transformer.pretrained path/to/folder     # says what is in it, in the terms of this project
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from groundwork.files import read_json
from groundwork.tensor_files import require_weight
from groundwork.text_sources import TextError
from groundwork.user_errors import UserError, brief
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel, build_rotary
from transformer.pretrained_family import Family, PretrainedError, Stored, first_that_has_all_parts, unscaled_norm
from transformer.pretrained_gemma import GEMMA, GEMMA2, GEMMA3
from transformer.pretrained_gpt2 import GPT2
from transformer.pretrained_llama import LLAMA, MISTRAL, SMOLLM3
from transformer.pretrained_neox import GPT_NEOX
from transformer.pretrained_olmo2 import OLMO2
from transformer.pretrained_phi3 import PHI3
from transformer.pretrained_qwen import QWEN2, QWEN3
from transformer.size_check import require_possible_sizes
from transformer.weight_shards import INDEX, OpenShards, write_shards

# Where several have all parts of a model, the first one is written.
FAMILIES = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, PHI3, OLMO2, GEMMA, GEMMA2, GEMMA3, GPT_NEOX)


def load_pretrained(
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    context_length: int | None = None,
) -> GPTModel:
    """Load a model.

    Args:
        source: a folder, or a name on the Hugging Face hub (which needs the package huggingface_hub).
        dtype: type of the weights in memory.
        device: where to put them.
        context_length: a shorter context than that of the model, to save memory; None for that of the model.

    Returns:
        The model, in evaluation mode.

    Raises:
        PretrainedError: the source is not a folder of a supported family, it is incomplete or damaged, or the model is
            larger than the memory.
    """
    folder = find_folder(source)
    family, config = read_config(folder)
    if context_length is not None:
        if not 1 <= context_length <= config.context_length:
            raise PretrainedError(
                f"context_length must be between 1 and the model's {config.context_length}, got {context_length}"
            )
        if config.positions == "rope":  # a learned table keeps its length: it is a weight
            config = dataclasses.replace(config, context_length=context_length)
    with ExitStack() as stack:
        shards = OpenShards(folder, stack)
        config = _with_stored_head(config, family, shards)
        try:
            require_possible_sizes(config, shards.files, dtype.itemsize)
        except ValueError as error:
            raise PretrainedError(f"{folder}: {error}") from None
        with torch.device("meta"):  # shapes without memory: the weights come from the files
            model = GPTModel(config)
        try:
            weights = dict(_read_tensors(shards, family, config, dtype))
        except UserError as error:
            raise PretrainedError(str(error)) from None
        _check_shapes(model, weights, folder)
        model.load_state_dict(weights, assign=True, strict=False)
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    if config.positions == "rope":
        model.rotary, model.local_rotary = build_rotary(config)  # computed, not loaded
    return model.to(device).eval()


def save_pretrained(
    model: GPTModel, folder: str | Path, dtype: torch.dtype | None = None, max_shard_bytes: int = 5 * 10**9
) -> Path:
    """Write a model.

    Args:
        model: a model whose parts a Hugging Face class has.
        folder: where to write; files of the same names are replaced.
        dtype: type of the stored weights; None for that of the model.
        max_shard_bytes: larger models are split into several files.

    Returns:
        The folder.

    Raises:
        PretrainedError: no class has the model's parts, or the files cannot be written.
    """
    folder, config = Path(folder), model.config
    family = family_of_model(config)
    dtype = dtype or model.token_embedding.weight.dtype
    stored = _stored_tensors(model, family, dtype)
    temporary = folder / f".writing.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        names = write_shards(stored, temporary, max_shard_bytes)
        content = json.dumps(config_content(config, dtype), indent=2) + "\n"
        (temporary / "config.json").write_text(content, encoding="utf-8")
        for stale in (*folder.glob("model*.safetensors"), folder / INDEX):
            stale.unlink(missing_ok=True)
        for name in (*names, "config.json"):
            os.replace(temporary / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"the model could not be written to {folder}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def config_content(config: GPTConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What `config.json` says of a model.

    Args:
        config: the model.
        dtype: type of the stored weights.

    Raises:
        PretrainedError: no class has the model's parts.
    """
    family = family_of_model(config)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.write_config(config),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def read_config(folder: Path) -> tuple[Family, GPTConfig]:
    """The family and configuration that a folder's `config.json` describes.

    Raises:
        PretrainedError: there is none, or it is not supported.
    """
    path = folder / "config.json"
    if not path.exists():
        raise PretrainedError(f"{folder} is not a Hugging Face model: it has no config.json")
    try:
        hf = read_json(path)
    except TextError as error:
        raise PretrainedError(str(error)) from None
    try:
        family = family_of_file(hf)
        return family, family.configuration(hf)
    except ValueError as error:
        raise PretrainedError(f"{path}: {error}") from None


def family_of_file(hf: dict[str, Any]) -> Family:
    """The family that a `config.json` belongs to.

    Raises:
        PretrainedError: it belongs to none of the supported families, or says that it belongs to two.
    """
    named, model_type = hf.get("architectures") or [], hf.get("model_type")
    if not isinstance(named, list) or len(named) > 1:
        raise PretrainedError(f"config.json has architectures: {brief(named)}; it should be a list of one name")
    for family in FAMILIES:
        if named == [family.architecture] and model_type not in (None, family.model_type):
            raise PretrainedError(f"config.json has {family.architecture} with the model_type {brief(model_type)}")
        if named == [family.architecture] or (not named and model_type == family.model_type):
            return family
    found = brief(named[0] if named else model_type or "nothing", quotes=False)
    supported = ", ".join(family.architecture for family in FAMILIES)
    raise PretrainedError(f"config.json describes {found}; supported are {supported}")


def family_of_model(config: GPTConfig) -> Family:
    """The family that has all parts of a model.

    Raises:
        PretrainedError: none has; the message says which parts the nearest one lacks.
    """
    return first_that_has_all_parts(FAMILIES, config, "no Hugging Face class has these parts")


def find_folder(source: str | Path) -> Path:
    """The folder itself, or a folder in the cache of the hub, to which the files are downloaded.

    Raises:
        PretrainedError: the source is neither a folder nor a name that the hub knows.
    """
    path = Path(source)
    if path.is_dir():
        return path
    name = str(source)
    if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name:
        raise PretrainedError(f"{source} is not a folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise PretrainedError(
            f"there is no folder {source}; to download {source} from the Hugging Face hub: pip install huggingface_hub"
        ) from None
    patterns = ["*.json", "*.safetensors", "merges.txt", "vocab.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # from the network, the hub or the name; the classes differ between versions
        reason = str(error).strip().splitlines()[0]
        raise PretrainedError(f"there is no folder {source}, and the hub did not give it: {reason}") from None


# --- reading ----------------------------------------------------------------------------------


def _with_stored_head(config: GPTConfig, family: Family, shards: OpenShards) -> GPTConfig:
    """The configuration with a head of its own where the file has one that is not the token embedding.

    The flag in `config.json` may say that both are one table and be wrong: it may be left over from the base model, or
    missing where the class has it by default. The file shows what was trained. transformers believes the file as well.
    """
    if not config.tie_embeddings:
        return config
    untied = dataclasses.replace(config, tie_embeddings=False)
    names = family.tensors(untied)
    head, table = (shards.find(names[name].name) for name in ("head.weight", "token_embedding.weight"))
    if head is None or table is None or torch.equal(shards.read(head), shards.read(table)):
        return config
    return untied


def _read_tensors(
    shards: OpenShards, family: Family, config: GPTConfig, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors in our shapes under our names, one at a time."""
    used = set()
    for ours, stored in family.tensors(config).items():
        name = shards.find(stored.name)
        if name is None:
            raise PretrainedError(f"{shards.folder} lacks the tensor {stored.name}")
        used.add(name)
        tensor = require_weight(shards.read(name), name, shards.folder)
        yield ours, stored.take(tensor).to(dtype).contiguous()
    left = [name for name in sorted(shards.names - used) if not name.endswith(family.ignored)]
    if config.tie_embeddings:
        left = [name for name in left if name != "lm_head.weight"]  # a second copy of the token embedding
    if left:
        raise PretrainedError(f"{shards.folder} has tensors that {family.architecture} does not: {', '.join(left[:5])}")


def _check_shapes(model: GPTModel, weights: dict[str, Tensor], folder: Path) -> None:
    for name, expected in model.state_dict().items():
        if name == "head.weight" and model.config.tie_embeddings:
            continue
        if weights[name].shape != expected.shape:
            raise PretrainedError(
                f"{folder}: {name} has shape {tuple(weights[name].shape)}, config.json says {tuple(expected.shape)}"
            )


# --- writing ----------------------------------------------------------------------------------


def _stored_tensors(model: GPTModel, family: Family, dtype: torch.dtype) -> dict[str, Tensor]:
    ours = model.state_dict()
    parts: dict[str, list[tuple[Stored, Tensor]]] = {}
    for name, stored in family.tensors(model.config).items():
        tensor = ours[name] if name in ours else unscaled_norm(model.config, name)
        parts.setdefault(stored.name, []).append((stored, tensor.detach().to("cpu", dtype)))
    out = {}
    for name, pieces in parts.items():
        pieces.sort(key=lambda piece: piece[0].piece or 0)
        out[name] = pieces[0][0].join([piece for _, piece in pieces])
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe a Hugging Face folder, or a model on the hub.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m transformer.pretrained", description="Load a Hugging Face model and say what it is."
    )
    parser.add_argument("source", help="a folder, or a name on the hub such as openai-community/gpt2")
    source = parser.parse_args(arguments).source
    try:
        folder = find_folder(source)
        family, config = read_config(folder)
        model = load_pretrained(folder)
    except PretrainedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{family.architecture}, {model.num_parameters():,} parameters\n")
    defaults = GPTConfig()
    for name, value in config.to_dict().items():
        if value != getattr(defaults, name):
            print(f"  {name:16} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

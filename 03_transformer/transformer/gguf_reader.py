"""Read models from GGUF, the one-file format of llama.cpp: sizes, weights of many kinds, tokenizer and template.

    model = load_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")

The package `gguf` reads the container. What the bytes mean is in `gguf_blocks`, where the tensors are in `gguf_layout`.

python -m transformer.gguf_reader FILE.gguf     # says what is in it
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformer.config import GPTConfig
from transformer.gguf_blocks import KINDS, dequantize
from transformer.gguf_families import GGUFFamily, gguf_family
from transformer.gguf_layout import (
    ROPE_FREQUENCIES,
    from_stored,
    read_sizes,
    scaling_of_frequencies,
    stored_tensors,
)
from transformer.gpt_model import GPTModel, build_rotary
from transformer.pretrained_family import PretrainedError
from transformer.size_check import require_possible_sizes


class GGUFFile:
    """An open file.

    Args:
        path: of the file.

    Raises:
        PretrainedError: it is missing, cut short, or not a GGUF file.
    """

    def __init__(self, path: Path | str):
        from gguf import GGUFReader

        self.path = Path(path)
        try:
            reader = GGUFReader(self.path)
            self.metadata: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        except FileNotFoundError:
            raise PretrainedError(f"there is no file {self.path}") from None
        except Exception as error:  # the reader checks little, and fails in as many ways as there are damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PretrainedError(f"{self.path} is not a whole GGUF file: {reason}") from None
        if reader.byte_order != "I":  # "I" is this machine's order
            raise PretrainedError(
                f"{self.path} was written in another byte order than this machine's: convert it first, with "
                "gguf-convert-endian from the package gguf"
            )
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._tensors)

    def kinds(self) -> Counter[str]:
        """How many weights there are of each kind."""
        counts: Counter[str] = Counter()
        for tensor in self._tensors.values():
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
        return counts

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, the longest stretch in memory last.

        Raises:
            PretrainedError: there is no such tensor.
        """
        if name not in self._tensors:
            raise PretrainedError(f"{self.path} lacks the tensor {name}")
        return tuple(int(size) for size in reversed(self._tensors[name].shape))  # the file has the fastest axis first

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor in float32.

        Raises:
            PretrainedError: there is no such tensor, or its weights are of a kind that is not read.
        """
        shape, stored = self.shape(name), self._tensors[name]
        try:
            return torch.from_numpy(dequantize(stored.data, stored.tensor_type.name, shape))
        except ValueError as error:
            raise PretrainedError(f"{self.path}, {name}: {error}") from None

    def model_config(self) -> tuple[GGUFFamily, GPTConfig]:
        """The architecture and the configuration of the model.

        Raises:
            PretrainedError: they are not supported, or contradict the tensors.
        """
        try:
            family = gguf_family(self.metadata["general.architecture"])
            config = read_sizes(family, self.metadata, self.names, self.shape("token_embd.weight")[0])
            if ROPE_FREQUENCIES in self._tensors:
                config = replace(config, rope_scaling=scaling_of_frequencies(config, self.read(ROPE_FREQUENCIES)))
            require_possible_sizes(config, [self.path])
            return family, config
        except KeyError as error:
            raise PretrainedError(f"{self.path} lacks {error}") from None
        except (ValueError, TypeError, ArithmeticError) as error:
            where = "" if str(self.path) in str(error) else f"{self.path}: "
            raise PretrainedError(f"{where}{error}") from None


def load_gguf(
    source: Path | str | GGUFFile, dtype: torch.dtype = torch.float32, context_length: int | None = None
) -> GPTModel:
    """Load a model.

    Args:
        source: the file.
        dtype: type of the weights in memory, whatever their kind in the file.
        context_length: a shorter context than that of the model, to save memory; None for that of the model.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        PretrainedError: the file is damaged, or holds a model or a kind of weights that is not supported.
    """
    file = source if isinstance(source, GGUFFile) else GGUFFile(source)
    family, config = file.model_config()
    if context_length is not None and config.positions == "rope":
        if not 1 <= context_length <= config.context_length:
            raise PretrainedError(
                f"context_length must be between 1 and the model's {config.context_length}, got {context_length}"
            )
        config = replace(config, context_length=context_length)
    with torch.device("meta"):  # shapes without memory: the weights come from the file
        model = GPTModel(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights = dict(_tensors(file, family, config, expected, dtype))
    model.load_state_dict(weights, assign=True, strict=False)
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    if config.positions == "rope":
        model.rotary, model.local_rotary = build_rotary(config)  # computed, not loaded
    return model.eval()


def _tensors(
    file: GGUFFile, family: GGUFFamily, config: GPTConfig, expected: dict[str, torch.Size], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Tensors in our shapes under our names, one at a time."""
    stored = stored_tensors(family, config)
    for name, where in stored.items():
        rows = expected[name][0] if where.piece is None else sum(where.sizes) * where.groups
        shape = (rows, *expected[name][1:])
        if file.shape(where.name) != shape:  # before anything is read: a wrong size could be any size
            raise PretrainedError(f"{file.path}: {where.name} has shape {file.shape(where.name)}, its keys say {shape}")
    if left := file.names - {where.name for where in stored.values()} - {ROPE_FREQUENCIES}:
        raise PretrainedError(
            f"{file.path} has tensors that {family.architecture} does not: {', '.join(sorted(left)[:5])}"
        )
    for name, where in stored.items():
        tensor = where.take_rows(file.read(where.name))
        yield name, from_stored(family, config, name, tensor).to(dtype).contiguous()


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what a file holds, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m transformer.gguf_reader", description="Say what a GGUF file holds."
    )
    parser.add_argument("file", help="such as SmolLM2-135M-Instruct.Q4_1.gguf")
    try:
        file = GGUFFile(parser.parse_args(arguments).file)
        family, config = file.model_config()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    total = sum(file.kinds().values())
    print(f"{file.metadata.get('general.name', file.path.name)}, {family.architecture}, {total:,} parameters\n")
    for kind, count in file.kinds().most_common():
        num_bytes, num_weights, _ = KINDS.get(kind, (0, 1, None))
        print(f"  {kind:16} {count:>13,} weights, {count * num_bytes / num_weights / 2**20:,.1f} MiB")
    defaults = GPTConfig()
    print()
    for name, value in config.to_dict().items():
        if value != getattr(defaults, name):
            print(f"  {name:16} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

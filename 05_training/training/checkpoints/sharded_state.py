"""Optimizer state in shards: every process writes its piece and reads what it needs, however many processes there are.

`torch.distributed.checkpoint` does the book-keeping; the files are safetensors, not its usual pickles, so that
nothing in a checkpoint can run code.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from training.checkpoints.checkpoint import SHARDS


def save_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, some of them spread over the processes; every process must call this.

    Args:
        folder: of the checkpoint; the shards go into a folder in it.
        tensors: DTensors and tensors that are the same everywhere.

    Raises:
        OSError: some process could not write its piece; raised in all of them.
    """
    writer = HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    try:
        save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:  # not an `Exception`, so it would pass through every handler
        rank, (cause, _) = min(error.failures.items())
        raise OSError(f"process {rank}: {cause}") from None


def load_shards(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read optimizer state, spread over the processes as the model is now, or whole for a model that is not spread.

    Args:
        folder: of the checkpoint.
        model: a state with the shape of a parameter is spread as that parameter is.
    """
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        parameter = parameters.get(name.removeprefix("optimizer.").rpartition(".")[0])
        size = getattr(entry, "size", torch.Size())
        like_parameter = parameter is not None and parameter.shape == size
        tensors[name] = torch.zeros_like(parameter) if like_parameter else torch.zeros(size)  # type: ignore[arg-type]
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder / SHARDS)))
    return tensors

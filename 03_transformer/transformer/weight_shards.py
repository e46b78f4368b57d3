"""The safetensors files of a Hugging Face folder: one, or several and the index that says which tensor is where."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundwork.files import read_json
from groundwork.tensor_files import save_tensors
from groundwork.text_sources import TextError
from groundwork.user_errors import brief
from transformer.pretrained_family import PretrainedError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class OpenShards:
    """The open files of a folder. A tensor is read when it is asked for.

    Args:
        folder: the folder.
        stack: closes the files.

    Raises:
        PretrainedError: a file is missing or damaged, or two of them have a tensor of the same name.
    """

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder = folder
        self.files = [folder / name for name in _file_names(folder)]
        self._opened: dict[str, Any] = {}
        for file in self.files:
            if not file.is_file():
                raise PretrainedError(f"{folder} is incomplete: {file.name} is missing")
            try:
                opened = stack.enter_context(safe_open(file, framework="pt"))
                names = opened.keys()
            except (SafetensorError, OSError) as error:
                raise PretrainedError(f"the weights in {folder} are damaged: {file.name}: {error}") from None
            if twice := self._opened.keys() & set(names):
                raise PretrainedError(f"{folder} has the tensor {min(twice)} in two files; remove the wrong one")
            self._opened.update(dict.fromkeys(names, opened))

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._opened)

    def find(self, name: str) -> str | None:
        """The name under which the files have a tensor; None where they lack it.

        Files of a model without a head lack the prefix of the class with a head: `transformer.wte` is `wte`.
        """
        candidates = (name, name.partition(".")[2])
        return next((candidate for candidate in candidates if candidate in self._opened), None)

    def read(self, name: str) -> Tensor:
        """A tensor, by one of `names`."""
        tensor: Tensor = self._opened[name].get_tensor(name)
        return tensor


def _file_names(folder: Path) -> list[str]:
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise PretrainedError(f"{folder} has no {SINGLE} and no {INDEX}; other formats of weights are not read")
        return [SINGLE]
    try:
        places = read_json(folder / INDEX).get("weight_map")
    except TextError as error:
        raise PretrainedError(str(error)) from None
    if not isinstance(places, dict) or not places:
        raise PretrainedError(f"{folder / INDEX} has no weight_map that says which tensor is in which file")
    names = list(places.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:  # a path could lead out of the folder
            raise PretrainedError(
                f"{folder / INDEX} names {brief(name)}, which is not the name of a file in the folder"
            )
    return sorted(set(names))


def write_shards(tensors: dict[str, Tensor], folder: Path, max_bytes: int) -> list[str]:
    """Write one file, or several and their index.

    Args:
        tensors: contiguous, on the CPU.
        folder: an empty folder.
        max_bytes: of one file; a tensor that is larger has a file of its own.

    Returns:
        The names of the files.

    Raises:
        OSError, SafetensorError: they cannot be written.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    metadata = {"format": "pt"}  # transformers refuses files without it
    if len(shards) == 1:
        save_tensors(tensors, folder / SINGLE, metadata)
        return [SINGLE]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_tensors(shard, folder / name, metadata)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, INDEX]

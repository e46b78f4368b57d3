"""Checkpoints that are whole or absent, and cannot run code: find them, verify them, load them.

A checkpoint is a folder `step_00000400` with weights and training state in safetensors, the configuration in YAML, the
tokenizer in JSON, and a manifest with the SHA-256 of every file. Nothing in it is pickled. `saving` writes it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from groundwork.files import read_json, read_yaml
from groundwork.tensor_files import read_weights
from groundwork.text_sources import TextError
from groundwork.user_errors import UserError, brief, is_finite
from tokenizer.interface import Tokenizer
from tokenizer.loading import load_tokenizer
from training.checkpoints.manifest import MANIFEST, sha256_of
from training.checkpoints.weights import set_weights
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.size_check import require_possible_sizes

STEP_FOLDER = re.compile(r"step_(\d{8})")
T = TypeVar("T")
ATTEMPTS = 20  # to read from a run that removes checkpoints at the same time
QUANTIZATION = "quantization.json"  # in a checkpoint that stage 7 wrote with weights in few bits
SHARDS = "shards"  # the folder in a checkpoint for what is spread over several processes


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not for this model."""


class RemovedError(CheckpointError):
    """A checkpoint that was removed while it was read, because a run that goes on keeps only the newest."""


@dataclass(frozen=True)
class LoadedModel:
    """What inference needs from a checkpoint."""

    model: GPTModel
    tokenizer: Tokenizer
    folder: Path


def best_checkpoint(run_folder: Path) -> Path | None:
    """The checkpoint of a run with the lowest validation loss; None where none was measured that is a finite number."""
    losses = dict[Path, float]()
    for folder in list_checkpoints(run_folder):
        with contextlib.suppress(TextError):
            loss = read_json(folder / "state.json").get("validation_loss")
            if isinstance(loss, float | int) and is_finite(loss):
                losses[folder] = loss
    return min(losses, key=lambda folder: losses[folder]) if losses else None


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    if not run_folder.is_dir():
        return []
    return sorted(path for path in run_folder.iterdir() if path.is_dir() and STEP_FOLDER.fullmatch(path.name))


def verify_checkpoint(folder: Path) -> None:
    """Check every file against the manifest.

    Raises:
        CheckpointError: a file is missing, was cut short or changed, or there is no manifest.
    """
    if not (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}")
    try:
        expected = read_json(folder / MANIFEST)
    except TextError as error:
        if not (folder / MANIFEST).exists():
            raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}") from None
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}") from None
    required = {"model.safetensors", "config.yaml", "tokenizer.json"}
    for name in sorted(required | expected.keys()):
        path = folder / name
        inside = Path(name).parent in (Path(), Path(SHARDS)) and ".." not in Path(name).parts
        if not inside or not path.is_file():
            raise CheckpointError(f"{folder} is incomplete: {name} is missing")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        if found != expected.get(name):
            raise CheckpointError(f"{path} is damaged or was changed: its SHA-256 is not the one in {MANIFEST}")


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint that a user means: a checkpoint folder, the newest valid one of a run, or RUN/best.

    Raises:
        CheckpointError: there is none, or the named one is damaged. Where only the newest of a run
            is damaged, the one before it is returned and a warning is printed.
    """
    path = Path(path).expanduser()
    if path.name == "best" and not path.exists():
        while (best := best_checkpoint(path.parent)) is not None:
            with contextlib.suppress(RemovedError):
                return _verified(best)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}; train one first: make train")
    if (path / MANIFEST).exists() or STEP_FOLDER.fullmatch(path.name):
        return _verified(path)
    folder, problems = _newest_whole(path)
    if folder is not None:
        for problem in problems:
            print(f"warning: {problem}; using {folder.name} instead")
        return folder
    if problems:
        raise CheckpointError(problems[0])
    if (path / "adapter").is_dir():
        raise CheckpointError(
            f"{path} has an adapter and no whole model, as QLoRA leaves it; merge it with its base: "
            f"python 09_deployment/export.py --checkpoint BASE --adapter {path / 'adapter'} --to hf"
        )
    raise CheckpointError(f"there is no checkpoint in {path}; train one first: make train")


def _verified(folder: Path) -> Path:
    try:
        verify_checkpoint(folder)
    except CheckpointError:
        if folder.exists():
            raise
        raise RemovedError(f"{folder} was just removed by the run that goes on there; name the run's folder") from None
    return folder


def _newest_whole(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with those after it."""
    for _ in range(ATTEMPTS):
        problems: list[str] = []
        with contextlib.suppress(RemovedError):  # there are newer ones by now
            for folder in reversed(list_checkpoints(run_folder)):
                try:
                    return _verified(folder), problems
                except CheckpointError as error:
                    if isinstance(error, RemovedError):
                        raise
                    problems.append(str(error))
            break
    return None, problems


def read_checkpoint(path: Path | str, read: Callable[[Path], T]) -> T:
    """Find a checkpoint and read from it. If the run that goes on there removes it meanwhile, read the newest one.

    Args:
        path: see `find_checkpoint`.
        read: is given the folder of the checkpoint.

    Raises:
        CheckpointError: see `find_checkpoint`; or what `read` raises.
    """
    for attempt in range(1, ATTEMPTS + 1):
        folder = find_checkpoint(path)
        try:
            return read(folder)
        except (CheckpointError, OSError):
            if folder.exists() or attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def newest_run(checkpoints: Path | str = "checkpoints") -> Path:
    """The run whose newest checkpoint is the most recent one.

    Raises:
        CheckpointError: nothing was trained yet.
    """
    root = Path(checkpoints)
    candidates = [found[-1] for run in root.iterdir() if (found := list_checkpoints(run))] if root.is_dir() else []
    if not candidates:
        raise CheckpointError(f"there is no checkpoint in {root}; train one first: make train")
    return max(candidates, key=_written).parent


def _written(folder: Path) -> float:
    """When a checkpoint was written, in seconds since 1970; -inf where it is not whole or was just removed."""
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return -math.inf


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Load the model and its tokenizer for inference.

    Args:
        path: a run's folder or a checkpoint's.
        device: where to put the weights.

    Raises:
        CheckpointError: missing, damaged or inconsistent.
    """
    return read_checkpoint(path, lambda folder: read_model(folder, device))


def read_model(folder: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Load the model and its tokenizer from a checkpoint that was found, and so verified, before."""
    if (folder / QUANTIZATION).exists():
        raise CheckpointError(
            f"{folder} is quantized, which is for inference here; give the checkpoint that it was made from"
        )
    model, tokenizer = build_model(folder)
    load_weights(model, folder)
    return LoadedModel(model.to(device).eval(), tokenizer, folder)


def build_model(folder: Path) -> tuple[GPTModel, Tokenizer]:
    """The model of a checkpoint before its weights are loaded, and its tokenizer.

    Raises:
        CheckpointError: the configuration or the tokenizer is damaged, the two do not fit each other, or the model is
            larger than its file or the memory.
    """
    settings = read_settings(folder)
    try:
        config = GPTConfig.from_dict(settings.get("model", {}))
        require_possible_sizes(config, [folder / "model.safetensors"])
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        require_rows(tokenizer, config.vocab_size)
        return GPTModel(config), tokenizer
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be used: {error}") from None


def require_rows(tokenizer: Tokenizer, rows: int | None) -> None:
    """Check that a model has a row for every id of its tokenizer. More rows are fine: vocabularies are often padded.

    Args:
        tokenizer: the model's.
        rows: the model's `vocab_size`.

    Raises:
        CheckpointError: it has not.
    """
    if tokenizer.vocab_size > (rows or 0):
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids, and the model has rows for {rows}: they do not belong "
            "together, or tokens were added to the tokenizer alone"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was made with, in YAML types.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        return read_yaml(path)
    except TextError as error:
        raise CheckpointError(f"the configuration cannot be read: {error}") from None


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Fill a model with the weights of a checkpoint; they are spread over the processes if the model is.

    Args:
        model: any module; its `model_weights` were saved.
        folder: of the checkpoint.

    Raises:
        CheckpointError: the weights are not those of this model, or not finite numbers.
    """
    path = Path(folder) / "model.safetensors"
    try:
        set_weights(model, read_weights(path))
    except UserError as error:
        raise CheckpointError(str(error)) from None
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise CheckpointError(f"{path} does not fit the model: {' '.join(str(error).split())}") from None


def finite_numbers(state: dict[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Some of the values of a state.

    Args:
        state: from `read_state`, or a part of it.
        names: of the values.

    Raises:
        KeyError, ValueError: one is missing, or is not a finite number.
    """
    for name in names:
        if not is_finite(state[name]):
            raise ValueError(f"{name} is {brief(state[name])}, not a finite number")
    return {name: state[name] for name in names}


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_checkpoint` was given as `state` and `state_tensors`."""
    try:
        return read_json(folder / "state.json"), load_file(folder / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be resumed from: {error}") from None

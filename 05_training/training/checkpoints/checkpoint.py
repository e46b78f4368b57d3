"""Checkpoints that are whole or absent, and cannot run code.

A checkpoint is a folder `step_00000400` with weights and training state in safetensors, the
configuration in YAML, the tokenizer in JSON, and a manifest with the SHA-256 of every file. It is
written under a temporary name, forced to disk, then renamed: a crash leaves the old checkpoints and
a temporary folder, never a half-written checkpoint that looks complete. Nothing in it is pickled. The newest few
are kept, and the one with the lowest validation loss.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from groundwork.files import read_json, read_yaml
from groundwork.tensor_files import save_tensors
from groundwork.text_sources import TextError
from tokenizer.interface import Tokenizer
from tokenizer.loading import load_tokenizer
from training.checkpoints.manifest import MANIFEST, force_to_disk, sha256_of, write_manifest
from training.checkpoints.weights import set_weights
from training.parallel.workers import Workers
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.size_check import require_possible_sizes

STEP_FOLDER = re.compile(r"step_(\d{8})")
SHARDS = "shards"  # the folder in a checkpoint for what is spread over several processes


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not for this model."""


@dataclass(frozen=True)
class LoadedModel:
    """What inference needs from a checkpoint."""

    model: GPTModel
    tokenizer: Tokenizer
    folder: Path


def save_checkpoint(
    run_folder: Path | str,
    step: int,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    settings: dict[str, Any],
    state: dict[str, Any] | None = None,
    state_tensors: dict[str, Tensor] | None = None,
    *,
    keep: int = 1,
    write_shards: Callable[[Path], None] | None = None,
    workers: Workers | None = None,
) -> Path:
    """Write the checkpoint of a step, then remove the oldest beyond `keep`, except the best.

    Args:
        run_folder: folder of the run; the checkpoint is a folder in it.
        step: optimizer steps taken.
        weights: see `model_weights`.
        tokenizer: the model's.
        settings: the run's configuration, in YAML types, with a `model` section.
        state: what resuming needs, in JSON types; none for a model that is not trained further. Its
            `validation_loss`, if any, decides which checkpoint is the best.
        state_tensors: what resuming needs as tensors.
        keep: how many of the newest checkpoints to keep.
        write_shards: writes what is spread over the processes into the folder that it is given.
        workers: the processes. Each must call this; the main one writes the rest.

    Raises:
        CheckpointError: the disk is full or not writable, or the model has too few rows for the tokenizer. Older
            checkpoints are untouched.
    """
    if "model" in settings:
        require_rows(tokenizer, settings["model"].get("vocab_size"))
    run_folder, workers = Path(run_folder), workers or Workers()
    folder = run_folder / f"step_{step:08d}"
    temporary = run_folder / f".{folder.name}.{workers.gather(os.getpid())[0]}.tmp"

    def begin() -> None:
        for abandoned in run_folder.glob(".step_*.tmp"):  # of a process that was killed while writing
            shutil.rmtree(abandoned, ignore_errors=True)
        temporary.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        save_tensors(weights, temporary / "model.safetensors")
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in (state_tensors or {}).items()}
        save_tensors(on_cpu, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(state or {}), encoding="utf-8")
        (temporary / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        tokenizer.save(temporary / "tokenizer.json")
        write_manifest(temporary)
        if not _replaceable(folder):
            shutil.rmtree(temporary)  # a whole checkpoint of this step is there already, and is kept
            return
        os.replace(temporary, folder)
        force_to_disk(run_folder)

    try:
        workers.on_main(begin)
        if write_shards is not None:
            write_shards(temporary)
        workers.on_main(write)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"the checkpoint of step {step} could not be written to {run_folder}: {error}") from None
    workers.on_main(lambda: _remove_old(run_folder, keep))
    return folder


def _replaceable(folder: Path) -> bool:
    """Whether a new checkpoint may take this name; a damaged one of that name is removed."""
    if not folder.exists():
        return True
    try:
        verify_checkpoint(folder)
    except CheckpointError:
        shutil.rmtree(folder)
        return True
    return False


def _remove_old(run_folder: Path, keep: int) -> None:
    kept = list_checkpoints(run_folder)
    best = best_checkpoint(run_folder)
    for old in kept[:-keep]:
        if old != best:
            # Renamed first: if the process is killed half-way, this must not look like a checkpoint that lost files.
            doomed = old.with_name(f".{old.name}.removed.tmp")
            os.replace(old, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def best_checkpoint(run_folder: Path) -> Path | None:
    """The checkpoint of a run with the lowest validation loss; None where none was measured."""
    losses = {}
    for folder in list_checkpoints(run_folder):
        with contextlib.suppress(OSError, ValueError):
            loss = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("validation_loss")
            if loss is not None:
                losses[folder] = float(loss)
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
        if sha256_of(path) != expected.get(name):
            raise CheckpointError(f"{path} is damaged or was changed: its SHA-256 is not the one in {MANIFEST}")


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint that a user means: a checkpoint folder, the newest valid one of a run, or RUN/best.

    Raises:
        CheckpointError: there is none, or the named one is damaged. Where only the newest of a run
            is damaged, the one before it is returned and a warning is printed.
    """
    path = Path(path)
    if path.name == "best" and not path.exists() and (best := best_checkpoint(path.parent)) is not None:
        path = best
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}; train one first: make train")
    if (path / MANIFEST).exists() or STEP_FOLDER.fullmatch(path.name):
        verify_checkpoint(path)
        return path
    problems = []
    for folder in reversed(list_checkpoints(path)):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            problems.append(str(error))
            continue
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


def newest_run(checkpoints: Path | str = "checkpoints") -> Path:
    """The run whose newest checkpoint is the most recent one.

    Raises:
        CheckpointError: nothing was trained yet.
    """
    root = Path(checkpoints)
    candidates = [found[-1] for run in root.iterdir() if (found := list_checkpoints(run))] if root.is_dir() else []
    if not candidates:
        raise CheckpointError(f"there is no checkpoint in {root}; train one first: make train")
    return max(candidates, key=lambda folder: (folder / MANIFEST).stat().st_mtime).parent


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Load the model and its tokenizer for inference.

    Args:
        path: a run's folder or a checkpoint's.
        device: where to put the weights.

    Raises:
        CheckpointError: missing, damaged or inconsistent.
    """
    folder = find_checkpoint(path)
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
        CheckpointError: the weights are not those of this model.
    """
    path = Path(folder) / "model.safetensors"
    try:
        set_weights(model, load_file(path))
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise CheckpointError(f"{path} does not fit the model: {' '.join(str(error).split())}") from None


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_checkpoint` was given as `state` and `state_tensors`."""
    try:
        return read_json(folder / "state.json"), load_file(folder / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be resumed from: {error}") from None

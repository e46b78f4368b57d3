"""Save checkpoints: whole or not at all, and no more of them than asked for.

A checkpoint is written under a temporary name, forced to disk, then renamed: a crash leaves the old checkpoints and a
temporary folder, never a half-written checkpoint that looks complete. The newest few are kept, and the one with the lowest
validation loss.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from torch import Tensor

from groundwork.files import to_json
from groundwork.tensor_files import save_tensors
from tokenizer.interface import Tokenizer
from training.checkpoints.checkpoint import (
    CheckpointError,
    best_checkpoint,
    list_checkpoints,
    require_rows,
    verify_checkpoint,
)
from training.checkpoints.manifest import force_to_disk, write_manifest
from training.parallel.workers import Workers


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
        (temporary / "state.json").write_text(to_json(state or {}), encoding="utf-8")
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
            with contextlib.suppress(OSError):  # on Windows, somebody reads it: it goes after the next save
                os.replace(old, doomed)
                shutil.rmtree(doomed, ignore_errors=True)

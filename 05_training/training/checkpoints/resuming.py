"""Decide whether a run continues or starts, or is told that its settings are those of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console

from training.checkpoints.checkpoint import CheckpointError, find_checkpoint, list_checkpoints

# A resumed run may differ from the saved one in these settings and is still the same run. Batch size and accumulation
# may change together; their product is compared as `sequences_per_step`.
FREE_TO_CHANGE = {"output_dir", "device", "precision", "parallel", "resume", "data.dataset_dir"} | {
    f"training.{name}"
    for name in (
        "batch_size",
        "accumulation_steps",
        "gradient_checkpointing",
        "compile",
        "eval_interval",
        "eval_tokens",
        "checkpoint_interval",
        "keep_checkpoints",
        "max_skipped_steps",
        "sample_interval",
        "sample_prompts",
    )
}


def checkpoint_to_resume(
    run_folder: Path, resume: Literal["auto", "never"], settings: dict[str, Any], console: Console
) -> Path | None:
    """The checkpoint to continue from; None to start.

    Args:
        run_folder: where an earlier run may be.
        resume: auto continues; with never, an earlier run is set aside under another name.
        settings: of this run, in YAML types.
        console: where to print what is done.

    Raises:
        CheckpointError: the earlier run had other settings, or every checkpoint is damaged.
    """
    if not list_checkpoints(run_folder):
        return None
    if resume == "never":
        aside = next(p for i in range(1, 10_000) if not (p := run_folder.with_name(f"{run_folder.name}.{i}")).exists())
        run_folder.rename(aside)
        console.print(f"The earlier run was set aside as {aside}")
        return None
    checkpoint = find_checkpoint(run_folder)
    changed = changed_fields(yaml.safe_load((checkpoint / "config.yaml").read_text("utf-8")), settings)
    if changed:
        raise CheckpointError(
            f"{run_folder} holds a run with other settings ({', '.join(changed)}); "
            "add --resume never to train again, or choose another --output_dir"
        )
    console.print(f"Resuming from {checkpoint}")
    return checkpoint


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that make this another run, as `name: before → after`."""
    before, after = _flatten(old), _flatten(new)
    names = sorted(name for name in (before.keys() | after.keys()) - FREE_TO_CHANGE if not name.startswith("tracking."))
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in names if before.get(name) != after.get(name)]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat

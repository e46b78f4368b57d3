"""Decide whether a run continues or starts, or is told that its settings are those of another run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from groundwork.user_errors import brief
from training.checkpoints.checkpoint import (
    STEP_FOLDER,
    CheckpointError,
    find_checkpoint,
    list_checkpoints,
    read_settings,
)
from training.optimizers.schedule import learning_rate_factor
from training.recipe import Recipe
from transformer.config import GPTConfig

# A resumed run may differ from the saved one in these settings and is still the same run. Batch size and accumulation
# may change together; their product is compared as `sequences_per_step`.
FREE_TO_CHANGE = {"output_dir", "device", "precision", "parallel", "resume", "data.dataset_dir"} | {
    f"training.{name}"
    for name in (
        "max_steps",
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


def checkpoint_to_resume(run_folder: Path, settings: dict[str, Any], config: Any) -> tuple[Path, int] | None:
    """The checkpoint to continue from, and how many steps its run was to have; None to start.

    Args:
        run_folder: where an earlier run may be.
        settings: of this run, in YAML types.
        config: the same as a dataclass, whose defaults stand for settings that an older version did not have.

    Raises:
        CheckpointError: the earlier run had other settings or has taken more steps, or every checkpoint is damaged.
    """
    if not list_checkpoints(run_folder):
        return None
    checkpoint = find_checkpoint(run_folder)
    earlier = read_settings(checkpoint)
    if changed := changed_fields(earlier, settings, config):
        raise CheckpointError(
            f"{run_folder} holds a run with other settings ({', '.join(changed)}); "
            "add --resume never to train again, or choose another --output_dir"
        )
    steps = config.training.max_steps
    training = earlier.get("training", {})
    earlier_steps = training.get("max_steps", steps) if isinstance(training, dict) else None
    if type(earlier_steps) is not int or earlier_steps < 1:
        raise CheckpointError(
            f"{checkpoint}/config.yaml: training.max_steps is {brief(earlier_steps)}, not a number of steps"
        )
    if (taken := _step_of(checkpoint)) > steps:
        raise CheckpointError(
            f"training.max_steps is {steps}, but the run in {run_folder} has taken {taken} steps already: set at least "
            f"{taken}, add --resume never to train again, or choose another --output_dir"
        )
    return checkpoint, earlier_steps


def changed_length(checkpoint: Path, earlier_steps: int, recipe: Recipe) -> str:
    """Say in one line what another `training.max_steps` does to the learning rate; "" if the length is the same.

    Args:
        checkpoint: the run continues from it.
        earlier_steps: `training.max_steps` before.
        recipe: of the run that continues.
    """
    steps, schedule, step = recipe.training.max_steps, recipe.schedule, _step_of(checkpoint)
    if steps == earlier_steps:
        return ""
    before, now = (learning_rate_factor(step, length, schedule) for length in (earlier_steps, steps))
    what = f"training.max_steps: {earlier_steps} → {steps}. The learning rate "
    if before == now:
        return f"{what}goes on as before, at {now:.3g} of its peak"
    return (
        f"{what}follows the {schedule.kind} curve of a run of {steps} steps from here: "
        f"{now:.3g} of its peak, instead of {before:.3g}"
    )


def changed_fields(old: dict[str, Any], new: dict[str, Any], config: Any) -> list[str]:
    """Settings that make this another run, as `name: before → after`.

    Args:
        old: settings of the earlier run; those that its version did not have yet count as the defaults.
        new: settings of this run.
        config: the same as a dataclass.
    """
    before, after = _flatten(_completed(old, new, config)), _flatten(new)
    names = sorted(name for name in (before.keys() | after.keys()) - FREE_TO_CHANGE if not name.startswith("tracking."))
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in names if before.get(name) != after.get(name)]


def _step_of(checkpoint: Path) -> int:
    match = STEP_FOLDER.fullmatch(checkpoint.name)
    assert match is not None  # it is from `list_checkpoints`
    return int(match[1])


def _completed(old: dict[str, Any], new: dict[str, Any], config: Any) -> dict[str, Any]:
    """Settings of an earlier run with what they do not have: defaults, and facts that only newer versions write down."""
    completed = _with_defaults(old, config)
    for name, value in new.items():
        if name not in completed:
            completed[name] = value
        elif name in ("prepared", "model") and isinstance(completed[name], dict):
            known = GPTConfig().to_dict() if name == "model" else value
            completed[name] = {**known, **completed[name]}
    return completed


def _with_defaults(settings: dict[str, Any], config: Any) -> dict[str, Any]:
    completed = dict(settings)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in settings:
            if field.default is not dataclasses.MISSING:
                completed[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
                is_section = dataclasses.is_dataclass(default) and not isinstance(default, type)
                completed[field.name] = dataclasses.asdict(default) if is_section else default
        elif dataclasses.is_dataclass(value) and isinstance(settings[field.name], dict):
            completed[field.name] = _with_defaults(settings[field.name], value)
    return completed


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value  # YAML has lists alone
    return flat

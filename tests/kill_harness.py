"""Kill a training run at random moments, again and again, and check that nothing is lost.

    python tests/kill_harness.py --kills 100        # `make soak-checkpoints`, about twenty minutes

Each round starts the same command, waits for a random time, and kills it with SIGKILL, which no program can
catch. The kill may come in the middle of a step, of a file, or of a rename. Then every checkpoint must be complete, and
the newest one must not be older than the newest one before. At the end, a run that is never disturbed goes to the same
step, and the weights of the two runs must be the same bit for bit.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from training.checkpoints.checkpoint import list_checkpoints, verify_checkpoint

ROOT = Path(__file__).parents[1]
MAX_STEPS = 1_000_000  # so that the run never ends by itself


@dataclass
class Outcome:
    """What the kills did.

    Args:
        kills: how many processes were killed while they ran.
        while_writing: how many of them left a half-written checkpoint (under a temporary name).
        checkpoints: the newest step after each kill.
        identical: whether the newest checkpoint has the weights of an undisturbed run at that step.
    """

    kills: int
    while_writing: int
    checkpoints: list[int]
    identical: bool


def kill_again_and_again(config: str, folder: Path, kills: int, longest_wait: float, seed: int) -> Outcome:
    """Run the harness.

    Args:
        config: a YAML file; its run should save often.
        folder: folder for the two runs.
        kills: how often to kill.
        longest_wait: a run is killed within this many seconds after its first sign of life; the time grows if no run
            saves anything in it.
        seed: seed of the random moments.

    Raises:
        AssertionError: a checkpoint is unreadable, or one was lost.
    """
    rng = random.Random(seed)
    disturbed, straight = folder / "disturbed", folder / "straight"
    newest, killed, while_writing, steps = 0, 0, 0, []
    halves: set[tuple[Path, int]] = set()
    while killed < kills or not newest:
        process = _start(config, disturbed)
        _wait_for_life(process, disturbed)
        time.sleep(rng.uniform(0.0, longest_wait))
        killed += process.poll() is None
        process.kill()
        process.wait()
        before = halves
        halves = {(path, path.stat().st_ctime_ns) for path in disturbed.glob(".step_*.tmp")}
        while_writing += bool(halves - before)
        found = list_checkpoints(disturbed)
        for checkpoint in found:
            verify_checkpoint(checkpoint)  # raises if it is unreadable
        step = int(found[-1].name.removeprefix("step_")) if found else 0
        assert step >= newest, f"the checkpoint of step {newest} is gone; the newest is of step {step}"
        newest = step
        steps.append(step)
        if not newest:
            longest_wait *= 2  # this machine is slower
            assert longest_wait < 60, "no run lived long enough to save"
    process = _start(config, straight, "--training.checkpoint_interval", str(newest))
    while not list_checkpoints(straight):
        assert process.poll() is None, f"the run ended by itself with status {process.returncode}"
        time.sleep(0.1)
    process.kill()
    process.wait()
    first, second = (load_file(run / f"step_{newest:08d}" / "model.safetensors") for run in (disturbed, straight))
    return Outcome(killed, while_writing, steps, all(torch.equal(first[name], second[name]) for name in second))


def _start(config: str, run: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "05_training" / "train.py"), "--config", config, "--output_dir", str(run)]
    return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for_life(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait until the run records a step."""
    metrics = run / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_size and metrics.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)
    assert process.returncode is None, f"the run ended by itself with status {process.returncode}"


def _settings(text: Path, folder: Path) -> dict:
    return {
        "device": "cpu",
        "precision": "float32",
        "data": {"corpus": str(text), "dataset_dir": str(folder / "datasets")},
        "tokenizer": {"kind": "character", "vocab_size": None},
        "tracking": {"tensorboard": False},
        "model": {"context_length": 32, "num_layers": 2, "num_heads": 2, "d_model": 64},
        "schedule": {"warmup_steps": 10},
        "training": {
            "max_steps": MAX_STEPS,
            "batch_size": 4,
            "checkpoint_interval": 3,
            "eval_interval": 3,
            "eval_tokens": 256,
            "keep_checkpoints": 2,
        },
    }


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Kill a run at random moments and check that nothing is lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("".join(f"Line {i} of a text, and {i * i} is its square.\n" for i in range(3000)))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(_settings(text, folder)))
        outcome = kill_again_and_again(str(config), folder, options.kills, 2.0, options.seed)
    print(
        f"{outcome.kills} kills, {outcome.while_writing} of them while a checkpoint was being written; "
        f"0 unreadable, 0 lost beyond the last save; newest steps {outcome.checkpoints}; "
        f"weights {'bit-identical to' if outcome.identical else 'DIFFERENT from'} those of an undisturbed run"
    )
    raise SystemExit(0 if outcome.identical else 1)


if __name__ == "__main__":
    main()

"""Stage 5: several processes give the same result as one, and their checkpoints fit any number of processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from training.checkpoints.checkpoint import list_checkpoints, verify_checkpoint
from training.run.tracking import read_metrics
from training.train_command import main

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv on Windows")]


def torchrun(root: Path, processes: int, *arguments: str) -> str:
    """Train in several processes on this machine; returns what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, str(root / "05_training" / "train.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def distributed_settings(tiny_settings: dict) -> dict:
    """The sequences of two steps, in one batch, in two micro-batches or in two processes."""
    tiny_settings["model"]["dropout"] = 0.0
    tiny_settings["optimizer"]["name"] = "muon"
    tiny_settings["training"] |= {"max_steps": 6, "eval_interval": 3, "checkpoint_interval": 3, "batch_size": 2}
    tiny_settings["training"]["accumulation_steps"] = 2
    return tiny_settings


def _losses(run: Path, name: str = "train_loss") -> list[float]:
    return [record[name] for record in read_metrics(run) if name in record]


def _weights(run: Path, step: int = 6) -> dict[str, torch.Tensor]:
    folder = run / f"step_{step:08d}"
    verify_checkpoint(folder)
    return load_file(folder / "model.safetensors")


# The order of summation differs, so float32's rounding differs; Muon adds bfloat16's rounding.
@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "optimizer", "tolerance"), [("ddp", "adamw", 2e-5), ("fsdp", "muon", 2e-3)])
def test_two_processes_train_as_one_does(
    parallel, optimizer, tolerance, distributed_settings, write_config, root: Path, tmp_path: Path
):
    distributed_settings["optimizer"]["name"] = optimizer
    single, several = Path(distributed_settings["output_dir"]), tmp_path / "several"
    config = write_config(distributed_settings)
    assert main(["--config", config, "--training.accumulation_steps", "4"]) == 0
    torchrun(root, 2, "--config", config, "--output_dir", str(several), "--parallel", parallel)
    assert _losses(several) == pytest.approx(_losses(single), abs=tolerance)
    assert _losses(several, "gradient_norm") == pytest.approx(_losses(single, "gradient_norm"), rel=tolerance)
    assert _losses(several, "validation_loss") == pytest.approx(_losses(single, "validation_loss"), abs=tolerance)
    ours, theirs = _weights(several), _weights(single)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=0.02)
    if parallel == "fsdp":
        _one_process_reads_the_shards(several, config)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(distributed_settings, write_config, root: Path, tmp_path: Path):
    config = write_config(distributed_settings)
    run = tmp_path / "moved"
    several = ["--config", config, "--output_dir", str(run), "--parallel", "fsdp"]
    single = ["--config", config, "--output_dir", str(run), "--training.accumulation_steps", "4"]
    assert main(single) == 0
    expected = _losses(run)
    _forget_the_second_half(run)
    torchrun(root, 2, *several)  # from one process to two, each with a piece of the model
    assert _losses(run) == pytest.approx(expected, abs=2e-3)
    assert (run / "step_00000006" / "shards").is_dir()


def _one_process_reads_the_shards(run: Path, config: str) -> None:
    expected = _losses(run)
    _forget_the_second_half(run)
    assert main(["--config", config, "--output_dir", str(run), "--training.accumulation_steps", "4"]) == 0
    assert _losses(run) == pytest.approx(expected, abs=2e-3)
    assert len(expected) == 6


def _forget_the_second_half(run: Path) -> None:
    """Make the folder look as if the run had died after the first checkpoint."""
    shutil.rmtree(run / "step_00000006")
    assert [folder.name for folder in list_checkpoints(run)] == ["step_00000003"]


@pytest.mark.slow
def test_resume_of_two_processes_is_bit_identical(distributed_settings, write_config, root: Path, tmp_path: Path):
    distributed_settings["model"]["dropout"] = 0.1
    config = write_config(distributed_settings)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    torchrun(root, 2, "--config", config, "--output_dir", str(straight))
    shutil.copytree(straight, killed)
    _forget_the_second_half(killed)
    torchrun(root, 2, "--config", config, "--output_dir", str(killed))
    for file in ("model.safetensors", "state.safetensors"):
        first, second = (load_file(run / "step_00000006" / file) for run in (straight, killed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_worker_was_killed(
    distributed_settings, write_config, root: Path, tmp_path: Path
):
    distributed_settings["training"] |= {"max_steps": 60, "eval_interval": 60, "checkpoint_interval": 10}
    config = write_config(distributed_settings)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    torchrun(root, 2, "--config", config, "--output_dir", str(straight))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    script = [str(root / "05_training" / "train.py"), "--config", config, "--output_dir", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*command, *script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        deadline = time.monotonic() + 120
        while not list_checkpoints(killed) and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = [child for child in psutil.Process(run.pid).children() if "train.py" in " ".join(child.cmdline())]
        assert len(workers) == 2
        workers[-1].kill()
        _, errors = run.communicate(timeout=180)
    finally:
        run.kill()
    assert run.returncode == 0, errors
    assert "exitcode: -9" in errors  # it was alive when it was killed, and torchrun saw it die
    for name, tensor in _weights(straight, 60).items():
        assert torch.equal(_weights(killed, 60)[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "processes"), [("ddp", 1), ("fsdp", 2)])
def test_a_checkpoint_that_cannot_be_written_is_a_warning_however_the_work_is_shared(
    parallel, processes, distributed_settings, write_config, root: Path, tmp_path: Path
):
    import resource

    distributed_settings["training"]["checkpoint_interval"] = 2
    distributed_settings["tracking"] = {"tensorboard": False}
    config = write_config(distributed_settings)
    assert main(["--config", config, "--output_dir", str(tmp_path / "first"), "--training.max_steps", "3"]) == 0
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *several, str(root / "05_training" / "train.py"), "--config", config, "--parallel", parallel],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        check=False,
    )
    assert len(_losses(tmp_path / "run")) == 6  # all steps were taken
    printed = " ".join(done.stdout.split())
    assert printed.count("could not be written to") == 2 and printed.count("training goes on") == 2
    assert "step_00000006" not in printed and not list_checkpoints(tmp_path / "run")
    assert (
        done.returncode != 0 and "the checkpoint of step 6 could not be written to" in done.stderr
    )  # the last one is lost

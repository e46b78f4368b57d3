"""Stage 5: whole runs: which files they write, how they stop, how they resume."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neural_networks.bits_per_byte import bits_per_byte
from training.checkpoints.checkpoint import (
    list_checkpoints,
    load_model,
    newest_run,
)
from training.placement import Placement
from training.run.tracking import read_metrics
from training.train_command import main
from training.validation import total_loss

CPU = Placement(torch.device("cpu"), torch.float32)


def test_a_run_learns_and_leaves_what_it_promises(trained_run: Path):
    losses = [record["train_loss"] for record in read_metrics(trained_run) if "train_loss" in record]
    assert len(losses) == 60
    assert losses[-1] < 0.6 * losses[0]
    assert (trained_run / "loss_curve.png").stat().st_size > 10_000
    assert list((trained_run / "tensorboard").glob("events*"))
    summary = json.loads((trained_run / "summary.json").read_text())
    assert summary["steps"] == 60 and summary["tokens"] == 60 * 256
    assert summary["validation_loss"] == read_metrics(trained_run)[-1]["validation_loss"]
    assert summary["samples"]["Return the"].startswith("Return the")
    folder = list_checkpoints(trained_run)[-1]
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "model.safetensors",
        "state.safetensors",
        "state.json",
        "config.yaml",
        "tokenizer.json",
        "manifest.json",
    }
    assert newest_run(trained_run.parent) == trained_run


def test_reported_bits_per_byte_are_those_of_the_saved_model(trained_run: Path):
    reported = next(r["validation_bits_per_byte"] for r in read_metrics(trained_run) if "validation_bits_per_byte" in r)
    loaded = load_model(trained_run)
    dataset = next((trained_run.parent / "datasets").iterdir())
    meta = json.loads((dataset / "meta.json").read_text())
    tokens = np.fromfile(dataset / "val.bin", dtype=meta["dtype"])
    assert (
        len(loaded.tokenizer.decode_bytes(tokens))
        == meta["validation_bytes"] + len("<|endoftext|>") * meta["validation_documents"]
    )
    assert bits_per_byte(total_loss(loaded.model, tokens, CPU), meta["validation_bytes"]) == pytest.approx(
        reported, rel=0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_and_resumed_run_is_bit_identical(optimizer, precision, tiny_settings, write_config):
    tiny_settings["precision"] = precision
    tiny_settings["optimizer"] |= {"name": optimizer}
    tiny_settings["training"] |= {"accumulation_steps": 2}
    straight = Path(tiny_settings["output_dir"])
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0

    killed = straight.with_name("killed")
    shutil.copytree(straight, killed)
    for folder in list_checkpoints(killed)[1:]:  # as if it had died after the checkpoint of step 4
        shutil.rmtree(folder)
    assert main(["--config", config, "--output_dir", str(killed)]) == 0
    for name in ("model.safetensors", "state.safetensors"):
        first, second = (load_file(run / "step_00000012" / name) for run in (straight, killed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    losses = [[r["train_loss"] for r in read_metrics(run) if "train_loss" in r] for run in (straight, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_continues(tiny_settings, write_config, root: Path):
    tiny_settings["training"] |= {"max_steps": 5000, "checkpoint_interval": 5000, "eval_interval": 5000}
    config = write_config(tiny_settings)
    command = [sys.executable, str(root / "05_training" / "train.py"), "--config", config]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Path(tiny_settings["output_dir"]) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size > 0):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "the same command continues" in " ".join(output.split())
    (saved,) = list_checkpoints(Path(tiny_settings["output_dir"]))
    step = int(saved.name.removeprefix("step_"))
    assert 1 <= step < 5000
    # A run to the same step without interruption would use the same data.
    assert json.loads((saved / "state.json").read_text())["batches"] == {"sequences_drawn": 4 * step}


@pytest.mark.slow
def test_a_second_run_reuses_the_data_and_the_finished_model(tiny_settings, write_config, capsys):
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    capsys.readouterr()
    assert main(["--config", config]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Using the token files in" in printed
    assert "has all 12 steps" in printed


@pytest.mark.slow
def test_changed_settings_do_not_continue_a_run_but_name_the_field(tiny_settings, write_config, capsys):
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    assert main(["--config", config, "--optimizer.lr", "0.001"]) == 1
    assert "optimizer.lr: 0.005 → 0.001" in capsys.readouterr().err
    before = {path.name for path in list_checkpoints(Path(tiny_settings["output_dir"]))}
    assert main(["--config", config, "--optimizer.lr", "0.001", "--resume", "never"]) == 0
    aside = Path(tiny_settings["output_dir"] + ".1")
    assert {path.name for path in list_checkpoints(aside)} == before


@pytest.mark.slow
def test_an_edited_corpus_is_prepared_anew_and_does_not_continue_a_run(
    tiny_settings, write_config, tmp_path: Path, capsys
):
    text = tmp_path / "mine.txt"
    text.write_text("some text of mine. " * 300)
    tiny_settings["data"]["corpus"] = str(text)
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    text.write_text("some other text, and longer. " * 300)
    assert main(["--config", config, "--output_dir", str(tmp_path / "second")]) == 0
    folders = list((tmp_path / "datasets").iterdir())
    assert len(folders) == 2
    assert main(["--config", config]) == 1  # the first run used the old text
    assert "prepared.corpus_sha256" in capsys.readouterr().err
    assert all(folder.name.startswith("mine-bpe320-") for folder in folders)


def test_a_sample_that_cannot_be_written_does_not_spoil_a_run(tiny_settings, write_config, capsys):
    tiny_settings["tokenizer"] = {"kind": "character", "vocab_size": None}
    tiny_settings["training"] |= {"max_steps": 2, "sample_prompts": ["Ω", "Return"]}
    tiny_settings["schedule"] = {"warmup_steps": 0}
    assert main(["--config", write_config(tiny_settings)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: no sample for 'Ω'" in printed
    summary = json.loads((Path(tiny_settings["output_dir"]) / "summary.json").read_text())
    assert list(summary["samples"]) == ["Return"]

"""Stage 5: checkpoints are complete or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from training.checkpoints import checkpoint as checkpoint_module, saving
from training.checkpoints.checkpoint import (
    CheckpointError,
    best_checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_model,
    newest_run,
    read_checkpoint,
    read_state,
    verify_checkpoint,
)
from training.checkpoints.manifest import sha256_of, write_manifest
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.train_command import main


@pytest.fixture
def run_copy(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "copy"))


def _add_damaged_newer_checkpoint(run: Path) -> Path:
    newest = Path(shutil.copytree(list_checkpoints(run)[-1], run / "step_00000099"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return newest


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.json", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_checkpoint_is_never_loaded(name: str, damage: str, run_copy: Path):
    folder = list_checkpoints(run_copy)[-1]
    path = folder / name
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(run_copy: Path, capsys):
    newest = _add_damaged_newer_checkpoint(run_copy)
    assert find_checkpoint(run_copy).name == "step_00000060"
    assert newest.name in capsys.readouterr().out


def test_missing_checkpoints_say_what_to_do(tmp_path: Path):
    for call in (lambda: load_model(tmp_path / "nowhere"), lambda: load_model(tmp_path), lambda: newest_run(tmp_path)):
        with pytest.raises(CheckpointError, match="train one first"):
            call()


def test_weights_of_another_model_are_refused(run_copy: Path):
    folder = list_checkpoints(run_copy)[-1]
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["model"]["num_layers"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config.yaml"] = sha256_of(folder / "config.yaml")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(float("nan")), r"are nan or infinite: the file is damaged"),
        (lambda w: w.fill_(float("inf")), r"are nan or infinite"),
        (lambda w: w.to(torch.int8), r"has the type int8; a weight is one of float32"),
        (lambda w: w > 0, r"has the type bool"),
        (lambda w: w.to(torch.complex64), r"has the type complex64"),
    ],
    ids=["nan", "inf", "int8", "bool", "complex"],
)
def test_weights_that_are_no_finite_floats_are_refused(run_copy: Path, change, message):
    folder = list_checkpoints(run_copy)[-1]
    weights = load_file(folder / "model.safetensors")
    weights["final_norm.weight"] = change(weights["final_norm.weight"])
    save_file(weights, folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(CheckpointError, match=rf"final_norm\.weight {message}"):
        load_model(folder)


def test_a_full_disk_leaves_old_checkpoints_whole_and_no_half_one(tiny_settings, write_config, monkeypatch, capsys):
    real, saved = saving.save_tensors, []

    def save_until_full(tensors, path):
        saved.append(path)
        if len(saved) > 2:  # weights and state of the first checkpoint fit
            Path(path).write_bytes(b"half of the ")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(tensors, path)

    monkeypatch.setattr(saving, "save_tensors", save_until_full)
    assert main(["--config", write_config(tiny_settings)]) == 1
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err
    assert "Traceback" not in captured.err
    assert "training goes on" in " ".join(captured.out.split())
    run = Path(tiny_settings["output_dir"])
    assert [path.name for path in list_checkpoints(run)] == ["step_00000004"]
    load_model(run)
    assert not list(run.glob(".*tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full")
def test_a_write_to_a_really_full_device_is_an_error_too():
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost(tiny_settings, write_config, tmp_path: Path):
    from kill_harness import kill_again_and_again

    tiny_settings["training"] |= {
        "max_steps": 100_000,
        "checkpoint_interval": 2,
        "eval_interval": 2,
        "keep_checkpoints": 2,
    }
    tiny_settings["tracking"] = {"tensorboard": False}
    outcome = kill_again_and_again(write_config(tiny_settings), tmp_path / "runs", kills=3, longest_wait=0.6, seed=1)
    assert outcome.kills >= 3
    assert outcome.identical


def test_a_checkpoint_that_is_there_and_whole_is_never_replaced_but_a_damaged_one_is(run_copy: Path):
    folder = list_checkpoints(run_copy)[-1]
    loaded = load_model(folder)
    state, tensors = read_state(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())

    def save() -> None:
        weights = model_weights(loaded.model)
        save_checkpoint(run_copy, 60, weights, loaded.tokenizer, config, state, tensors, keep=9)

    before = (folder / "manifest.json").stat().st_mtime_ns
    save()
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    (folder / "state.json").write_text("{}")
    save()
    verify_checkpoint(folder)
    assert not list(run_copy.glob(".step_*"))


def test_the_folder_of_a_run_may_be_a_string(run_copy: Path, tmp_path: Path):
    loaded = load_model(run_copy)
    settings = {"model": loaded.model.config.to_dict()}
    weights = model_weights(loaded.model)
    folder = save_checkpoint(str(tmp_path / "new"), 7, weights, loaded.tokenizer, settings)
    assert folder == tmp_path / "new" / "step_00000007"
    again = load_model(str(folder)).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.model.state_dict().items())


class Scorer(torch.nn.Module):
    """This is not a GPTModel: it has no configuration, and one weight has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


def test_weights_of_any_module_are_saved_and_loaded_and_those_of_another_one_are_refused(run_copy: Path, tmp_path):
    model, tokenizer = Scorer(), load_model(run_copy).tokenizer
    folder = save_checkpoint(tmp_path, 1, model_weights(model), tokenizer, {})
    other = Scorer()
    checkpoint_module.load_weights(other, str(folder))
    assert torch.equal(other.embedding.weight, model.embedding.weight)
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.head.bias, model.head.bias)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint_module.load_weights(torch.nn.Linear(2, 2), list_checkpoints(run_copy)[-1])
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint_module.load_weights(Scorer(), list_checkpoints(run_copy)[-1])


def _copy(run: Path, step: int, loss: object) -> Path:
    folder = Path(shutil.copytree(list_checkpoints(run)[-1], run / f"step_{step:08d}"))
    (folder / "manifest.json").unlink()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "validation_loss": loss}))
    write_manifest(folder)
    return folder


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), float("inf"), None, "low", "0.1", True, -(10**400), [0.1]]
)
def test_a_loss_that_is_not_a_number_is_never_the_best_and_the_best_is_not_removed(value, run_copy: Path):
    best = _copy(run_copy, 61, 1.5)
    odd = _copy(run_copy, 62, value)
    _copy(run_copy, 63, 1.7)
    assert best_checkpoint(run_copy) == best
    loaded, settings = load_model(run_copy), yaml.safe_load((best / "config.yaml").read_text())
    save_checkpoint(run_copy, 64, model_weights(loaded.model), loaded.tokenizer, settings, keep=2)
    assert best.exists() and not odd.exists()
    assert find_checkpoint(run_copy / "best") == best


def test_a_checkpoint_that_cannot_be_removed_ends_no_run(run_copy: Path, monkeypatch):
    real, loaded = os.replace, load_model(run_copy)
    settings = {"model": loaded.model.config.to_dict()}

    def refuse(source, target) -> None:
        if str(target).endswith(".removed.tmp"):
            raise PermissionError(13, "somebody reads it", str(source))
        real(source, target)

    before = list_checkpoints(run_copy)
    monkeypatch.setattr(saving.os, "replace", refuse)
    folder = save_checkpoint(run_copy, 64, model_weights(loaded.model), loaded.tokenizer, settings, keep=1)
    assert list_checkpoints(run_copy) == [*before, folder]


def test_a_checkpoint_that_training_removes_while_it_is_read_is_read_again_from_the_newest(run_copy: Path, monkeypatch):
    """Both while its hashes are compared and while its weights are loaded."""
    newest = _copy(run_copy, 70, None)
    real = {"sha256_of": checkpoint_module.sha256_of, "load_weights": checkpoint_module.load_weights}

    def prune_in(name: str, at_step: int) -> None:
        def first(*arguments):
            monkeypatch.setattr(checkpoint_module, name, real[name])
            _copy(run_copy, at_step + 1, None)
            shutil.rmtree(run_copy / f"step_{at_step:08d}")
            return real[name](*arguments)

        monkeypatch.setattr(checkpoint_module, name, first)

    prune_in("sha256_of", 70)
    assert find_checkpoint(run_copy).name == "step_00000071"
    prune_in("load_weights", 71)
    assert load_model(run_copy).folder.name == "step_00000072"
    prune_in("sha256_of", 72)
    with pytest.raises(CheckpointError, match="was just removed by the run"):
        load_model(run_copy / "step_00000072")
    assert not newest.exists()


def test_what_is_damaged_and_still_there_is_not_read_again_and_again(run_copy: Path):
    tries = []

    def read(folder: Path) -> None:
        tries.append(folder)
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(run_copy, read)
    assert len(tries) == 1

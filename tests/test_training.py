"""Stage 5: the loss, the data order, the optimizer, checkpoints, resume, and what users do wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from neural_networks.bits_per_byte import bits_per_byte
from training import checkpoint as checkpoint_module
from training import loss as loss_module
from training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    list_checkpoints,
    load_model,
    newest_run,
)
from training.command_line import main, parse_config
from training.config import OptimizerConfig, RunConfig, ScheduleConfig
from training.data_loader import DataError, WindowLoader, open_tokens
from training.loss import linear_cross_entropy
from training.optimizer import build_optimizers, set_learning_rate
from training.placement import DeviceError, Placement, choose_placement
from training.schedule import learning_rate_factor
from training.tracking import read_metrics
from training.validation import sampled_loss, total_loss
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)


# --- loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_loss_and_its_gradients_equal_pytorchs(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    hidden = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (2, 10))
    expected = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    ours = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(3 * ours, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_chunked_loss_under_autocast_is_close_to_float32():
    hidden, weight = torch.randn(64, 32), torch.randn(100, 32) * 0.1
    targets = torch.randint(100, (64,))
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, targets)
    assert rounded.dtype == torch.float32
    assert abs(rounded - exact) < 0.01


def test_an_untrained_model_is_as_unsure_as_a_uniform_guess():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16))
    tokens = np.random.default_rng(0).integers(0, 97, 200).astype(np.uint16)
    assert total_loss(model, tokens, CPU) / 199 == pytest.approx(math.log(97), rel=0.02)


def test_validation_predicts_every_token_but_the_first_once():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16)).eval()
    tokens = np.random.default_rng(0).integers(0, 97, 30).astype(np.uint16)
    expected = 0.0
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        for start in range(0, 29, 8):
            window = ids[start : min(start + 8, 29)]
            expected += F.cross_entropy(
                model(window[None])[0], ids[start + 1 : start + 1 + len(window)], reduction="sum"
            )
    assert total_loss(model, tokens, CPU) == pytest.approx(float(expected), rel=1e-5)


def test_a_look_at_the_validation_loss_is_spread_over_the_file_and_exact_when_it_covers_it():
    model = GPTModel(GPTConfig(vocab_size=97, context_length=8, num_layers=1, num_heads=2, d_model=16)).eval()
    tokens = np.random.default_rng(0).integers(0, 97, 81).astype(np.uint16)
    assert sampled_loss(model, tokens, 10_000, CPU) == pytest.approx(total_loss(model, tokens, CPU) / 80, rel=1e-5)
    changed = tokens.copy()
    changed[-5:] = (changed[-5:] + 1) % 97
    assert sampled_loss(model, changed, 16, CPU) != sampled_loss(model, tokens, 16, CPU)


# --- data ---------------------------------------------------------------------------------------


def test_an_epoch_shows_every_window_once_and_targets_follow_inputs():
    loader = WindowLoader(np.arange(103, dtype=np.uint16), context_length=10, seed=3)
    inputs, targets = loader.next_batch(loader.windows_per_epoch)
    assert torch.equal(inputs + 1, targets)
    assert len(set(inputs.flatten().tolist())) == inputs.numel() == 90
    assert loader.epochs == 1.0
    second, _ = loader.next_batch(loader.windows_per_epoch)
    assert not torch.equal(inputs, second)


def test_the_order_follows_from_the_seed_and_the_position_alone():
    tokens = np.arange(500, dtype=np.uint16)
    straight = WindowLoader(tokens, 8, seed=5)
    expected = [straight.next_batch(7)[0] for _ in range(30)]
    resumed = WindowLoader(tokens, 8, seed=5)
    resumed.drawn = 20 * 7
    for batch in expected[20:]:
        assert torch.equal(resumed.next_batch(7)[0], batch)
    assert not torch.equal(WindowLoader(tokens, 8, seed=6).next_batch(7)[0], expected[0])


@pytest.mark.parametrize("length", [9, 10, 11, 16, 17])
def test_short_files_never_read_past_their_end(length):
    loader = WindowLoader(np.arange(length, dtype=np.uint16), context_length=8, seed=0)
    for _ in range(20):
        _, targets = loader.next_batch(1)
        assert targets.max() < length


def test_token_files_that_cannot_be_used_are_refused(tmp_path: Path):
    path = tmp_path / "train.bin"
    np.array([1, 2, 300], dtype=np.uint16).tofile(path)
    with pytest.raises(DataError, match="3 tokens, fewer than one context of 8"):
        open_tokens(path, "<u2", 400, 8)
    with pytest.raises(DataError, match="the id 300, outside the vocabulary of 300"):
        open_tokens(path, "<u2", 300, 2)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        open_tokens(path, "<u2", 300, 2)


# --- optimizer and schedule ---------------------------------------------------------------------


def test_weight_decay_is_for_matrices_inside_the_blocks():
    model = GPTModel(GPTConfig(vocab_size=50, num_layers=2, d_model=32, num_heads=2, tie_embeddings=False))
    for name in ("adamw", "muon"):
        optimizers = build_optimizers(model, OptimizerConfig(name=name, weight_decay=0.3))
        decayed = {id(p) for o in optimizers for g in o.param_groups if g["weight_decay"] for p in g["params"]}
        expected = {id(p) for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
        assert decayed == expected
        everything = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_the_factor_scales_every_group_from_its_peak():
    model = GPTModel(GPTConfig(vocab_size=50, num_layers=1, d_model=32, num_heads=2))
    optimizers = build_optimizers(model, OptimizerConfig(name="muon", lr=0.01, muon_lr=0.1))
    set_learning_rate(optimizers, 0.5)
    set_learning_rate(optimizers, 0.25)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.0025, 0.025]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedules_rise_to_the_peak_and_end_at_the_final_fraction(kind):
    config = ScheduleConfig(kind, warmup_steps=10, final_fraction=0.1)
    factors = [learning_rate_factor(step, 1000, config) for step in range(1000)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(1.0 if kind == "constant" else 0.1, abs=0.01)
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_accumulated_micro_batches_take_the_same_step_as_one_large_batch(tiny_settings, write_config):
    tiny_settings["model"]["dropout"] = 0.0
    tiny_settings["training"]["max_steps"] = 4
    weights = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        tiny_settings["training"] |= {"batch_size": batch_size, "accumulation_steps": accumulation}
        tiny_settings["output_dir"] += "_"
        assert main(["--config", write_config(tiny_settings)]) == 0
        weights.append(load_file(list_checkpoints(Path(tiny_settings["output_dir"]))[-1] / "model.safetensors"))
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=1e-3)


# --- a run, and its resume ----------------------------------------------------------------------


def test_a_run_learns_and_leaves_what_it_promises(trained_run: Path):
    losses = [record["train_loss"] for record in read_metrics(trained_run) if "train_loss" in record]
    assert len(losses) == 60
    assert losses[-1] < 0.6 * losses[0]
    assert (trained_run / "loss_curve.png").stat().st_size > 10_000
    assert list((trained_run / "tensorboard").glob("events*"))
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
    # A run to the same step without interruption would have needed the same data.
    assert json.loads((saved / "state.json").read_text())["sequences_drawn"] == 4 * step


def test_a_second_run_reuses_the_data_and_the_finished_model(tiny_settings, write_config, capsys):
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    capsys.readouterr()
    assert main(["--config", config]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Using the token files in" in printed
    assert "has all 12 steps" in printed


def test_changed_settings_do_not_continue_a_run_but_name_the_field(tiny_settings, write_config, capsys):
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    assert main(["--config", config, "--optimizer.lr", "0.001"]) == 1
    assert "optimizer.lr: 0.005 → 0.001" in capsys.readouterr().err
    before = {path.name for path in list_checkpoints(Path(tiny_settings["output_dir"]))}
    assert main(["--config", config, "--optimizer.lr", "0.001", "--resume", "never"]) == 0
    aside = Path(tiny_settings["output_dir"] + ".1")
    assert {path.name for path in list_checkpoints(aside)} == before


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
    assert main(["--config", config]) == 1  # the first run was on the text as it was
    assert "prepared.corpus_sha256" in capsys.readouterr().err
    assert all(folder.name.startswith("mine-bpe320-") for folder in folders)


# --- checkpoints --------------------------------------------------------------------------------


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
    manifest["config.yaml"] = checkpoint_module._sha256(folder / "config.yaml")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(folder)


def test_a_full_disk_leaves_old_checkpoints_whole_and_no_half_one(tiny_settings, write_config, monkeypatch, capsys):
    real, saved = checkpoint_module.save_file, []

    def save_until_full(tensors, path):
        saved.append(path)
        if len(saved) > 2:  # weights and state of the first checkpoint fit
            Path(path).write_bytes(b"half of the ")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(tensors, path)

    monkeypatch.setattr(checkpoint_module, "save_file", save_until_full)
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


# --- configuration and mistakes -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_gpt", "tiny_shakespeare", "gpt2_124m", "llama_30m"])
def test_the_configurations_in_the_repository_are_valid(name: str, root: Path):
    config = parse_config(["--config", str(root / "configs" / f"{name}.yaml")])
    assert config.output_dir == f"checkpoints/{name}"


def test_the_command_line_wins_over_the_file(root: Path):
    path = str(root / "configs" / "small_gpt.yaml")
    config = parse_config(["--config", path, "--optimizer.lr", "1e-3", "--model.num_layers=2"])
    assert config.optimizer.lr == 1e-3
    assert config.model.num_layers == 2
    assert config.model.d_model == parse_config(["--config", path]).model.d_model


def test_every_field_has_a_help_text(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(["--help"])
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    options = [word for word in printed.split() if word.startswith("--") and "." in word]
    assert len(set(options)) > 30
    for section in ("data", "tokenizer", "model", "optimizer", "schedule", "training"):
        for name in type(getattr(RunConfig(), section)).__dataclass_fields__:
            assert f"--{section}.{name}" in printed
            description = printed.split(f"--{section}.{name} ")[-1].split(" --")[0]
            assert len(description.split()) > 5, f"{section}.{name} is not described"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle.d_model", "64"], "modle.d_model"),
        (["--optimizer.lr", "-1"], "optimizer.lr must be between 0 and 1, got -1.0"),
        (["--model.num_heads", "7"], "256 / 7 is not whole"),
        (["--model.norm", "batchnorm"], "'layernorm', 'rmsnorm'"),
        (["--training.max_steps", "many"], "training.max_steps"),
        (["--tokenizer.vocab_size", "200"], "at least 257"),
        (["--data.validation_fraction", "0.9"], "at most 0.5"),
        (["--schedule.warmup_steps", "5000"], "must be below training.max_steps"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[0]
    assert len(lines) == 2


def test_an_unknown_key_in_the_file_is_named(tiny_settings, write_config, capsys):
    tiny_settings["optimizer"]["learning_rate"] = 1.0
    with pytest.raises(SystemExit):
        parse_config(["--config", write_config(tiny_settings)])
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "is empty"),
        (b"\xff\xfe\x00", [], "not UTF-8"),
        (b"too short", [], "fewer than one context of 32"),
        (b"abc " * 2000, ["--model.vocab_size=100"], "model.vocab_size is 100, but the tokenizer has"),
        (b"abc " * 2000, ["--device=cuda"], "cuda is not available"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_files(
    content, arguments, message, tiny_settings, write_config, tmp_path, capsys
):
    if "--device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "mine.txt").write_bytes(content)
    tiny_settings["data"]["corpus"] = str(tmp_path / "mine.txt")
    assert main(["--config", write_config(tiny_settings), *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path(tiny_settings["output_dir"]).exists()
    assert not list(tmp_path.glob("datasets/*tmp"))


def test_a_diverging_run_stops_and_says_what_to_change(tiny_settings, write_config, capsys, monkeypatch):
    monkeypatch.setattr("training.trainer.linear_cross_entropy", lambda h, w, t: h.sum() * float("nan"))
    assert main(["--config", write_config(tiny_settings)]) == 1
    assert "the loss became nan at step 1; lower optimizer.lr" in capsys.readouterr().err


def test_placement_is_settled_from_what_is_there():
    placement = choose_placement("cpu", "auto")
    assert placement.device.type == "cpu"
    assert placement.precision in (torch.float32, torch.bfloat16)
    assert choose_placement("cpu", "float32").describe().endswith("float32")
    if not torch.backends.mps.is_available():
        with pytest.raises(DeviceError, match="mps is not available"):
            choose_placement("mps")

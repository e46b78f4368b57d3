"""Stage 5: configurations, and the mistakes of users."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.placement import DeviceError, choose_placement
from training.run.config import RunConfig
from training.train_command import main, parse_config


@pytest.mark.parametrize("name", ["small_gpt", "tiny_shakespeare", "tiny_shakespeare_fast", "gpt2_124m", "llama_30m"])
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
    for section in ("data", "tokenizer", "model", "loss", "optimizer", "schedule", "training", "tracking"):
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
        (["--training.max_steps", "0500"], "training.max_steps is 0500, which can be read in several ways"),
        (["--training.max_steps=2:30"], "training.max_steps is 2:30, which can be read in several ways"),
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


def test_a_section_without_lines_has_its_defaults_and_one_that_is_there_twice_is_named(tmp_path: Path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("optimizer:\n  # lr: 0.1\nseed: 3\n")
    assert parse_config(["--config", str(path)]) == RunConfig(seed=3)
    path.write_text("optimizer:\n  lr: 0.02\nseed: 3\noptimizer:\n  weight_decay: 0.3\n")
    for arguments in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(SystemExit):
            parse_config(arguments)
        assert "the key 'optimizer' in line 4 is there twice" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0500", "2:30"])
def test_a_number_that_can_be_read_in_several_ways_is_refused_and_a_name_is_not(text: str, tmp_path: Path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(f"training: {{max_steps: {text}}}")
    with pytest.raises(SystemExit):
        parse_config(["--config", str(path)])
    assert f"training.max_steps is {text}, which can be read in several ways" in capsys.readouterr().err
    path.write_text(f"output_dir: {text}")
    assert parse_config(["--config", str(path)]).output_dir == parse_config(["--output_dir", text]).output_dir == text


def test_a_tilde_is_the_home_folder_wherever_a_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # on Windows
    (tmp_path / "run.yaml").write_text("output_dir: ~/run\ndata: {dataset_dir: ~/prepared}\n")
    for arguments in (["--output_dir=~/run", "--data.dataset_dir=~/prepared"], ["--config=~/run.yaml"]):
        config = parse_config(arguments)
        assert (config.output_dir, config.data.dataset_dir) == (str(tmp_path / "run"), str(tmp_path / "prepared"))
    assert parse_config(["--output_dir=a~b"]).output_dir == "a~b"


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


def test_a_diverging_run_stops_says_what_to_change_and_keeps_the_batch(
    tiny_settings, write_config, capsys, monkeypatch
):
    monkeypatch.setattr("training.loss.linear_cross_entropy", lambda h, *rest: h.sum() * float("nan"))
    tiny_settings["training"]["max_skipped_steps"] = 2
    assert main(["--config", write_config(tiny_settings)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "the loss became nan at step 3, 3 steps in a row; lower optimizer.lr" in error
    assert len(list(Path(tiny_settings["output_dir"]).glob("not_finite_step_*.safetensors"))) == 3


def test_placement_is_settled_from_what_is_there():
    placement = choose_placement("cpu", "auto")
    assert placement.device.type == "cpu"
    assert placement.precision in (torch.float32, torch.bfloat16)
    assert choose_placement("cpu", "float32").describe().endswith("float32")
    if not torch.backends.mps.is_available():
        with pytest.raises(DeviceError, match="mps is not available"):
            choose_placement("mps")

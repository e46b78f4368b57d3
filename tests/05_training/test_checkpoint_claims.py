"""Stage 5: what a checkpoint's files claim is compared with its weights and the machine before a model is built."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from support.serving import save_run

from tokenizer.byte_tokenizer import ByteTokenizer
from training.checkpoints.checkpoint import CheckpointError, list_checkpoints, load_model, read_state
from training.checkpoints.manifest import write_manifest
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint of a tiny model."""
    return list_checkpoints(save_run(tmp_path / "run"))[-1]


def refusal(folder: Path) -> str:
    """The message for a checkpoint whose files were changed, and whose manifest fits them."""
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800 and time.monotonic() - started < 20  # a busy machine
    return message


def set_fields(folder: Path, **fields: object) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["model"].update(fields)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 2**20},
        {"vocab_size": 2**31},
        {"num_layers": 10**6},
        {"d_ff": 2**40},
        {"num_heads": 2**29, "d_model": 2**30},
    ],
)
def test_sizes_that_the_weights_cannot_have_are_refused(sizes: dict, folder: Path):
    set_fields(folder, **sizes)
    assert "the files of weights have only" in refusal(folder)


@pytest.mark.parametrize("positions", ["rope", "sinusoidal"])
def test_a_context_that_the_memory_cannot_hold_is_refused(positions: str, folder: Path):
    set_fields(folder, context_length=2**40, positions=positions)
    assert "a context of 1,099,511,627,776 tokens needs" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": "64"}, "model.d_model must be a whole number below 2⁶³, got '64'"),
        ({"d_model": 64.0}, "model.d_model must be a whole number"),
        ({"d_model": float("nan")}, "model.d_model must be a whole number"),
        ({"num_layers": True}, "model.num_layers must be a whole number"),
        ({"num_heads": [4]}, "model.num_heads must be a whole number"),
        ({"dropout": "a"}, "model.dropout must be a finite number"),
        ({"norm": "nosuch"}, "model.norm must be one of layernorm, rmsnorm, rmsnorm_plus_one; got 'nosuch'"),
        ({"positions": 3}, "model.positions must be one of"),
        ({"rope_scaling": {"kind": "linear"}}, "model.rope_scaling has no factor"),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0, "base": 1}}, "unknown rope_scaling settings: base"),
        ({"rope_scaling": "linear"}, "model.rope_scaling must be a section or null"),
        ({"tie_embeddings": "yes"}, "model.tie_embeddings must be true or false"),
        ({"vocab_size": None}, "model.vocab_size is not set"),
        ({1: 2, "a": 3}, "unknown model settings: 1, a"),
    ],
)
def test_a_field_of_another_type_is_named(fields: dict, message: str, folder: Path):
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["model"] |= fields
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [1]\n", "model should hold named fields, it holds a list"),
        ("other: 1\n", "model.vocab_size is not set"),
        ("model: " + "[" * 100_000, "nested too deeply"),
        (BOMB + "model: {vocab_size: *a9}\n", "holds more than 100,000 values"),
        ("model: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_configuration_that_is_none_is_refused(content: str, message: str, folder: Path):
    (folder / "config.yaml").write_text(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[1]", '{"model.safetensors": [1]}', '{"../../../etc/passwd": "0"}']
)
def test_a_manifest_that_is_none_is_refused(content: str, folder: Path):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path):
    model = GPTModel(GPTConfig(vocab_size=255, context_length=8, num_layers=1, num_heads=2, d_model=16))
    settings = {"model": model.config.to_dict()}
    with pytest.raises(CheckpointError, match="the tokenizer has 256 ids, and the model has rows for 255"):
        save_checkpoint(tmp_path / "run", 1, model_weights(model), ByteTokenizer(), settings)
    assert not (tmp_path / "run").exists()


def test_a_model_may_have_more_rows_than_the_tokenizer_has_ids(tmp_path: Path):
    model = GPTModel(GPTConfig(vocab_size=300, context_length=8, num_layers=1, num_heads=2, d_model=16))
    save_checkpoint(tmp_path, 1, model_weights(model), ByteTokenizer(), {"model": model.config.to_dict()})
    assert torch.equal(load_model(tmp_path).model.token_embedding.weight, model.token_embedding.weight)


def test_the_state_of_a_checkpoint_may_not_be_nested_without_end(folder: Path):
    (folder / "state.json").write_text(json.dumps({}) + "[" * 100_000)
    with pytest.raises(CheckpointError, match=r"cannot be resumed from: .*not valid JSON"):
        read_state(folder)

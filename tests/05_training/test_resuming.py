"""Stage 5: which settings make another run, and how a run goes on with another length."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.serving import save_run

from training.anomalies import LossMonitor
from training.checkpoints.checkpoint import CheckpointError, list_checkpoints
from training.checkpoints.manifest import write_manifest
from training.checkpoints.resuming import changed_fields, checkpoint_to_resume
from training.data.config import DataConfig
from training.run.config import RunConfig
from training.run.tracking import read_metrics
from training.train_command import main

NEW = {**dataclasses.asdict(RunConfig()), "prepared": {"corpus_sha256": "a"}, "sequences_per_step": 8}


def test_settings_that_an_older_version_did_not_have_count_as_the_defaults():
    old = copy.deepcopy(NEW)
    del old["seed"], old["optimizer"]["grad_clip"], old["model"]["qk_norm"], old["loss"], old["prepared"]
    old["prepared"] = {}
    assert changed_fields(old, NEW, RunConfig()) == []
    config = RunConfig(seed=5)
    assert changed_fields(old, {**NEW, "seed": 5}, config) == ["seed: 1337 → 5"]


def test_what_differs_is_named_in_every_section():
    new = copy.deepcopy(NEW)
    new["prepared"]["corpus_sha256"], new["optimizer"]["lr"], new["model"]["d_model"] = "b", 0.5, 64
    new["data"]["mixture"] = {"one": 1.0}
    changed = changed_fields(NEW, new, RunConfig(data=DataConfig(mixture={"one": 1.0})))
    assert [line.split(":")[0] for line in changed] == [
        "data.mixture.one",
        "model.d_model",
        "optimizer.lr",
        "prepared.corpus_sha256",
    ]
    assert changed_fields(NEW, {**NEW, "output_dir": "elsewhere"}, RunConfig(output_dir="elsewhere")) == []


@pytest.mark.parametrize(
    "training", [{"max_steps": "many"}, {"max_steps": [1]}, {"max_steps": None}, {"max_steps": 0}, None, [1]]
)
def test_an_earlier_run_whose_settings_have_another_type_is_refused_in_one_line(training: object, tmp_path: Path):
    folder = list_checkpoints(save_run(tmp_path / "run"))[-1]
    settings = json.loads(json.dumps(NEW))
    section = {**settings["training"], **training} if isinstance(training, dict) else training
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "training": section}))
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_to_resume(tmp_path / "run", settings, RunConfig())
    assert "training" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "3", True, [3], float("nan"), {}])
def test_a_state_whose_numbers_have_another_type_is_refused(value: object):
    state = {"mean": 1.0, "variance": 0.5, "seen": 3, "skipped": 0, "skipped_in_a_row": 0}
    monitor = LossMonitor(Path("nowhere"))
    monitor.load_state_dict(state)
    assert monitor.state_dict() == state
    for name in state:
        with pytest.raises(ValueError, match=f"{name} is .*, not a finite number"):
            monitor.load_state_dict({**state, name: value})
    assert monitor.state_dict() == state


@pytest.mark.slow
def test_a_longer_run_with_a_rate_that_needs_no_end_is_bit_for_bit_one_of_that_length(
    tiny_settings, write_config, tmp_path: Path, capsys
):
    tiny_settings["schedule"]["kind"] = "constant"
    config = write_config(tiny_settings)
    assert main(["--config", config, "--training.max_steps", "8"]) == 0
    capsys.readouterr()
    assert main(["--config", config]) == 0
    assert "training.max_steps: 8 → 12. The learning rate goes on as before" in " ".join(
        capsys.readouterr().out.split()
    )
    straight = tmp_path / "straight"
    assert main(["--config", config, "--output_dir", str(straight)]) == 0
    for name in ("model.safetensors", "state.safetensors"):
        longer, whole = (
            load_file(Path(run) / "step_00000012" / name) for run in (tiny_settings["output_dir"], straight)
        )
        assert all(torch.equal(longer[key], whole[key]) for key in whole)
    measured = [r["step"] for r in read_metrics(Path(tiny_settings["output_dir"])) if "validation_bits_per_byte" in r]
    assert measured == [8, 12]  # the end of the longer run is recorded too


@pytest.mark.slow
def test_a_longer_run_follows_the_curve_of_its_new_length_and_a_shorter_one_is_refused(
    tiny_settings, write_config, capsys
):
    tiny_settings["schedule"] = {"kind": "linear", "warmup_steps": 0, "final_fraction": 0.0}
    tiny_settings["tracking"] = {"tensorboard": False}
    config = write_config(tiny_settings)
    assert main(["--config", config, "--training.max_steps", "6"]) == 0
    assert main(["--config", config]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "follows the linear curve of a run of 12 steps from here: 0.5 of its peak, instead of 0" in printed
    rates = {r["step"]: r["lr_adamw"] for r in read_metrics(Path(tiny_settings["output_dir"])) if "lr_adamw" in r}
    assert rates[6] == pytest.approx(5e-3 / 6) and rates[7] == pytest.approx(5e-3 / 2)
    assert main(["--config", config, "--training.max_steps", "10"]) == 1
    error = capsys.readouterr().err.strip()
    assert "training.max_steps is 10, but the run in" in error and "has taken 12 steps" in error
    assert len(error.splitlines()) == 1
    assert list_checkpoints(Path(tiny_settings["output_dir"]))[-1].name == "step_00000012"

"""Stage 5: bad steps, odd losses, averages, best checkpoints, and steps that leave no trace."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.anomalies import LossMonitor
from training.checkpoints.checkpoint import best_checkpoint, find_checkpoint, list_checkpoints, load_model
from training.data.batches import Batch
from training.data.data_loader import WindowLoader
from training.loss import next_token_loss
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.optimizers.weight_average import WeightAverage
from training.placement import Placement, choose_placement
from training.recipe import Recipe, TrainingConfig
from training.run.rehearsal import rehearsal, seconds_per_step
from training.run.tracking import read_metrics
from training.train_command import main
from training.trainer import Run, Trainer, TrainingError
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)


def _trainer(folder: Path, loss=None, batches=None, placement: Placement = CPU, optimizer=None, **training) -> Trainer:
    model = GPTModel(GPTConfig(vocab_size=50, context_length=8, num_layers=1, num_heads=2, d_model=16))
    source = batches or WindowLoader({"a": np.arange(400, dtype=np.uint16) % 50}, 8, seed=0)
    return Trainer(
        model.train(),
        loss or next_token_loss(),
        source,
        recipe=Recipe(
            optimizer or OptimizerConfig(lr=0.01),
            ScheduleConfig("constant", 0),
            TrainingConfig(max_steps=1000, batch_size=4, **training),
        ),
        placement=placement,
        run=Run(folder, None),
    )


def _sometimes_bad(bad_steps: set[int], value: float):
    steps, plain = [0], next_token_loss()

    def loss(model, tensors):
        steps[0] += 1
        return plain(model, tensors) * (value if steps[0] in bad_steps else 1.0)

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_no_number_is_skipped_and_its_batch_saved(value, tmp_path: Path):
    trainer = _trainer(tmp_path, _sometimes_bad({3}, value))
    for _ in range(2):
        assert trainer.take_step()[1] is None
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    expected = WindowLoader({"a": np.arange(400, dtype=np.uint16) % 50}, 8, seed=0)
    expected.load_state_dict({"sequences_drawn": 8})
    _, warning = trainer.take_step()
    assert "skipped, 1 so far" in warning
    saved = load_file(tmp_path / "not_finite_step_00000003_rank_0.safetensors")
    assert torch.equal(saved["0.inputs"], expected.next_batch(4).tensors["inputs"])
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert trainer.take_step()[1] is None
    assert trainer.monitor.skipped == 1 and trainer.monitor.skipped_in_a_row == 0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_gradient_that_is_no_number_is_skipped_too(tmp_path: Path):
    def loss(model, tensors):
        # sqrt has an infinite slope at 0: the loss is fine, the gradient is not
        return next_token_loss()(model, tensors) + (0.0 * model.final_norm.weight).sum().sqrt()

    _, warning = _trainer(tmp_path, loss).take_step()
    assert "the gradient's norm became nan" in warning


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path):
    trainer = _trainer(tmp_path, _sometimes_bad({2, 4, 5, 6}, math.nan), max_skipped_steps=2)
    for _ in range(5):
        trainer.take_step()
    with pytest.raises(TrainingError, match="3 steps in a row; lower optimizer"):
        trainer.take_step()


def test_a_spike_is_told_from_noise(tmp_path: Path):
    monitor = LossMonitor(tmp_path)
    rng = np.random.default_rng(0)
    losses = 3.0 - 0.001 * np.arange(500) + 0.1 * rng.standard_normal(500)
    assert not any(monitor.note(float(loss)) for loss in losses)
    assert monitor.note(6.0)
    assert monitor.note(6.0), "one spike does not hide the next"
    assert monitor.mean == pytest.approx(2.55, abs=0.1)


def test_a_spike_saves_its_batch_and_training_goes_on(tmp_path: Path):
    trainer = _trainer(tmp_path, _sometimes_bad({80}, 100.0))
    warnings = [trainer.take_step()[1] for _ in range(81)]
    assert [i + 1 for i, warning in enumerate(warnings) if warning] == [80]
    assert (tmp_path / "spike_step_00000080_rank_0.safetensors").exists()


def test_micro_batches_count_by_what_they_predict(tmp_path: Path):
    """Two micro-batches with 3 and 16 targets give the same step as one batch with 19."""
    tokens = torch.randint(50, (4, 9))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets.view(-1)[3:16] = -100  # the first two rows predict three tokens

    class Rows:
        def __init__(self, *groups: slice):
            self.groups = list(groups)

        def next_batch(self, batch_size: int) -> Batch:
            rows = self.groups.pop(0)
            return Batch({"inputs": inputs[rows], "targets": targets[rows]}, float((targets[rows] != -100).sum()))

    weights = []
    for groups, accumulation in (((slice(0, 4),), 1), ((slice(0, 2), slice(2, 4)), 2)):
        torch.manual_seed(1)
        trainer = _trainer(
            tmp_path,
            batches=Rows(*groups),
            accumulation_steps=accumulation,
            optimizer=OptimizerConfig(name="sgd", lr=0.5),
        )
        trainer.take_step()
        weights.append(trainer.model.state_dict())
        assert trainer.tokens_seen == 3 + 16
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-6, rtol=1e-5)


def test_rehearsed_steps_leave_no_trace(tmp_path: Path):
    straight, rehearsed = [], []
    for losses, rehearse in ((straight, False), (rehearsed, True)):
        torch.manual_seed(3)
        trainer = _trainer(tmp_path, optimizer=OptimizerConfig(name="muon", ema_decay=0.9))
        for step in range(6):
            if rehearse and step in (0, 3):
                with rehearsal(trainer):
                    trainer.take_step()
                    trainer.take_step()
            losses.append(trainer.take_step()[0])
        losses.append(trainer.tokens_seen)
    assert straight == rehearsed


def test_float16_lowers_its_scale_on_overflow_and_learns(tmp_path: Path):
    trainer = _trainer(tmp_path, placement=choose_placement("cpu", "float16"))
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
    first, warning = trainer.take_step()
    assert warning is None
    assert trainer.scaler.get_scale() == 2.0**39
    losses = [trainer.take_step()[0] for _ in range(60)]
    assert losses[-1] < 0.7 * first
    assert trainer.monitor.skipped == 0


def test_gradient_checkpointing_changes_memory_and_no_numbers(tmp_path: Path):
    losses = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        trainer = _trainer(tmp_path, gradient_checkpointing=checkpointing)
        losses.append([trainer.take_step()[0] for _ in range(5)])
    assert losses[0] == losses[1]


# --- checkpoints ---------------------------------------------------------------------------------


def test_the_best_checkpoint_stays_beside_the_newest(trained_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    newest = list_checkpoints(run)[-1]
    assert best_checkpoint(run) is None or best_checkpoint(run) in list_checkpoints(run)
    for step, loss in ((70, 1.5), (80, 1.2), (90, 1.9)):
        folder = Path(shutil.copytree(newest, run / f"step_{step:08d}"))
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "validation_loss": loss}))
    assert best_checkpoint(run).name == "step_00000080"


@pytest.mark.slow
def test_best_is_kept_by_a_run_and_loaded_by_name(tiny_settings, write_config):
    tiny_settings["training"] |= {"max_steps": 12, "eval_interval": 2, "checkpoint_interval": 2, "keep_checkpoints": 1}
    tiny_settings["optimizer"]["lr"] = 0.9  # so high that an early step is the best
    tiny_settings["optimizer"]["grad_clip"] = 0.0
    assert main(["--config", write_config(tiny_settings)]) == 0
    run = Path(tiny_settings["output_dir"])
    figures = {r["step"]: r["validation_loss"] for r in read_metrics(run) if "mfu" in r}
    best = min(figures, key=figures.get)
    assert {path.name for path in list_checkpoints(run)} == {f"step_{best:08d}", "step_00000012"}
    assert find_checkpoint(run / "best").name == f"step_{best:08d}"
    assert load_model(run / "best").folder.name == f"step_{best:08d}"


@pytest.mark.slow
def test_averaged_weights_are_what_is_saved_and_resume_is_bit_identical(tiny_settings, write_config):
    tiny_settings["optimizer"]["ema_decay"] = 0.8
    config = write_config(tiny_settings)
    assert main(["--config", config]) == 0
    straight = Path(tiny_settings["output_dir"])
    saved = load_file(straight / "step_00000012" / "model.safetensors")
    raw = load_file(straight / "step_00000012" / "state.safetensors")
    assert any(not torch.equal(saved[name], raw[f"raw.{name}"]) for name in saved)
    killed = straight.with_name("killed")
    shutil.copytree(straight, killed)
    for folder in list_checkpoints(killed)[1:]:
        shutil.rmtree(folder)
    assert main(["--config", config, "--output_dir", str(killed)]) == 0
    again = load_file(killed / "step_00000012" / "model.safetensors")
    assert all(torch.equal(saved[name], again[name]) for name in saved)


# --- data ----------------------------------------------------------------------------------------


def test_the_time_of_a_step_is_reckoned_from_a_few_micro_batches_and_leaves_no_trace(tmp_path: Path):
    """With 32 large micro-batches, one step would make the user of a plan wait for minutes."""
    drawn = []
    plain = next_token_loss()

    def loss(model, tensors):
        drawn.append(len(tensors["inputs"]))
        return plain(model, tensors)

    trainer = _trainer(tmp_path, loss, accumulation_steps=32)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert seconds_per_step(trainer) > 0
    assert drawn == [4, 4, 4]
    assert trainer.recipe.training.accumulation_steps == 32 and trainer.step == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    trainer.take_step()
    assert len(drawn) == 3 + 32


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_state_and_the_weights_are_all_that_the_next_steps_depend_on(tmp_path: Path, optimizer: str):
    first = _trainer(tmp_path, optimizer=OptimizerConfig(name=optimizer, lr=0.01))
    for _ in range(3):
        first.take_step()
    values, tensors = first.state()
    second = _trainer(tmp_path, optimizer=OptimizerConfig(name=optimizer, lr=0.01))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state(json.loads(json.dumps(values)), {name: tensor.clone() for name, tensor in tensors.items()})
    assert second.step == 3 and second.tokens_seen == first.tokens_seen
    assert [first.take_step()[0] for _ in range(3)] == [second.take_step()[0] for _ in range(3)]


def test_a_recipe_refuses_a_warm_up_as_long_as_the_run():
    with pytest.raises(ValueError, match=r"schedule.warmup_steps \(10\) must be below training.max_steps \(10\)"):
        Recipe(schedule=ScheduleConfig(warmup_steps=10), training=TrainingConfig(max_steps=10))


def test_an_average_follows_what_is_learned_and_loads_beside_frozen_weights():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    raw = {f"raw.{name}": torch.full_like(p, 3.0) for name, p in model.named_parameters() if p.requires_grad}
    saved = model[1].weight.detach().clone()
    average.load(raw)
    assert torch.equal(model[1].weight, raw["raw.1.weight"])
    with average.applied():
        assert torch.equal(model[1].weight, saved)

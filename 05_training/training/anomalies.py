"""Steps that are not like the others: a loss that is not a number, and a loss that jumps.

A loss or gradient of inf or nan would turn every weight into nan. Such a step is skipped: the weights stay as they
are, and the next step takes new data. One such step is bad luck (a rare batch, an overflow). Several in a row mean
that the weights themselves have gone bad, and the run stops. A spike is a loss far above what is usual. It often
heals by itself, and is reported. In both cases the batch is saved, so that it can be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from groundwork.tensor_files import save_tensors
from training.checkpoints.checkpoint import finite_numbers
from training.data.batches import Batch

SPIKE_DEVIATIONS = 6.0  # standard deviations above the mean; a normal loss gets there once in 10⁹ steps
MEMORY = 0.98  # of the running mean and variance: about the last fifty steps
SETTLING_STEPS = 50  # before that, the loss falls too fast for a mean to say anything


class LossMonitor:
    """Learns which loss is usual.

    Args:
        run_folder: where batches are saved.
    """

    def __init__(self, run_folder: Path):
        self.run_folder = run_folder
        self.mean, self.variance, self.seen = 0.0, 0.0, 0
        self.skipped = 0  # over the whole run
        self.skipped_in_a_row = 0

    def note(self, loss: float) -> bool:
        """Record the loss of a step that was taken; True when it is a spike.

        A spike is recorded as the threshold, not as its own value, so that one spike does not hide the next.
        """
        self.skipped_in_a_row = 0
        deviation = math.sqrt(self.variance)
        threshold = self.mean + SPIKE_DEVIATIONS * max(deviation, 0.01 * abs(self.mean))
        spike = self.seen >= SETTLING_STEPS and loss > threshold
        value = threshold if spike else loss
        # The first steps have the weights of a plain average, as with Adam's corrected moments.
        share = max(1 - MEMORY, 1 / (self.seen + 1))
        difference = value - self.mean
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference**2)
        self.seen += 1
        return spike

    def note_skipped(self) -> None:
        """Count a step that was not taken."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    def save_batches(self, reason: str, step: int, rank: int, batches: Sequence[Batch]) -> str:
        """Write the micro-batches of a step to a safetensors file, `MICROBATCH.NAME`, and say where it is.

        A file that cannot be written is not worth the end of a run, so that too is only said.
        """
        path = self.run_folder / f"{reason}_step_{step:08d}_rank_{rank}.safetensors"
        tensors = {
            f"{index}.{name}": tensor.detach().cpu().contiguous().clone()
            for index, batch in enumerate(batches)
            for name, tensor in batch.tensors.items()
        }
        try:
            self.run_folder.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, path)
        except (OSError, SafetensorError) as error:
            return f"its batch could not be saved as {path}: {error}"
        return f"its batch is in {path}"

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, in JSON types."""
        return {name: getattr(self, name) for name in ("mean", "variance", "seen", "skipped", "skipped_in_a_row")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises:
            KeyError, ValueError: a number is missing.
        """
        vars(self).update(finite_numbers(state, self.state_dict()))

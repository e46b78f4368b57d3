"""What a run leaves to look at: metrics.jsonl, TensorBoard events, a loss curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "loss_curve.png"


class Tracker:
    """Writes each record to a JSON line and to TensorBoard.

    Args:
        run_folder: where `metrics.jsonl`, the events and the curve go.
        start_step: steps already taken. What a killed run recorded after its last checkpoint is
            dropped, since those steps are taken again.
    """

    def __init__(self, run_folder: Path, start_step: int):
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = run_folder
        self.records = [record for record in read_metrics(run_folder) if record["step"] <= start_step]
        path = run_folder / METRICS_FILE
        path.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for the run
        self._writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start_step + 1)

    def log(self, step: int, **values: float) -> None:
        """Record values of a step, such as train_loss=… or validation_loss=…, in nats a token."""
        record: dict[str, Any] = {"step": step, **values}
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Put a text, such as a sample, into TensorBoard."""
        self._writer.add_text(name, f"```\n{text}\n```", step)

    def draw_curve(self, bytes_per_token: float, references: dict[str, float]) -> Path:
        """Draw training and validation loss as bits per byte.

        Args:
            bytes_per_token: of the validation text; turns nats a token into bits per byte.
            references: horizontal lines to compare with, in bits per byte.

        Returns:
            The path of the PNG.
        """
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        to_bits = 1.0 / (math.log(2) * bytes_per_token)
        figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
        steps, losses = self._series("train_loss", to_bits)
        if steps:
            axes.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.8)
            axes.plot(steps, _smooth(losses), color="C0", label="training (smoothed)")
        axes.plot(*self._series("validation_loss", to_bits), "o-", color="C1", markersize=4, label="validation")
        for index, (label, value) in enumerate(references.items()):
            axes.axhline(value, linestyle="--", linewidth=1, color=f"C{index + 2}", label=f"{label} ({value:.2f})")
        axes.set(xlabel="step", ylabel="bits per byte", title="Loss")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.tight_layout()
        path = self.run_folder / CURVE_FILE
        figure.savefig(path)
        plt.close(figure)
        return path

    def _series(self, name: str, factor: float) -> tuple[list[int], list[float]]:
        points = [(record["step"], record[name] * factor) for record in self.records if name in record]
        return [step for step, _ in points], [value for _, value in points]

    def close(self) -> None:
        """Flush everything to disk."""
        self._file.close()
        self._writer.close()


def _smooth(values: list[float], decay: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for starting at nothing as Adam's moments are."""
    smoothed, average, weight = [], 0.0, 0.0
    for value in values:
        average, weight = decay * average + (1 - decay) * value, decay * weight + (1 - decay)
        smoothed.append(average / weight)
    return smoothed


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """Records of an earlier run; a last line cut short by a crash is passed over."""
    path = run_folder / METRICS_FILE
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records

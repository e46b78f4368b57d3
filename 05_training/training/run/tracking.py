"""Records of a run: metrics as JSON lines and CSV, TensorBoard events, a loss curve, and W&B if asked."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from groundwork.files import replacing, write_atomically

METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "metrics.csv"
CURVE_FILE = "loss_curve.png"


@dataclass(frozen=True)
class TrackingConfig:
    """What is recorded besides metrics.jsonl and the loss curve.

    Args:
        tensorboard: write TensorBoard events: curves, histograms of weights, samples, the configuration.
        wandb_project: also send curves to Weights & Biases under this project; needs `pip install wandb`.
    """

    tensorboard: bool = True
    wandb_project: str | None = None


class TrackingError(ValueError):
    """A tracker that was asked for and is not available."""


class Tracker:
    """Writes each record to a JSON line, and to the trackers that the configuration names.

    Args:
        run_folder: where everything goes.
        start_step: steps already taken. What a killed run recorded after its last checkpoint is
            dropped, since those steps are taken again.
        config: which trackers.
        settings: the run's configuration, shown beside the curves.

    Raises:
        TrackingError: Weights & Biases is asked for and not installed.
    """

    def __init__(
        self,
        run_folder: Path,
        start_step: int,
        config: TrackingConfig | None = None,
        settings: dict[str, Any] | None = None,
    ):
        config = config or TrackingConfig()
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = run_folder
        self.records = [record for record in read_metrics(run_folder) if record["step"] <= start_step]
        path = run_folder / METRICS_FILE
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for the run
        self._events: Any = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._events = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start_step + 1)
            if settings is not None:
                self._events.add_text("configuration", f"```yaml\n{yaml.safe_dump(settings)}\n```", start_step)
        self._wandb = _start_wandb(config.wandb_project, run_folder, settings or {}) if config.wandb_project else None

    def log(self, step: int, **values: float) -> None:
        """Record values of a step, such as train_loss=… or validation_loss=…, in nats a token."""
        record: dict[str, Any] = {"step": step, **values}
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Put a text, such as a sample, into TensorBoard."""
        if self._events is not None:
            self._events.add_text(name, f"```\n{text}\n```", step)

    def log_histograms(self, model: nn.Module, step: int) -> None:
        """Put the distribution of every parameter into TensorBoard: dead or exploding layers are easy to see."""
        if self._events is not None:
            for name, parameter in model.named_parameters():
                self._events.add_histogram(name, parameter.detach().float().cpu(), step)

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
        """Flush everything to disk, and write the metrics as a table for spreadsheets."""
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self.records:
            columns = list(dict.fromkeys(name for record in self.records for name in record))
            with (
                replacing(self.run_folder / TABLE_FILE) as temporary,
                open(temporary, "w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.records)


def _start_wandb(project: str, run_folder: Path, settings: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise TrackingError(
            f"tracking.wandb_project is {project!r}, but wandb is not installed: pip install wandb, or set it to null"
        ) from None
    return wandb.init(project=project, name=run_folder.name, dir=str(run_folder), config=settings, resume="allow")


def _smooth(values: list[float]) -> list[float]:
    """The mean of each value and those shortly before it; nan where there is none."""
    width = max(10, len(values) // 40)
    smoothed = []
    for end in range(1, len(values) + 1):
        recent = [value for value in values[max(0, end - width) : end] if math.isfinite(value)]  # nan: a skipped step
        smoothed.append(sum(recent) / len(recent) if recent else math.nan)
    return smoothed


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """Records of an earlier run; a last line cut short by a crash is ignored."""
    path = run_folder / METRICS_FILE
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records

"""Records of a run: metrics as JSON lines and CSV, TensorBoard events, a loss curve, a summary, and W&B if asked.

A record is never worth the end of the run that it is of. What cannot be written, on a full disk for example, is told once.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from groundwork.figures import save_figure
from groundwork.files import replacing, to_json, write_atomically, write_json
from groundwork.text_sources import TextError, parse_json, read_lines
from groundwork.user_errors import is_finite, notice

METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "metrics.csv"
CURVE_FILE = "loss_curve.png"
SUMMARY_FILE = "summary.json"


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


class LineFile:
    """A text file that is written line by line. What cannot be written is kept, and written before the next line.

    Args:
        path: the file; it is replaced.
        text: its first lines.
    """

    def __init__(self, path: Path, text: str):
        self.path = path
        write_atomically(path, text)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for the run
        self._waiting = b""

    def append(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: it could not be written. No half line is left in the file.
        """
        self._waiting += f"{line}\n".encode()
        self._write()

    def _write(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(self._waiting) < len(self._waiting):  # a disk that is nearly full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise
        self._waiting = b""

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: there were lines left that could not be written.
        """
        try:
            self._write()
        finally:
            self._file.close()


class Tracker:
    """Writes each record to a JSON line, and to the trackers that the configuration names.

    Args:
        run_folder: where everything goes.
        start_step: steps already taken. What a killed run recorded after its last checkpoint is
            dropped, since those steps are taken again.
        config: which trackers.
        settings: the run's configuration, shown beside the curves.
        warn: called with a line about what could not be written.

    Raises:
        TrackingError: Weights & Biases is asked for and not installed.
        OSError: the folder cannot be written at all.
    """

    def __init__(
        self,
        run_folder: Path,
        start_step: int,
        config: TrackingConfig | None = None,
        settings: dict[str, Any] | None = None,
        warn: Callable[[str], None] = print,
    ):
        config = config or TrackingConfig()
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder, self.warn = run_folder, warn
        self.records = [record for record in read_metrics(run_folder) if record["step"] <= start_step]
        lines = "".join(to_json(record) + "\n" for record in self.records)
        self._lines = LineFile(run_folder / METRICS_FILE, lines)
        self._failing: set[Path] = set()  # files whose last write failed, which was told
        self._events: Any = None
        self._hook = threading.excepthook
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            threading.excepthook = self._quiet_hook
            self._events = SummaryWriter(str(run_folder / "tensorboard"), purge_step=start_step + 1)
            if settings is not None:
                self._add_event("add_text", "configuration", f"```yaml\n{yaml.safe_dump(settings)}\n```", start_step)
        self._wandb = _start_wandb(config.wandb_project, run_folder, settings or {}) if config.wandb_project else None

    @contextlib.contextmanager
    def _telling(self, path: Path, *, afterwards: str = "training goes on") -> Iterator[None]:
        """Inside this context, an error becomes one line, which is told when it is the first one of this file."""
        try:
            yield
        except Exception as error:  # TensorBoard and W&B have errors of their own
            if path not in self._failing:
                self.warn(f"warning: {path} could not be written: {error}; {afterwards}")
            self._failing.add(path)
        else:
            self._failing.discard(path)

    def _quiet_hook(self, failed: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread prints a traceback, though its error is raised again at the next event."""
        if type(failed.thread).__module__.partition(".")[0] != "tensorboard":
            self._hook(failed)

    def _add_event(self, method: str, *arguments: Any) -> None:
        """Call a method of TensorBoard's writer; after an error its thread has ended, and with it the events."""
        if self._events is None:
            return
        where = self.run_folder / "tensorboard"
        with self._telling(where, afterwards="it gets no more of this run until the run is started again"):
            getattr(self._events, method)(*arguments)
            return
        self._events = None

    def log(self, step: int, **values: float) -> None:
        """Record values of a step, such as train_loss=… or validation_loss=…, in nats a token."""
        record: dict[str, Any] = {"step": step, **values}
        self.records.append(record)
        with self._telling(self._lines.path):
            self._lines.append(to_json(record))
        for name, value in values.items():
            self._add_event("add_scalar", name, value, step)
        if self._wandb is not None:
            with self._telling(self.run_folder / "wandb"):
                self._wandb.log(values, step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Put a text, such as a sample, into TensorBoard."""
        self._add_event("add_text", name, f"```\n{text}\n```", step)

    def log_histograms(self, model: nn.Module, step: int) -> None:
        """Put the distribution of every parameter into TensorBoard: dead or exploding layers are easy to see."""
        if self._events is not None:
            for name, parameter in model.named_parameters():
                self._add_event("add_histogram", name, parameter.detach().float().cpu(), step)

    def write_summary(self, content: dict[str, Any]) -> None:
        """Write the results of the run to `summary.json`."""
        path = self.run_folder / SUMMARY_FILE
        with self._telling(path):
            write_json(path, content)

    def draw_curve(self, bytes_per_token: float, references: dict[str, float]) -> Path | None:
        """Draw training and validation loss as bits per byte.

        Args:
            bytes_per_token: of the validation text; turns nats a token into bits per byte.
            references: horizontal lines to compare with, in bits per byte.

        Returns:
            The path of the PNG; None if it could not be written.
        """
        from matplotlib.figure import Figure

        to_bits = 1.0 / (math.log(2) * bytes_per_token)
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="tight")
        axes = figure.add_subplot()
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
        path = self.run_folder / CURVE_FILE
        with self._telling(path):
            return save_figure(figure, path)
        return None

    def _series(self, name: str, factor: float) -> tuple[list[int], list[float]]:
        points = [(record["step"], record[name] * factor) for record in self.records if name in record]
        return [step for step, _ in points], [value for _, value in points]

    def close(self) -> None:
        """Flush everything to disk, and write the metrics as a table for spreadsheets."""
        with self._telling(self._lines.path):
            self._lines.close()
        self._add_event("close")
        threading.excepthook = self._hook
        if self._wandb is not None:
            with self._telling(self.run_folder / "wandb"):
                self._wandb.finish()
        if self.records:
            columns = list(dict.fromkeys(name for record in self.records for name in record))
            path = self.run_folder / TABLE_FILE
            with (
                self._telling(path),
                replacing(path) as temporary,
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
    """Records of an earlier run, with nan for what was not a finite number.

    Lines that are not records are left out, which is said: a crash cuts the last line short.
    """
    path = run_folder / METRICS_FILE
    records: list[dict[str, Any]] = []
    left_out = 0
    if path.exists():
        for number, line in read_lines(path):
            record = None
            with contextlib.suppress(TextError):
                record = parse_json(line, path, number)
            if record is not None and _is_record(record):
                records.append({name: math.nan if value is None else value for name, value in record.items()})
            else:
                left_out += 1
    if left_out:
        notice(f"{path}: left out, because not records of steps: {left_out} of {left_out + len(records)} lines")
    return records


def _is_record(content: Any) -> bool:
    """Whether a line names a step and numbers that were measured then; null stands for nan."""
    return (
        isinstance(content, dict)
        and type(content.get("step")) is int
        and all(value is None or isinstance(value, float) or is_finite(value) for value in content.values())
    )

"""Save figures, and draw the curves that every training run draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundwork.files import replacing

if TYPE_CHECKING:  # imported where it is needed, because it takes longer than all other imports here together
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]  # x and y of each point


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write an image; the suffix gives the format (.png, .svg, .pdf). A half-written file never stays.

    Args:
        figure: what to write.
        path: the image file; its folder is made.
    """
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
    return path


def draw_curves(axes: Axes, curves: Mapping[str, Curve], references: Mapping[str, float], xlabel: str) -> None:
    """Draw bits per byte against any quantity, with horizontal lines for comparison.

    Args:
        axes: where to draw.
        curves: what was measured, by name.
        references: heights of the lines, by name.
        xlabel: what the horizontal axis counts.
    """
    for index, (name, (x, y)) in enumerate(curves.items()):
        few = len(x) <= 50
        axes.plot(
            x, y, "o-" if few else "-", color=f"C{index}", markersize=4, linewidth=1.5 if few else 0.8, label=name
        )
    for index, (name, height) in enumerate(references.items()):
        axes.axhline(
            height, linestyle="--", linewidth=1, color=f"C{len(curves) + index}", label=f"{name} ({height:.2f})"
        )
    axes.set(xlabel=xlabel, ylabel="bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()


def save_curves(
    path: Path | str, curves: Mapping[str, Curve], references: Mapping[str, float], xlabel: str, title: str
) -> Path:
    """Save an image that shows only `draw_curves`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    draw_curves(axes, curves, references, xlabel)
    axes.set_title(title)
    return save_figure(figure, path)

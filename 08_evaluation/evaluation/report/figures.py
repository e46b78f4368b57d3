"""The plots of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from evaluation.analysis.loss_analysis import Group
from evaluation.calibration import Calibration, draw_reliability
from evaluation.report.data import ReportData


def reliability(calibration: Calibration) -> Figure:
    """How sure the model is, compared with how often it is right."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    draw_reliability(figure.add_subplot(), calibration)
    return figure


def bars(groups: Sequence[Group], xlabel: str) -> Figure:
    """Mean bits of a token in each group, with the group's share of all bits."""
    figure = Figure(figsize=(7, 0.45 * len(groups) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(groups))
    axes.barh(places, [group.bits for group in groups], color="C0", alpha=0.8)
    for place, group in zip(places, groups, strict=True):
        axes.text(
            group.bits, float(place), f"  {group.share_of_bits:.0%} of the bits, {group.tokens:,} tokens", va="center"
        )
    axes.set(yticks=places, yticklabels=[group.name for group in groups], xlabel=xlabel)
    axes.set_xlim(0, 1.6 * max(group.bits for group in groups))
    axes.invert_yaxis()
    return figure


def losses(nats: np.ndarray) -> Figure:
    """Distribution of the bits of single tokens."""
    bits = nats / np.log(2)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(bits, bins=80, color="C0", alpha=0.8)
    for share in (0.5, 0.9, 0.99):
        value = float(np.quantile(bits, share))
        axes.axvline(value, color="0.3", linewidth=1, linestyle="--")
        axes.text(value, axes.get_ylim()[1] * 0.92, f" {share:.0%} below {value:.1f}", fontsize=8)
    axes.set(xlabel="bits of a token", ylabel="tokens")
    return figure


def embedding_map(data: ReportData) -> Figure:
    """The most frequent tokens in the plane of their main directions."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(data.map_places[:, 0], data.map_places[:, 1], s=4, color="0.6")
    for label, (x, y) in zip(data.map_labels, data.map_places, strict=True):
        shown = "".join(
            "·" if c == " " else c if c.isprintable() else "⏎" if c == "\n" else f"\\x{ord(c):02x}" for c in label
        )
        axes.annotate(shown, (x, y), fontsize=7, parse_math=False)  # a dollar sign does not begin a formula
    axes.set_title(f"{len(data.map_labels)} most frequent tokens, {data.map_kept:.0%} of their variance")
    axes.set(xticks=[], yticks=[])
    return figure


def attention(data: ReportData) -> Figure:
    """Every head on the beginning of a document. The square root is drawn, so that small weights can be seen."""
    layers, heads = data.attention.shape[:2]
    figure = Figure(figsize=(1.7 * heads + 0.5, 1.7 * layers + 0.5), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            axes.imshow(np.sqrt(data.attention[layer, head]), cmap="magma", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=7)
            axes.set(xticks=[], yticks=[])
    return figure

"""Pictures of what a model attends to: heat maps by layer and head, the rollout, a page to explore, text.

The weights are those of the softmax, recorded while the model runs. Read them with care: a weight says
where a head looked, not what the model did with what it found there.

python -m attention.attention_visualizer        # a head made by hand
python 08_evaluation/visualize_attention.py     # the heads of a trained model
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from attention.masks import causal_mask
from attention.multi_head_attention import MultiHeadAttention
from attention.scaled_dot_product import attention_reference
from groundwork.files import write_atomically

PAGE = Path(__file__).with_name("attention_page.html")
SHADES = " ·░▒▓█"


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Record the attention weights of every layer inside the `with` block.

    The fused kernel never has the weights. So inside the block attention is computed in the matrix form,
    which is slower and needs memory quadratic in the length.

    Args:
        model: has `MultiHeadAttention` modules somewhere.

    Yields:
        Layer → weights of its latest forward pass, (batch, heads, num_queries, num_keys). The dict is
        filled while the model runs.
    """
    weights: dict[int, Tensor] = {}
    layers = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]

    def observe(layer: int, layer_weights: Tensor) -> None:
        weights[layer] = layer_weights.detach().float().cpu()

    for layer in layers:
        layer.observer = observe
    try:
        yield weights
    finally:
        for layer in layers:
            layer.observer = None


def stack_layers(recorded: dict[int, Tensor], batch_index: int = 0) -> Tensor:
    """The recorded weights of one sequence as one tensor, (layers, heads, num_queries, num_keys).

    Raises:
        ValueError: nothing was recorded.
    """
    if not recorded:
        raise ValueError("no attention was recorded: call the model inside `with record_attention(model)`")
    return torch.stack([recorded[layer][batch_index] for layer in sorted(recorded)])


def attention_rollout(weights: Tensor) -> Tensor:
    """How much of each input position reaches each output position through all layers.

    Heads are averaged. Half of every layer's output is taken to be its input, which the residual stream
    carries (Abnar & Zuidema, 2020: "Quantifying Attention Flow in Transformers").

    Args:
        weights: (layers, heads, time, time), each row summing to 1.

    Returns:
        (time, time), each row summing to 1.

    Raises:
        ValueError: `weights` has other axes, or not as many queries as keys.
    """
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
        raise ValueError(f"weights must be (layers, heads, time, time), got the shape {tuple(weights.shape)}")
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype)
    flow = identity
    for layer in weights.mean(dim=1):
        flow = (0.5 * layer + 0.5 * identity) @ flow
    return flow


def draw_heatmaps(weights: Tensor, tokens: Sequence[str], path: Path | str, title: str = "") -> Path:
    """Save a picture with one heat map for each layer and head, and the rollout.

    Args:
        weights: (layers, heads, time, time).
        tokens: text of each position.
        path: the PNG, PDF or SVG file.
        title: title of the whole picture.

    Returns:
        The path.

    Raises:
        ValueError: weights of another shape, or not one token a position.
    """
    flow = _checked_rollout(weights, tokens)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layers, heads, time, _ = weights.shape
    columns = heads + (layers > 1)  # the rollout has a separate column
    cell = 1.1 + 0.11 * min(time, 32)
    figure, axes = plt.subplots(
        layers, columns, figsize=(cell * columns + 0.8, cell * layers + 0.6), squeeze=False, layout="constrained"
    )
    labels = [visible_token(token).replace("$", r"\$") for token in tokens]  # matplotlib reads $…$ as mathematics
    few = time <= 32  # more labels than that would overlap
    for layer in range(layers):
        for column in range(columns):
            axis = axes[layer][column]
            rollout = column == heads
            if rollout and layer < layers - 1:  # the rollout is in the last row, where the labels need room anyway
                axis.axis("off")
                continue
            image = flow if rollout else weights[layer, column]
            # The square root makes small weights visible without hiding the order.
            axis.imshow(image.sqrt(), vmin=0.0, vmax=1.0, cmap="viridis", interpolation="nearest")
            axis.set_title("rollout" if rollout else f"layer {layer}, head {column}", fontsize=8)
            below, beside = few and (layer == layers - 1 or rollout), few and column == 0
            axis.set_xticks(range(time) if below else [], labels if below else [], rotation=90, fontsize=6)
            axis.set_yticks(range(time) if beside else [], labels if beside else [], fontsize=6)
    if title:
        figure.suptitle(title, fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def write_page(weights: Tensor, tokens: Sequence[str], path: Path | str, title: str = "Attention") -> Path:
    """Write one HTML file that needs no other. Point at a token in it to see what the token attends to.

    Args:
        weights: (layers, heads, time, time).
        tokens: text of each position; any characters.
        path: the file to write.
        title: shown at the top.

    Returns:
        The path.

    Raises:
        ValueError: weights of another shape, or not one token a position.
    """
    rollout = (_checked_rollout(weights, tokens) * 1000).round().to(torch.int32).tolist()
    # No colour shows more than thousandths, and they keep the file small. Rows end at the diagonal.
    rows = (weights * 1000).round().to(torch.int32).tolist()
    triangles = [[[row[: i + 1] for i, row in enumerate(head)] for head in layer] for layer in rows]
    content = {
        "title": title,
        "tokens": list(tokens),
        "layers": triangles,
        "rollout": [row[: i + 1] for i, row in enumerate(rollout)],
    }
    # `</script>` in a token must not end the script element.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    write_atomically(path, PAGE.read_text(encoding="utf-8").replace("ATTENTION_DATA", data))
    return Path(path)


def _checked_rollout(weights: Tensor, tokens: Sequence[str]) -> Tensor:
    rollout = attention_rollout(weights)
    if len(tokens) != len(rollout):
        raise ValueError(f"each position needs one token, got {len(tokens)} tokens for {len(rollout)} positions")
    return rollout


def draw_text(weights: Tensor, tokens: Sequence[str]) -> str:
    """Draw one head as text, one line for each query. A darker character means more weight.

    Args:
        weights: (time, time).
        tokens: text of each position.
    """
    labels = [visible_token(token) for token in tokens]
    width = max(len(label) for label in labels)
    lines = []
    for i, (label, row) in enumerate(zip(labels, weights.tolist(), strict=True)):
        cells = "".join(SHADES[min(len(SHADES) - 1, round(math.sqrt(weight) * (len(SHADES) - 1)))] for weight in row)
        best = max(range(i + 1), key=row.__getitem__)
        lines.append(f"{label:>{width}} │{cells[: i + 1]:{len(labels)}}│ {row[best]:.2f} on {labels[best]}")
    return "\n".join(lines)


def visible_token(token: str) -> str:
    """A token with its spaces and line ends made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def main() -> None:
    """Show a head that looks for earlier occurrences of the same letter."""
    tokens = list("abracadabra")
    letters = torch.tensor([sorted(set(tokens)).index(letter) for letter in tokens])
    one_hot = 6.0 * nn.functional.one_hot(letters).float()[None, None]  # a key resembles queries of its letter
    _, weights = attention_reference(one_hot, one_hot, one_hot, causal_mask(len(tokens), len(tokens)))
    print("each letter attends to itself and to its earlier occurrences\n")
    print(draw_text(weights[0, 0], tokens))


if __name__ == "__main__":
    main()

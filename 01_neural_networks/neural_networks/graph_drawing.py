"""A picture of a computation: what was made from what, and which gradients flowed back.

`to_dot` writes the graph in the language of Graphviz (paste it into any viewer, or run `dot -Tsvg`).
`draw_graph` draws it from left to right and needs only matplotlib. Draw before `backward`, which
frees the graph, or pass `retain_graph=True` to `backward`.

    python -m neural_networks.graph_drawing      # a neuron: DOT to the terminal, PNG to outputs/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from groundwork.figures import save_figure
from neural_networks.backpropagation import Tensor

Names = Mapping[str, Tensor]


def nodes_and_edges(output: Tensor) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Every tensor that the output was computed from, constants included, and which one is an input of which.

    Returns:
        Tensors, inputs before outputs, and pairs of positions in that list (from, to).
    """
    order: list[Tensor] = []
    place: dict[int, int] = {}
    stack: list[tuple[Tensor, bool]] = [(output, False)]
    while stack:
        node, inputs_done = stack.pop()
        if id(node) in place:
            continue
        if inputs_done:
            place[id(node)] = len(order)
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend((tensor, False) for tensor in reversed(node._inputs))
    edges = [(place[id(tensor)], i) for i, node in enumerate(order) for tensor in node._inputs]
    return order, edges


def label(tensor: Tensor, name: str | None = None) -> str:
    """The text in the box: name, operation, number or shape, and the gradient if there is one."""
    title = name or ("constant" if not tensor.requires_grad else "leaf")
    if tensor.operation != "leaf":
        title = f"{tensor.operation}  →  {name}" if name else tensor.operation
    single = tensor.data.size == 1
    lines = [title, f"{tensor.item():.4g}" if single else "×".join(map(str, tensor.shape))]
    if tensor.grad is not None:
        lines.append(f"grad {tensor.grad.item():.4g}" if single else f"|grad| {(tensor.grad**2).sum() ** 0.5:.3g}")
    return "\n".join(lines)


def _labels(nodes: list[Tensor], names: Names) -> list[str]:
    name_of = {id(tensor): name for name, tensor in names.items()}
    return [label(node, name_of.get(id(node))) for node in nodes]


def to_dot(output: Tensor, names: Names = {}) -> str:  # noqa: B006  a mapping that is only read
    """The graph as Graphviz DOT.

    Args:
        output: the tensor whose computation is drawn.
        names: names to show, each with its tensor.

    >>> print(to_dot(Tensor(2.0, requires_grad=True) * 3.0))
    digraph computation {
      rankdir=LR
      node [shape=box fontname="Helvetica"]
      0 [label="leaf\\n2"]
      1 [label="constant\\n3"]
      2 [label="×\\n6"]
      0 -> 2
      1 -> 2
    }
    """
    nodes, edges = nodes_and_edges(output)
    escaped = [text.replace("\\", "\\\\").replace('"', r"\"").replace("\n", r"\n") for text in _labels(nodes, names)]
    return "\n".join(
        [
            "digraph computation {",
            "  rankdir=LR",
            '  node [shape=box fontname="Helvetica"]',
            *(f'  {i} [label="{text}"]' for i, text in enumerate(escaped)),
            *(f"  {a} -> {b}" for a, b in edges),
            "}",
        ]
    )


def layout(num_nodes: int, edges: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """A place for each node, in columns (Sugiyama et al., 1981, in its simplest form).

    The column of a node is the length of the longest way to it. Then leaves move right until they are
    next to their first use. Within a column, a few sweeps order the nodes by the mean height of their
    neighbours, which removes most crossings.

    Returns:
        (column, height) of each node, heights centred on 0 and at least 1 apart.
    """
    column = [0] * num_nodes
    for a, b in edges:  # sorted by the place of b, so the column of a is final
        column[b] = max(column[b], column[a] + 1)
    has_inputs = {b for _, b in edges}
    for node in range(num_nodes):
        uses = [column[b] for a, b in edges if a == node]
        if node not in has_inputs and uses:
            column[node] = min(uses) - 1
    members: dict[int, list[int]] = {}
    for node in range(num_nodes):
        members.setdefault(column[node], []).append(node)
    neighbours: list[list[int]] = [[] for _ in range(num_nodes)]
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    height = [0.0] * num_nodes
    for nodes in members.values():
        for i, node in enumerate(nodes):
            height[node] = (len(nodes) - 1) / 2 - i
    for sweep in range(8):
        for _, nodes in sorted(members.items(), reverse=bool(sweep % 2)):
            wish = {n: sum(height[m] for m in neighbours[n]) / max(1, len(neighbours[n])) for n in nodes}
            nodes.sort(key=lambda n: -wish[n])
            for i, node in enumerate(nodes):
                height[node] = (len(nodes) - 1) / 2 - i
    return [(float(column[node]), height[node]) for node in range(num_nodes)]


def draw_graph(output: Tensor, path: Path | str, names: Names = {}) -> Path:  # noqa: B006
    """Draw the graph as an image; the suffix of the path gives the format (.png, .svg, .pdf).

    Args:
        output: the tensor whose computation is drawn.
        path: the image file; its folder is made.
        names: names to show, each with its tensor.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    nodes, edges = nodes_and_edges(output)
    places = [(2.1 * x, 1.15 * y) for x, y in layout(len(nodes), edges)]
    width = max(x for x, _ in places) + 2.2
    lowest, highest = min(y for _, y in places), max(y for _, y in places)
    figure = Figure(figsize=(min(width, 60), min(highest - lowest + 1.4, 60)), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.1, width - 1.1), ylim=(lowest - 0.7, highest + 0.7))
    axes.axis("off")
    boxes = []
    for node, (x, y), text in zip(nodes, places, _labels(nodes, names), strict=True):
        colour = "#f0f0f0" if not node.requires_grad else "#cfe8ff" if node.operation == "leaf" else "#fff3c4"
        box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "0.35"}
        boxes.append(axes.text(x, y, text, ha="center", va="center", fontsize=9, linespacing=1.35, bbox=box))
    figure.draw_without_rendering()  # the boxes have no size before this
    for a, b in edges:
        arrow = {"arrowstyle": "-|>", "color": "0.45", "linewidth": 1.1, "shrinkA": 1, "shrinkB": 1}
        ends = {"patchA": boxes[a].get_bbox_patch(), "patchB": boxes[b].get_bbox_patch()}
        axes.annotate("", xy=places[b], xytext=places[a], arrowprops=arrow | ends)
    return save_figure(figure, path)


def main() -> None:
    """Draw tanh(w1·x1 + w2·x2 + b), its values and its gradients."""
    from neural_networks.operations import tanh

    x1, x2 = Tensor(2.0), Tensor(-1.0)
    w1, w2, b = (Tensor(value, requires_grad=True) for value in (0.5, 1.5, 0.3))
    total = x1 * w1 + x2 * w2 + b
    y = tanh(total)
    for node in y.topological_order():
        node.keep_grad()
    y.backward(retain_graph=True)
    names = {"x1": x1, "x2": x2, "w1": w1, "w2": w2, "b": b, "a": total, "y": y}
    print(to_dot(y, names))
    print(f"\nDrawn in {draw_graph(y, 'outputs/neuron.png', names)}")


if __name__ == "__main__":
    main()

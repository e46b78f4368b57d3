"""The results of a speedrun, as a Markdown page and as one HTML file, with curves, tables and conversations."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from groundwork.files import read_json, write_atomically, write_json
from training.placement import choose_placement
from training.run.tracking import read_metrics

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #8886; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; }
pre { white-space: pre-wrap; border: 1px solid #8886; border-radius: 6px; padding: .7rem; }
"""


def write_report(folder: Path, settings: dict[str, Any], seconds: dict[str, float]) -> Path:
    """Write `report.md`, `report.html` and the numbers as `scores.json`, from the files of the steps in a folder.

    Args:
        folder: folder of the speedrun.
        settings: configuration of the speedrun.
        seconds: time of each step.

    Returns:
        The path of the Markdown file.
    """
    results = read_json(folder / "evaluation.json")
    curve = _draw_curves(folder)
    device = choose_placement("auto", "auto").describe()
    minutes = sum(seconds.values()) / 60
    text = "\n".join(
        [
            "# From nothing to a chat model",
            "",
            f"One command, {minutes:.1f} minutes on {device}.",
            "",
            _timing_table(seconds),
            "",
            "## Loss",
            "",
            f"![Loss of each step]({curve.name})",
            "",
            "## Results",
            "",
            f"The model was asked {settings['memorised_questions']} questions that it saw {settings['repeats']} times in "
            f"training, and {settings['held_out_questions']} about symbols that no training question asks about. Exact "
            "means the same, character by character. Decoding is greedy.",
            "",
            _result_table(results),
            "",
            "Retrieval may read the documentation while it answers; the models may not. The pretrained model sees three "
            "answered questions before each question.",
            "",
            "## Conversations, good and bad",
            "",
            *_conversations(results),
        ]
    )
    path = folder / "report.md"
    write_atomically(path, text + "\n")
    write_atomically(path.with_suffix(".html"), _to_html(text, folder))
    scores = {name: result["scores"] for name, result in results.items() if name != "baselines"}
    figures = {"settings": settings, "seconds": seconds, "baselines": results["baselines"], "scores": scores}
    write_json(folder / "scores.json", figures)
    return path


def _timing_table(seconds: dict[str, float]) -> str:
    rows = ["| step | minutes |", "| --- | ---: |"]
    rows += [f"| {name} | {value / 60:.1f} |" for name, value in seconds.items()]
    rows.append(f"| in all | {sum(seconds.values()) / 60:.1f} |")
    return "\n".join(rows)


def _result_table(results: dict[str, Any]) -> str:
    rows = [
        "| | bits per byte | MB | memorised: exact | ROUGE-L | held out: exact | ROUGE-L | F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, scores in results["baselines"].items():
        rows.append(f"| {name} | | | {_scores(scores)} |")
    for name, result in results.items():
        if name != "baselines":
            scores = result["scores"]
            size = result["bytes"] / 1e6
            rows.append(f"| {name} | {scores['bits_per_byte']:.3f} | {size:.1f} | {_scores(scores)} |")
    return "\n".join(rows)


def _scores(scores: dict[str, Any]) -> str:
    known, unknown = scores["memorised"], scores["held_out"]
    values = (known["exact"], known["rouge_l"], unknown["exact"], unknown["rouge_l"], unknown["f1"])
    return " | ".join(f"{value:.1%}" for value in values)


def _conversations(results: dict[str, Any]) -> list[str]:
    """Some right and some wrong answers of the last model from each set."""
    last = list(results.values())[-1]["conversations"]
    lines = []
    for name, title in (("memorised", "Shown in training"), ("held_out", "Not shown")):
        chosen = [c for c in last if c["set"] == name]
        right = [c for c in chosen if c["answer"] == c["reference"]][:3]
        wrong = [c for c in chosen if c["answer"] != c["reference"]][:3]
        lines += [f"### {title}", ""]
        for conversation in right + wrong:
            mark = "right" if conversation in right else f"wrong; right is: {conversation['reference']}"
            lines += ["```text", f"> {conversation['question']}", conversation["answer"], f"({mark})", "```", ""]
    return lines


def _draw_curves(folder: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = [(name, read_metrics(folder / name)) for name in ("pretrained", "chat", "preferred")]
    figure, axes = plt.subplots(1, len(runs), figsize=(11, 3), layout="constrained")
    for axis, (name, records) in zip(axes, runs, strict=True):
        for key, style in (("train_loss", "-"), ("validation_loss", "o")):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, style, markersize=4, linewidth=0.8, label=key.replace("_", " "))
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("nats")
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _to_html(text: str, folder: Path) -> str:
    """The page, with its pictures inside the file."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for picture in folder.glob("*.png"):
        data = base64.b64encode(picture.read_bytes()).decode()
        body = body.replace(f'src="{html.escape(picture.name)}"', f'src="data:image/png;base64,{data}"')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>From nothing to a chat model</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )

"""Write the tables of the documentation from measured results, so that no number is typed by hand.

python docs/write_tables.py            # rewrite every table
python docs/write_tables.py --check    # exit status 1 if a table is not up to date

A table stands between two markers of a Markdown file, such as

    <!-- begin table: ladder -->
    <!-- end table -->

and its name is a key of `TABLES`. The results are JSON files in docs/results; each says how it was made.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = (
    "README.md",
    "0?_*/README.md",
    "docs/*.md",
    "docs/results/*.md",
    "docs/results/smollm2/*.md",
    "benchmarks/*.md",
)
MARKED = re.compile(r"(<!-- begin table: ([\w-]+) -->\n)(.*?)(<!-- end table -->)", re.DOTALL)


def ladder(content: dict[str, Any]) -> str:
    """Bits per byte of every rung, the worst first."""
    rungs = sorted(content["rungs"], key=lambda rung: -rung["bits_per_byte"])
    rows = [
        (
            rung["name"],
            f"{rung['bits_per_byte']:.3f}",
            f"{rung['seconds']:,.1f}" if rung["seconds"] else "",
            f"{rung['parameters']:,}" if rung["parameters"] else "",
        )
        for rung in rungs
    ]
    return _table(("", "bits per byte", "seconds", "parameters"), rows)


def scaling(content: dict[str, Any]) -> str:
    """Held-out loss of each run, with a row for each size and a column for each amount of text."""
    runs = content["runs"].values()
    amounts = sorted({run["tokens"] for run in runs})
    losses = {(run["parameters"], run["tokens"]): run["loss"] for run in runs}
    rows = [
        (f"{size:,.0f}", *(f"{losses[size, amount]:.3f}" if (size, amount) in losses else "" for amount in amounts))
        for size in sorted({run["parameters"] for run in runs})
    ]
    return _table(("parameters", *(f"{amount:,.0f} tokens" for amount in amounts)), rows)


def scaling_law(content: dict[str, Any]) -> str:
    """The fitted law in one line."""
    law = content["law"]
    return (
        f"L = {law['floor']:.2f} + {law['a']:.3g} / N^{law['alpha']:.2f} + {law['b']:.3g} / D^{law['beta']:.2f}, "
        f"with a mean error of {law['mean_error']:.1%}; the best size grows as C^{law['size_exponent']:.2f}.\n"
    )


def speed(content: dict[str, Any]) -> str:
    """One row for each peer: our throughput, theirs, and the ratio with its range."""
    rows = []
    for comparison in (comparison for group in content.values() for comparison in group["comparisons"]):
        ours, *others = comparison["measurements"]
        rows += [
            (
                comparison["title"],
                m["name"],
                f"{ours['throughput']:,.2f}",
                f"{m['throughput']:,.2f}",
                comparison["unit"],
                f"{m['ratio']:.2f} ({m['ratio_low']:.2f} – {m['ratio_high']:.2f})",
            )
            for m in others
        ]
    return _table(("", "beside", "ours", "theirs", "", "ratio"), rows, numbers_from=2)


def decoding(content: dict[str, Any]) -> str:
    """Tokens per second of ours and of each peer, with our speed over theirs in brackets."""
    peers = ("transformers", "llama.cpp", "bound")
    rows = []
    for comparison in content["decoding"]["comparisons"]:
        ours, *others = comparison["measurements"]
        cells = {
            peer: f"{m['throughput']:,.0f} ({m['ratio']:.2f})"
            for peer in peers
            for m in others
            if m["name"].startswith(peer)
        }
        name = comparison["title"].split(", ", 1)[1].replace(" parameters", "")
        rows.append((name, f"{ours['throughput']:,.0f}", *(cells.get(peer, "") for peer in peers)))
    return _table(("tokens a second", "nuLLM", *peers), rows)


def speed_of(group: str) -> Callable[[dict[str, Any]], str]:
    """The rows of one group of comparisons."""
    return lambda content: speed({group: content[group]})


def tasks(content: dict[str, Any]) -> str:
    """Accuracy on each task with its interval, and the accuracy of guessing."""
    rows = []
    for task in content.values():
        for name, metric in task["metrics"].items():
            interval = f"{metric['estimate']:.1%} ({metric['low']:.1%} – {metric['high']:.1%})"
            guessing = f"{task['chance']:.0%}" if task["chance"] is not None else ""
            rows.append((task["task"], name, str(task["questions"]), interval, guessing))
    return _table(("task", "metric", "questions", "value (95 % interval)", "guessing"), rows, numbers_from=2)


def run_beside_compressors(content: dict[str, Any]) -> str:
    """Bits per byte of a training run, and of compressors on the same text."""
    summary = content["summary"]
    rows = [(f"`{name}`", f"{value:.3f}") for name, value in summary["references"].items()]
    name = Path(content["settings"]["output_dir"]).name
    rows.append((f"**`{name}`**", f"**{summary['bits_per_byte']:.3f}**"))
    return _table(("", "bits per byte"), rows)


def run_cost(content: dict[str, Any]) -> str:
    """Size, length and speed of a training run in one sentence."""
    summary, on = content["summary"], content["machine"]
    return (
        f"`{content['command']}` on {on['cores']} cores of an {on['cpu']}, PyTorch {on['torch']}: "
        f"{summary['parameters'] / 1e6:.1f} M parameters, {summary['tokens'] / 1e6:.2f} M tokens, "
        f"{summary['training_seconds'] / 60:.1f} minutes of training at {summary['tokens_per_second']:,.0f} "
        f"tokens/s in {summary['precision']}; loss {summary['validation_loss']:.3f} a token on held-out text.\n"
    )


def run_samples(content: dict[str, Any]) -> str:
    """The samples that a run wrote at its end."""
    blocks = (f"```text\n{text}\n```\n" for text in content["summary"]["samples"].values())
    return "\n".join(blocks)


def ablations(content: dict[str, Any]) -> str:
    """Held-out loss of a recipe with one thing changed: mean over seeds, range, difference and relative time."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    runs = {name: list(seeds.values()) for name, seeds in content["runs"].items()}
    loss = {name: mean([run["loss"] for run in seeds]) for name, seeds in runs.items()}
    seconds = {name: mean([run["seconds"] for run in seeds]) for name, seeds in runs.items()}
    rows = [
        (
            f"**{name}**" if name == "recipe" else name,
            f"{loss[name]:.3f}",
            f"{min(run['loss'] for run in seeds):.3f} – {max(run['loss'] for run in seeds):.3f}",
            f"{loss[name] - loss['recipe']:+.3f}" if name != "recipe" else "",
            f"{seconds[name] / seconds['recipe']:.2f}",
        )
        for name, seeds in sorted(runs.items(), key=lambda item: loss[item[0]])
    ]
    return _table(("change", "loss", "of the seeds", "difference", "time"), rows)


def time_to_loss(content: dict[str, Any]) -> str:
    """Each side of `benchmarks/time_to_loss.py`: steps, tokens; for each seed seconds, loss, seconds to the target."""
    rows = []
    for side, seeds in content["runs"].items():
        curves = list(seeds.values())
        steps = int(curves[0][-1]["step"])
        rows.append(
            (
                side,
                f"{steps:,}",
                f"{steps * content['tokens_per_step'] / 1e6:.2f} M",
                " · ".join(f"{curve[-1]['seconds']:.1f}" for curve in curves),
                " · ".join(f"{curve[-1]['loss']:.3f}" for curve in curves),
                " · ".join(
                    "never" if seconds is None else f"{seconds:.1f}" for seconds in content["seconds_to_target"][side]
                ),
            )
        )
    head = ("", "steps", "tokens", "seconds", "held-out loss", f"seconds to {content['target']:g}")
    return _table(head, rows)


def speedrun(content: dict[str, Any]) -> str:
    """Every model of the chain and the baselines: bits per byte, exact answers, and words in common."""
    rows = []
    for name, scores in {**content["scores"], **content["baselines"]}.items():
        cells = [f"{scores['bits_per_byte']:.3f}" if "bits_per_byte" in scores else ""]
        for asked in ("memorised", "held_out"):
            cells += [f"{scores[asked]['exact']:.1%}", f"{scores[asked]['rouge_l']:.3f}"]
        rows.append((name, *cells))
    head = ("", "bits per byte", "memorised: exact", "ROUGE-L", "held out: exact", "ROUGE-L")
    return _table(head, rows)


def speedrun_minutes(content: dict[str, Any]) -> str:
    """The time of each step of the speedrun."""
    rows = [(name, f"{seconds / 60:.1f}") for name, seconds in content["seconds"].items()]
    rows.append(("**in all**", f"**{sum(content['seconds'].values()) / 60:.1f}**"))
    return _table(("step", "minutes"), rows)


def smollm2_answers(data: str) -> Callable[[dict[str, Any]], str]:
    """Exact answers and ROUGE-L on held-out questions: the base, what was made of it, and looking up."""

    def write(content: dict[str, Any]) -> str:
        answers = dict(content["answers"].get(data, {}))
        looked_up = answers.pop("looked up", {})
        rows = []
        for name, scores in [*answers.items(), *looked_up.items()]:
            low, high = (scores["exact_interval"][end] for end in ("low", "high"))
            rows.append((name, f"{scores['exact']:.1%}", f"{low:.1%} – {high:.1%}", f"{scores['rouge_l']:.3f}"))
        if data == "questions":
            ours = content["speedrun"]["with preferences"]
            rows.append(
                ("the speedrun's own model, 256 other questions", f"{ours['exact']:.1%}", "", f"{ours['rouge_l']:.3f}")
            )
        return _table(("", "exact", "95 % interval", "ROUGE-L"), rows)

    return write


def smollm2_runs(content: dict[str, Any]) -> str:
    """What each run took, and the loss of held-out answers at its first measurement and at its end."""
    rows = []
    for name, run in content["runs"].items():
        held_out = [record["validation_loss"] for record in run["curve"] if "validation_loss" in record]
        losses = f"{held_out[0]:.3f} → {held_out[-1]:.3f}"
        rows.append((name, f"{run['processor_seconds'] / 60:.1f}", f"{run['peak_gib']:.1f}", losses))
    return _table(("run", "processor minutes", "GiB", "held-out loss"), rows)


def smollm2_forgetting(content: dict[str, Any]) -> str:
    """Bits per byte on two texts, before and after each run."""
    base = content["bits_per_byte"]["base"]
    rows = [
        (
            name,
            *(
                f"{value:.3f}" + (f" ({value - base[text]:+.3f})" if name != "base" else "")
                for text, value in measured.items()
            ),
        )
        for name, measured in content["bits_per_byte"].items()
    ]
    return _table(("bits per byte", *base), rows)


def smollm2_peft(content: dict[str, Any]) -> str:
    """How far the logits of `peft` are from ours with each adapter, beside how far the adapter moves them."""
    rows = [
        (name, f"{found['largest_difference']:.2g}", f"{found['largest_change']:.2f}")
        for name, found in content["peft"].items()
    ]
    return _table(("adapter", "largest difference from peft", "largest change by the adapter"), rows)


def machine(content: dict[str, Any]) -> str:
    """The machine on which the speeds were measured. results.json says which groups were measured on another day."""
    described = [group["machine"] for group in content.values()]
    same = ("cpu", "cores", "threads", "memory_gib", "gpu", "system", "python", "torch")
    lines = {", ".join(f"{name} {m[name]}" for name in same if m[name] is not None) for m in described}
    return "".join(f"{line}\n" for line in sorted(lines))


SPEED_GROUPS = ("batching", "mlp", "server", "tokenizer", "training", "training-transformers", "quantization")
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "ladder": ("ladder/ladder.json", ladder),
    "scaling": ("scaling/scaling.json", scaling),
    "scaling-law": ("scaling/scaling.json", scaling_law),
    "speed": ("speed/results.json", speed),
    "speed-decoding": ("speed/results.json", decoding),
    **{f"speed-{group}": ("speed/results.json", speed_of(group)) for group in SPEED_GROUPS},
    "speed-machine": ("speed/results.json", machine),
    "small-gpt": ("small_gpt/run.json", run_beside_compressors),
    "small-gpt-cost": ("small_gpt/run.json", run_cost),
    "small-gpt-samples": ("small_gpt/run.json", run_samples),
    "recipe": ("recipe/ablations.json", ablations),
    "time-to-loss": ("time_to_loss/time_to_loss.json", time_to_loss),
    "speedrun": ("speedrun/scores.json", speedrun),
    "speedrun-minutes": ("speedrun/scores.json", speedrun_minutes),
    "smollm2-runs": ("smollm2/smollm2.json", smollm2_runs),
    "smollm2-questions": ("smollm2/smollm2.json", smollm2_answers("questions")),
    "smollm2-instructions": ("smollm2/smollm2.json", smollm2_answers("instructions")),
    "smollm2-forgetting": ("smollm2/smollm2.json", smollm2_forgetting),
    "smollm2-peft": ("smollm2/smollm2.json", smollm2_peft),
    "tasks": ("tasks", tasks),  # a folder that benchmark.py writes, with one file for each task
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    rule = ["---" if column < numbers_from else "---:" for column in range(len(head))]
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *rows))


def rewrite(text: str, results: Path = RESULTS) -> str:
    """A page with all its tables up to date.

    Args:
        text: text of the page.
        results: folder of the JSON files.

    Raises:
        ValueError: a table has an unknown name, or its results are missing.
    """

    def current(match: re.Match[str]) -> str:
        begin, name, _, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
        path, write = TABLES[name]
        file = results / path
        if not file.exists():
            raise ValueError(f"the table {name!r} needs {file}, which is not there")
        return begin + write(_read(file)) + end

    return MARKED.sub(current, text)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {file.stem: _read(file) for file in sorted(path.glob("*.json"))}
    return json.loads(path.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """Every page that may hold a table."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or check the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the tables of the documentation from docs/results.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is not up to date")
    options = parser.parse_args(arguments)
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            wanted = rewrite(text)
        except ValueError as error:
            print(f"error: {page}: {error}", file=sys.stderr)
            return 1
        if wanted != text:
            stale.append(page)
            if not options.check:
                page.write_text(wanted, encoding="utf-8", newline="\n")
    for page in stale:
        print(f"{'not up to date' if options.check else 'written'}: {page}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())

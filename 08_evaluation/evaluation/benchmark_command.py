"""`benchmark.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.significance import compare_paired, mcnemar_p_value
from evaluation.tasks.benchmark import Evaluator, TaskResult, write_result
from evaluation.tasks.task import load_task, task_names
from groundwork.command_line import user_path
from groundwork.text_sources import read_jsonl
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors
from optimization.model_loading import load_for_inference
from training.checkpoints.checkpoint import newest_run
from training.placement import choose_placement

DEFAULT_TASKS = ["docs_description", "docs_continuation", "docs_last_word", "docs_first_argument"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ask, print, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Accuracy of a model on benchmark tasks, with 95 % intervals and a log of every answer.",
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=DEFAULT_TASKS,
        help=f"names ({', '.join(task_names())}) or YAML files; default: the tasks made from the documentation",
    )
    parser.add_argument("--few-shot", type=int, help="solved examples before each question; default: as the task says")
    parser.add_argument("--limit", type=int, help="the most questions of each task, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0, help="seed for the draw of questions and examples")
    parser.add_argument("--no-end-of-text", action="store_true", help="do not put <|endoftext|> before the prompts")
    parser.add_argument(
        "--against", type=user_path, help="output folder of another model: compare question by question"
    )
    parser.add_argument(
        "--output", type=user_path, help="folder for figures and logs; default: outputs/benchmark/<run>"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit must be at least 1, got {options.limit}")
    tasks = [load_task(name) for name in options.tasks]  # load all of them before the slow work begins
    placement = choose_placement(options.device, "float32")
    loaded = load_for_inference(options.checkpoint or newest_run(), placement.device)
    output = options.output or Path("outputs", "benchmark", loaded.folder.parent.name)
    evaluator = Evaluator(loaded.model, loaded.tokenizer, placement, not options.no_end_of_text)
    console.print(f"{loaded.folder}", highlight=False)
    for task in tasks:
        with console.status(f"{task.name} …"):
            result = evaluator.run(task, options.few_shot, options.limit, options.seed)
        path = write_result(result, output)
        _print(result, console)
        if options.against is not None:
            _print_comparison(result, options.against, console)
        console.print(f"{path} and {path.with_suffix('.jsonl').name}", style="dim", highlight=False)
    return 0


def _print(result: TaskResult, console: Console) -> None:
    settings = result.settings
    console.print(  # not the table's title, which would be wrapped to the table's width
        f"{result.task}: {result.questions} questions, {settings['few_shot']} examples, seed {settings['seed']}",
        highlight=False,
    )
    table = Table("metric", "value", "95 % interval")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, interval in result.metrics.items():
        table.add_row(name, f"{interval.estimate:.1%}", f"{interval.low:.1%} – {interval.high:.1%}")
    if result.chance is not None:
        table.add_row("guessing", f"{result.chance:.1%}", "")
    if result.calibration_error is not None:
        table.add_row("calibration error", f"{result.calibration_error:.3f}", "")
    console.print(table)
    if result.cut:
        console.print(f"[yellow]{result.cut} prompts did not fit the context and lost their beginning.[/]")


def _print_comparison(result: TaskResult, other: Path, console: Console) -> None:
    earlier = read_log(other / f"{result.task}.jsonl")
    mine = {sample["question"]: sample for sample in result.samples}
    shared = sorted(mine.keys() & earlier.keys())
    if not shared or any(mine[i]["context"] != earlier[i]["context"] for i in shared):
        raise UserError(
            f"{other / result.task}.jsonl has answers to other prompts; run it with the same --few-shot, --limit and --seed"
        )
    for name in result.metrics:
        ours, theirs = [mine[i][name] for i in shared], [earlier[i][name] for i in shared]
        compared = compare_paired(ours, theirs)
        interval = compared.difference
        exact = "" if name == "token_f1" else f", McNemar p = {mcnemar_p_value(ours, theirs):.4f}"
        console.print(
            f"{name}, this - {other.name}: {interval.estimate:+.1%} ({interval.low:+.1%} to {interval.high:+.1%}), "
            f"p = {compared.p_value:.4f}{exact}, {compared.items} questions",
            highlight=False,
        )


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """The answers of an earlier run, by question.

    Raises:
        UserError: there is no such log, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"there is no log {path}; run that model on this task first")
    try:
        return {sample["question"]: sample for _, sample in read_jsonl(path)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a log of answers: {error}") from None

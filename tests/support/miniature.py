"""A miniature of the repository, in which the commands of the lessons really run, and only for seconds.

The scripts are the repository's own, but their input is small: presets of a few steps and a few numbers,
checkpoints trained with them, and the documentation of four modules instead of all.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml

ROOT = Path(__file__).parents[2]
MODEL = {"context_length": 256, "num_layers": 2, "num_heads": 2, "d_model": 64}
SMALL_WHERE_GIVEN = (("model", "num_kv_heads", 1), ("model", "vocab_size", 384), ("tokenizer", "vocab_size", 384))
# The documentation of these modules is read. The last two are held out, because of their names.
MODULES = ("argparse", "statistics", "random", "heapq", "textwrap", "numpy.lib.recfunctions", "torch.functional")
STEPS = {"max_steps": 6, "batch_size": 2, "accumulation_steps": 1, "eval_interval": 3, "checkpoint_interval": 3}
# Imported before the process of a command is forked, because importing PyTorch takes longer than most commands.
PRELOADED = [
    *("torch", "torch._dynamo", "torch.utils.tensorboard", "matplotlib.figure"),
    *("training.train_command", "finetuning.run", "optimization.generate_command"),
    *("evaluation.ladder.rungs", "evaluation.scaling_command", "deployment.app", "learn.command_line"),
]


def build_miniature(folder: Path) -> Path:
    """Write the presets, texts and data that the commands name. There is no checkpoint yet.

    Args:
        folder: an empty folder.
    """
    for preset in ROOT.joinpath("configs").rglob("*.yaml"):
        small = folder / preset.relative_to(ROOT)
        small.parent.mkdir(parents=True, exist_ok=True)
        small.write_text(yaml.safe_dump(_smaller(yaml.safe_load(preset.read_text(encoding="utf-8")))), encoding="utf-8")
    for name in (".", "my_texts", "my_notes", "notes", "docs", "path/to/file_or_folder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for text in ("README.md", "LICENSE", "CONTRIBUTING.md"):
            shutil.copy(ROOT / text, folder / name)
    shutil.copytree(ROOT / "08_evaluation" / "tasks", folder / "08_evaluation" / "tasks")
    _write_records(folder)
    return folder


def _smaller(preset: dict[str, Any]) -> dict[str, Any]:
    if "training" in preset:
        preset["training"].update({key: value for key, value in STEPS.items() if key in preset["training"]})
        preset["training"].update(max_steps=STEPS["max_steps"])
        preset["schedule"]["warmup_steps"] = 2
    if "tokenizer" in preset:
        preset["model"].update(MODEL)
        preset["training"]["eval_tokens"] = 256
        for part, field, value in SMALL_WHERE_GIVEN:
            if field in preset[part]:
                preset[part][field] = value
    if "method" in preset:
        preset["data"]["max_examples"] = 40
    return preset


def _write_records(folder: Path) -> None:
    """Write the data that fine-tuning reads: questions, pairs, questions with one answer, and a column of texts."""
    import pyarrow
    import pyarrow.parquet

    sums = [(a, b) for a in range(8) for b in range(8)]
    records = {
        "mine": [{"prompt": f"{a} + {b}?", "completion": str(a + b)} for a, b in sums],
        "pairs": [{"prompt": f"{a} + {b}?", "chosen": str(a + b), "rejected": str(a * b + 1)} for a, b in sums],
        "questions": [{"prompt": f"{a} + {b}?", "completion": str(a + b)} for a, b in sums],
    }
    for name, lines in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    texts = [f"{a} and {b} make {a + b}, however often one asks." for a, b in sums * 32]
    (folder / "big").mkdir()
    for path in (folder / "big.parquet", folder / "big" / "part_1.parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def write_workspace(folder: Path, numbers: tuple[str, ...]) -> None:
    """Write exercises that pass: the stub, and after it the package's own function once more, copied by its source.

    Args:
        folder: the miniature.
        numbers: numbers of the exercises, such as `2.3`.
    """
    from learn.catalogue import all_exercises
    from learn.workspace import Workspace

    workspace = Workspace(folder / "workspace")
    for entry in all_exercises():
        if entry.number in numbers:
            own = entry.load().resolve().function
            # The copy finds what its module has.
            around = f"import {own.__module__} as _home\nglobals().update(vars(_home) | globals())\n"
            source = textwrap.dedent(inspect.getsource(own))
            path = workspace.file_of(entry)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{entry.stub}\n\n{around}\n\n{source}", encoding="utf-8")


def run_program(words: list[str], folder: Path, variables: dict[str, str], timeout: float = 120) -> tuple[int, str]:
    """Run `python WORDS…`, or `learn …`, in a separate process that uses the small data.

    A server gets the signal to stop as soon as it prints its address.

    Args:
        words: a script or `-m` and a module, and arguments.
        folder: the miniature.
        variables: environment variables.
        timeout: the longest time in seconds.

    Returns:
        The exit status and the printed text.

    Raises:
        TimeoutError: it did not end.
    """
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "printed.txt")
        log.touch()
        # Variables such as Triton's are read at import, so a command that has some starts a new interpreter.
        context: Any = multiprocessing.get_context("spawn" if variables or sys.platform == "win32" else "forkserver")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_run_as_script, args=(words, folder, variables, log))
        process.start()
        stop = time.monotonic() + timeout
        while process.is_alive() and time.monotonic() < stop:
            process.join(0.05)
            if words[0].endswith("api/main.py") and _is_ready(log.read_text("utf-8")):
                os.kill(process.pid, signal.SIGTERM)  # as systemd does; it must end with 0
                process.join(stop - time.monotonic())
        printed = log.read_text(encoding="utf-8", errors="replace")
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{words} did not end in {timeout} s and printed:\n{printed}")
    return process.exitcode, printed


def _is_ready(printed: str) -> bool:
    address = re.search(r"http://127\.0\.0\.1:\d+", printed)
    try:
        return address is not None and httpx.get(f"{address.group()}/ready", trust_env=False).status_code in (200, 401)
    except httpx.TransportError:
        return False


def _run_as_script(words: list[str], folder: Path, variables: dict[str, str], log: Path) -> None:
    os.environ.update(variables, HF_HUB_OFFLINE="1", COLUMNS="120", MPLBACKEND="agg", OMP_NUM_THREADS="1")
    os.chdir(folder)
    for number, name in enumerate((os.devnull, log, log)):
        file = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))
    torch.set_num_threads(1)
    _know_less()
    if words[0] == "learn":
        from learn.command_line import main

        sys.exit(main(words[1:]))
    sys.argv = words if words[0] != "-m" else words[1:]
    if words[0] == "-c":
        exec(compile(words[1], "a block of the page", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def _know_less() -> None:
    """Use less documentation, smaller models of the ladder and the scaling law, and a workspace in the miniature."""
    from evaluation import scaling_command
    from evaluation.ladder import text as ladder_text
    from evaluation.tasks import task
    from learn.workspace import Workspace
    from neural_networks import python_docs

    files = [(name, str(importlib.util.find_spec(name).origin)) for name in MODULES]  # type: ignore[union-attr]
    python_docs._source_files = lambda: iter(files)  # type: ignore[assignment]
    python_docs._symbols_without_source = lambda: []  # type: ignore[assignment]
    small = {"vocab_size": 300, "context_length": 256, "d_model": 64, "num_layers": 1, "steps": 4, "mlp_steps": 10}
    ladder_text.TIERS["quick"] = replace(ladder_text.TIERS["quick"], train_bytes=50_000, validation_bytes=3000, **small)
    scaling_command.WIDTHS, scaling_command.STEPS = (16, 32, 64), (2, 4, 8)  # type: ignore[assignment]
    task.TASKS = Path("08_evaluation/tasks").resolve()  # their data is put into datasets/ beside it
    Workspace.__init__.__defaults__ = (Path("workspace").resolve(),)  # type: ignore[attr-defined]

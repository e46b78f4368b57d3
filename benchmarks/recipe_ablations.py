"""What each part of a recipe is worth: the recipe with one thing changed, with several seeds for each change.

python benchmarks/recipe_ablations.py                     # configs/tiny_shakespeare_fast.yaml, 3 seeds
python benchmarks/recipe_ablations.py --only recipe --only adamw --seeds 1 2

Each run has one thread, and the number of runs at a time is the number of cores. So the processor times of two runs
can be compared. Finished runs are kept in the results file, and the command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from groundwork.files import read_json, write_json
from recipe_runs import Stage, train_recipe
from reporting import describe_machine
from training.data.data_preparation import prepare_dataset
from training.train_command import parse_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny_shakespeare_fast.yaml"

VARIANTS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "adamw": ("--optimizer.name=adamw",),
    "sgd, rate 0.1": ("--optimizer.name=sgd", "--optimizer.lr=0.1"),
    "half the rates": ("--optimizer.lr=0.002", "--optimizer.muon_lr=0.01"),
    "twice the rates": ("--optimizer.lr=0.008", "--optimizer.muon_lr=0.04"),
    "no weight decay": ("--optimizer.weight_decay=0",),
    "no clipping": ("--optimizer.grad_clip=0",),
    "averaged weights, decay 0.98": ("--optimizer.ema_decay=0.98",),
    "cosine to a tenth": ("--schedule.kind=cosine", "--schedule.final_fraction=0.1"),
    "wsd, decay in the last 30 %": ("--schedule.kind=wsd",),
    "constant rate": ("--schedule.kind=constant",),
    "no warm-up": ("--schedule.warmup_steps=0",),
    "no qk-norm": ("--model.qk_norm=false",),
    "no zero-initialised projections": ("--model.zero_init_residual=false",),
    "learned positions": ("--model.positions=learned",),
    "layernorm": ("--model.norm=layernorm",),
    "gelu": ("--model.feed_forward=gelu",),
    "swiglu": ("--model.feed_forward=swiglu",),
    "untied head": ("--model.tie_embeddings=false",),
    "context 128, batch 6": ("--model.context_length=128", "--training.batch_size=6"),
    "batch 24, half the steps": ("--training.batch_size=24", "--training.max_steps=200"),
}


# Batch and context change during the run; the total number of tokens is the recipe's.
SCHEDULES: dict[str, tuple[Stage, ...]] = {
    "context 16 for a quarter": (Stage(100, 48, 16), Stage(300, 12, 64)),
    "context 16, 32, 64": (Stage(133, 48, 16), Stage(133, 24, 32), Stage(134, 12, 64)),
    "batch 6, 12, 24": (Stage(267, 6, 64), Stage(133, 12, 64), Stage(67, 24, 64)),
    "batch 8, 16": (Stage(300, 8, 64), Stage(150, 16, 64)),
}


def train(config: str, name: str, seed: int) -> dict[str, float]:
    """One run: held-out loss in nats per token over the whole validation text, and processor seconds."""
    torch.set_num_threads(1)
    run = parse_config([f"--config={config}", *VARIANTS.get(name, ())])
    curve, seconds = train_recipe(run, seed, stages=SCHEDULES.get(name, ()))
    return {"loss": curve[-1]["loss"], "seconds": seconds}


def main() -> None:
    """Train the runs that are missing from the results file, and write the file."""
    parser = argparse.ArgumentParser(description="What each part of a recipe is worth, over several seeds.")
    parser.add_argument("--config", default=str(CONFIG), help="the recipe; default: %(default)s")
    parser.add_argument(
        "--only", choices=[*VARIANTS, *SCHEDULES], action="append", help="only this variant; may be repeated"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--processes", type=int, default=torch.get_num_threads(), help="runs at a time")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "recipe" / "ablations.json")
    options = parser.parse_args()
    results: dict[str, Any] = read_json(options.output) if options.output.exists() else {"runs": {}}
    results |= {"config": Path(options.config).name, "machine": describe_machine()}
    recipe = parse_config([f"--config={options.config}"])
    prepare_dataset(recipe.data, recipe.tokenizer, Console())  # once, before processes share it
    # A forked child of a process that has run PyTorch's threads can hang, so each child is a new interpreter.
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(train, options.config, name, seed): (name, seed)
            for name in options.only or [*VARIANTS, *SCHEDULES]
            for seed in options.seeds
            if str(seed) not in results["runs"].get(name, {})
        }
        for job in track(as_completed(jobs), "Training", total=len(jobs)):
            name, seed = jobs[job]
            results["runs"].setdefault(name, {})[str(seed)] = job.result()
            write_json(options.output, results)
    print(f"Written to {options.output}; the tables: python docs/write_tables.py")


if __name__ == "__main__":
    main()

"""Where the time of a step goes: a PyTorch profiler trace of a few steps."""

from __future__ import annotations

import torch
from rich.console import Console

from training.run.rehearsal import rehearsal
from training.trainer import Trainer

STEPS = 5
TRACE_FILE = "profile.json"


def profile_steps(trainer: Trainer, console: Console) -> None:
    """Take some steps that do not change the run, and write what happened in them.

    Prints the costliest operations and writes `profile.json` for https://ui.perfetto.dev.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.placement.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    trainer.model.train()
    with rehearsal(trainer):
        trainer.take_step()  # the first step allocates memory
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(STEPS):
                trainer.take_step()
    trainer.run.folder.mkdir(parents=True, exist_ok=True)
    path = trainer.run.folder / TRACE_FILE
    profiler.export_chrome_trace(str(path))
    by = "self_cuda_time_total" if trainer.placement.device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=45)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Trace of {STEPS} steps: {path} (open it at https://ui.perfetto.dev)", highlight=False)

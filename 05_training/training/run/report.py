"""What is shown at the end of a run, and during it: the table of results, the curve, samples."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from groundwork.user_errors import counted
from neural_networks.bits_per_byte import bits_per_byte, perplexity
from tokenizer.interface import TokenizerError
from training.data.prepared_dataset import DatasetMeta
from training.data.token_files import Tokens
from training.run.tracking import Tracker
from training.trainer import Trainer
from training.validation import evaluating, total_loss
from transformer.sampling import SamplingParameters, generate

SAMPLE_TOKENS = 100


def report(
    trainer: Trainer, validation_tokens: Tokens, meta: DatasetMeta, tracker: Tracker | None, console: Console
) -> dict[str, Any]:
    """Measure on the whole validation text and print the results of the run; every process must call this.

    Args:
        trainer: after its last step.
        validation_tokens: all held-out ids.
        meta: of the data.
        tracker: of the main process; None in the others, which only help to measure.
        console: where to print.

    Returns:
        The same figures by name; nothing in the processes that only help.
    """
    start = time.perf_counter()
    with trainer.averaged(), console.status("Measuring on the whole validation text …"):
        nats = total_loss(trainer.model, validation_tokens, trainer.placement, trainer.module, trainer.workers)
    if tracker is None:
        return {}
    loss = nats / (meta.validation_tokens - 1)
    bits = bits_per_byte(nats, meta.validation_bytes)
    measured = {record["step"] for record in tracker.records if "validation_bits_per_byte" in record}
    if trainer.step not in measured:  # not when the run is only measured again
        tracker.log(trainer.step, validation_loss=loss, validation_bits_per_byte=bits)
    references = {
        name: value
        for name, value in {
            "xz -9": meta.xz_bits_per_byte,
            "xz -9 after the training text": meta.xz_with_train_bits_per_byte,
        }.items()
        if value is not None
    }
    curve = tracker.draw_curve(meta.validation_bytes / meta.validation_tokens, references)
    run_folder = trainer.run.folder
    table = Table("validation", "this model", *references, title=f"{run_folder} after {trainer.step:,} steps")
    table.add_row("bits per byte", f"[bold]{bits:.3f}[/bold]", *(f"{value:.3f}" for value in references.values()))
    table.add_row("loss (nats a token)", f"{loss:.3f}", *("" for _ in references))
    table.add_row("perplexity (a token)", f"{perplexity(loss):.2f}", *("" for _ in references))
    console.print(table)
    speed = trainer.tokens_seen / max(trainer.seconds, 1e-9)
    skipped = f" Skipped: {counted(trainer.monitor.skipped, 'step')}." if trainer.monitor.skipped else ""
    console.print(
        f"Trained {duration(trainer.seconds)} at {speed:,.0f} tokens/s; "
        f"measured {meta.validation_bytes:,} bytes in {time.perf_counter() - start:.0f} s.{skipped}",
        highlight=False,
    )
    drawn = f"Curve: {curve}   " if curve else ""
    console.print(f"{drawn}TensorBoard: tensorboard --logdir {run_folder}", highlight=False)
    return {
        "steps": trainer.step,
        "tokens": trainer.tokens_seen,
        "skipped_steps": trainer.monitor.skipped,
        "parameters": trainer.model.num_parameters(),
        "training_seconds": trainer.seconds,
        "tokens_per_second": speed,
        "device": str(trainer.placement.device),
        "precision": str(trainer.placement.precision).removeprefix("torch."),
        "validation_loss": loss,
        "bits_per_byte": bits,
        "references": references,
    }


def print_samples(trainer: Trainer, tracker: Tracker, console: Console) -> dict[str, str]:
    """Continue the configured prompts; returns the texts by prompt."""
    samples = {}
    parameters = SamplingParameters(max_tokens=SAMPLE_TOKENS, temperature=0.7, seed=1337)
    for prompt in trainer.recipe.training.sample_prompts:
        try:
            ids = trainer.run.tokenizer.encode(prompt)[: trainer.model.config.context_length]
        except TokenizerError as error:  # a character tokenizer knows only those of its text; the run is good
            console.print(f"warning: no sample for {prompt!r}: {error}", markup=False, highlight=False)
            continue
        with trainer.averaged(), evaluating(trainer.model), trainer.placement.autocast():
            text = prompt + trainer.run.tokenizer.decode(generate(trainer.model, ids, parameters))
        text = text.split("<|endoftext|>")[0].rstrip()
        tracker.log_text("sample", text, trainer.step)
        console.rule(f"sample at step {trainer.step}: {prompt!r}", style="dim")
        console.print(text, markup=False, highlight=False)
        samples[prompt] = text
    return samples


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(90), duration(300), duration(61_500), duration(28_000_000)
    ('90 s', '5.0 minutes', '17.1 hours', '324.1 days')
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    for length, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"

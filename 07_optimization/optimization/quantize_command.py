"""`quantize.py` as a command."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from finetuning.imported_models import checkpoint_of
from groundwork.command_line import user_path
from groundwork.text_sources import read_text
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from neural_networks.corpora import load_corpus
from optimization.model_loading import inference_copy
from optimization.weights.quantized_model import (
    Method,
    QuantizationError,
    count_bytes,
    quantize_model,
    save_quantized,
)
from training.checkpoints.checkpoint import STEP_FOLDER, LoadedModel, load_model, newest_run
from transformer.gpt_model import GPTModel

LONGEST_WINDOW = 1024  # tokens: with a context of 8,192 and 49,152 ids, the logits alone would need gigabytes
CALIBRATION_SHARE = 0.5  # of the text; the rest is for measuring, so that no method is tested on text it has seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, quantize, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="quantize.py",
        description="Write a copy of a checkpoint with weights in 8 or 4 bits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--method", choices=get_args(Method), default="int8", help="see the lesson")
    parser.add_argument("--output", type=user_path, help="folder to write; default: the run's name, then the method")
    parser.add_argument(
        "--text", type=user_path, help="calibrate and measure on this; default: python_docs' held-out part"
    )
    parser.add_argument("--tokens", type=int, default=32_768, help="tokens of the text to calibrate and measure with")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.tokens < 2:
        raise QuantizationError(f"--tokens must be at least 2, got {options.tokens}")
    path = Path(options.checkpoint) if options.checkpoint else newest_run()
    loaded = load_model(checkpoint_of(path))
    run = loaded.folder.parent if STEP_FOLDER.fullmatch(loaded.folder.name) else loaded.folder
    run = run.resolve() if run.name in ("", "..") else run
    output = options.output or run.with_name(f"{run.name}_{options.method}")
    if output.exists():
        raise QuantizationError(f"{output} exists already; choose another --output, or remove it first")
    calibration, held_out = _windows(loaded, options.text, options.tokens)
    start = time.perf_counter()
    quantized = quantize_model(loaded.model, options.method, calibration)
    seconds = time.perf_counter() - start
    save_quantized(output, loaded, quantized, options.method)
    before, after = _perplexity(loaded.model, held_out), _perplexity(inference_copy(quantized, torch.float32), held_out)
    sizes = [count_bytes(model) for model in (loaded.model, quantized)]
    print(f"{loaded.folder} → {output}   ({options.method}, {seconds:.1f} s)")
    print(f"  size        {sizes[0] / 2**20:.1f} MiB → {sizes[1] / 2**20:.1f} MiB   ({sizes[1] / sizes[0]:.0%})")
    print(f"  perplexity  {before:.3f} → {after:.3f}   ({after / before - 1:+.2%}, on {held_out.numel():,} tokens)")
    return 0


def _windows(loaded: LoadedModel, path: Path | None, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Two sets of stretches of text, (sequences, tokens + 1): one to calibrate on, one to measure on."""
    documents = [read_text(path)] if path is not None else load_corpus("python_docs", 0.05).validation
    begin = loaded.tokenizer.begin_ids
    ids: list[int] = []
    for document in documents:
        ids += begin + loaded.tokenizer.encode(document)
        if len(ids) >= num_tokens:
            break
    length = min(loaded.model.config.context_length, LONGEST_WINDOW) + 1
    count = min(len(ids), num_tokens) // length
    if count < 2:
        raise QuantizationError(
            f"the text gives {min(len(ids), num_tokens)} tokens; at least {2 * length} are needed, "
            "a stretch to calibrate on and one to measure on"
        )
    windows = torch.tensor(ids[: count * length]).view(count, length)
    split = max(1, int(CALIBRATION_SHARE * count))
    return windows[:split, :-1], windows[split:]


@torch.inference_mode()
def _perplexity(model: GPTModel, windows: Tensor) -> float:
    total = 0.0
    for window in windows.split(4):
        logits = model(window[:, :-1])
        total += F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten(), reduction="sum").item()
    loss = total / windows[:, 1:].numel()
    return math.exp(loss) if loss < 700 else math.inf  # a float ends at e^709

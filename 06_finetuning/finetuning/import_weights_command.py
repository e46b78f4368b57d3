"""`import_weights.py` as a command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finetuning.data.chat_format import TEMPLATES
from finetuning.imported_models import import_model, is_import_of
from finetuning.published_models import PUBLISHED
from groundwork.command_line import user_path
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from training.checkpoints.checkpoint import (
    CheckpointError,
    find_checkpoint,
    list_checkpoints,
    load_model,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, import, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="import_weights.py",
        description="Turn other people's weights into a checkpoint of this project, with their tokenizer and chat "
        "template. Programs that take a --checkpoint do this by themselves; do it here to choose the folder.",
    )
    parser.add_argument(
        "source",
        help="a folder with config.json, safetensors and tokenizer; a GGUF file; a name on the hub; or "
        + ", ".join(f"{name} ({model.about}, {model.megabytes} MB)" for name, model in PUBLISHED.items()),
    )
    parser.add_argument("--output", type=user_path, help="folder of the new run; default: checkpoints/NAME")
    parser.add_argument("--context-length", type=int, help="a shorter context than the model's, to save memory")
    parser.add_argument(
        "--chat-template", choices=sorted(TEMPLATES), help="teach this one, to a model without a template of its own"
    )
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _import(options))


def _import(options: argparse.Namespace) -> int:
    output: Path = options.output or Path("checkpoints") / Path(options.source).stem
    if output.is_dir() and list_checkpoints(output):
        folder = find_checkpoint(output)
        same = options.context_length is None and options.chat_template is None and is_import_of(folder, options.source)
        if options.output is None and same:
            print(f"{folder} is there already.")
            return _what_next(output)
        raise CheckpointError(f"{output} holds a run already; choose another --output, or delete it to import again")
    folder = import_model(options.source, output, options.context_length, options.chat_template)
    model = load_model(folder).model
    size = (folder / "model.safetensors").stat().st_size
    facts = (
        f"{model.num_parameters():,} parameters, context {model.config.context_length:,}, {size / 1e6:,.0f} MB on disk"
    )
    print(f"{options.source} → {folder}   ({facts})")
    return _what_next(output)


def _what_next(run: Path) -> int:
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else "python"
    print("Try next:")
    print(f"  {python} 09_deployment/api/main.py --checkpoint {run}   # the chat page, on http://127.0.0.1:8000")
    print(f"  {python} 07_optimization/generate.py --checkpoint {run}   # in the terminal")
    print(f"  {python} 07_optimization/quantize.py --checkpoint {run}   # a copy with 8 bits a weight")
    return 0

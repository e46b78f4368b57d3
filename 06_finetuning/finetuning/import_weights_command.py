"""`import_weights.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from finetuning.base_model import load_base
from finetuning.data.chat_format import TEMPLATES, chat_template
from finetuning.vocabulary_extension import teach_template
from groundwork.user_errors import report_user_errors
from training.checkpoints.checkpoint import CheckpointError, list_checkpoints
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.run.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, import, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="import_weights.py",
        description="Turn Hugging Face weights of GPT-2, Llama or Qwen3 into a checkpoint of this project.",
    )
    parser.add_argument("source", help="a folder with config.json, safetensors and tokenizer, or a name on the hub")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new run, such as checkpoints/llama")
    parser.add_argument("--context-length", type=int, help="a shorter context than the model's, to save memory")
    parser.add_argument(
        "--chat-template", choices=sorted(TEMPLATES), help="how the model was taught to converse; default: not at all"
    )
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _import(options))


def _import(options: argparse.Namespace) -> int:
    with RunFolder(options.output):
        return _import_into(options)


def _import_into(options: argparse.Namespace) -> int:
    if list_checkpoints(options.output):
        raise CheckpointError(f"{options.output} holds a run already; choose another --output")
    model, tokenizer = load_base(options.source, options.context_length)
    if options.chat_template is not None:
        tokenizer = teach_template(model, tokenizer, chat_template(options.chat_template))
    settings = {"base": options.source, "chat_template": options.chat_template, "model": model.config.to_dict()}
    folder = save_checkpoint(options.output, 0, model_weights(model), tokenizer, settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.source} → {folder}   ({parameters:,} parameters, context {model.config.context_length:,})")
    print(f"Try next: python 07_optimization/generate.py --checkpoint {options.output}")
    return 0

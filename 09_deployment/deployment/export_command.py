"""`export.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from deployment.export.gguf_file import TYPES, export_gguf
from deployment.export.huggingface import export_huggingface, write_companions
from deployment.export.onnx_file import export_onnx, export_torchscript
from deployment.served_model import name_of
from finetuning.adapters.lora import fold_adapter
from finetuning.adapters.peft_format import load_adapter
from finetuning.base_model import find_template
from finetuning.imported_models import checkpoint_of
from groundwork.command_line import user_path
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors
from training.checkpoints.checkpoint import load_model, newest_run

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="export.py", description="Write a trained model in a format that other programs run."
    )
    parser.add_argument("--to", required=True, choices=["hf", "gguf", "onnx", "torchscript"], help="the format")
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--adapter", help="folder of a LoRA adapter to add to the weights")
    parser.add_argument("--output", type=user_path, help="folder to write into; default: outputs/NAME-FORMAT")
    parser.add_argument(
        "--type", help="type of the weights: f32, f16 or bf16 for hf; f32, f16, bf16, q8_0 or q4_0 for gguf"
    )
    parser.add_argument("--name", help="name of the model; default: the name of its run")
    parser.add_argument("--chat-template", help="nullm, chatml or llama3; default: chosen by the special tokens")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    path = Path(options.checkpoint) if options.checkpoint else newest_run()
    loaded = load_model(checkpoint_of(path))
    model, tokenizer = loaded.model, loaded.tokenizer
    if options.adapter:
        load_adapter(model, options.adapter)
        fold_adapter(model)
        model.eval()
    name = options.name or name_of(path)
    folder: Path = options.output or Path("outputs") / f"{name}-{options.to}"
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter, which other programs would add to the model again: choose another --output"
        )
    # A model that came from elsewhere without a chat template leaves without one, whatever its special tokens are.
    came_without = tokenizer.files and tokenizer.files.chat_template is None and options.chat_template is None
    template = None if came_without else find_template(tokenizer, options.chat_template)
    if options.to == "hf":
        kind = options.type or "f32"
        if kind not in DTYPES:
            raise UserError(f"the type must be one of {', '.join(DTYPES)} for hf, got {kind!r}")
        export_huggingface(model, tokenizer, template, folder, name, DTYPES[kind])
    elif options.to == "gguf":
        kind = options.type or "f16"
        if kind not in TYPES:
            raise UserError(f"the type must be one of {', '.join(TYPES)} for gguf, got {kind!r}")
        export_gguf(model, tokenizer, template, folder / f"{name}-{kind}.gguf", name, kind)
    elif options.type not in (None, "f32"):
        raise UserError(f"{options.to} is written in f32 only, got {options.type!r}")
    else:
        record = export_onnx if options.to == "onnx" else export_torchscript
        record(model, folder)
        write_companions(model, tokenizer, template, folder)
    for file in sorted(folder.iterdir()):
        print(f"{file}  {file.stat().st_size / 2**20:,.1f} MiB")
    return 0

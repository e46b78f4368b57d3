"""`visualize_attention.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from attention.attention_visualizer import draw_heatmaps, draw_text, record_attention, stack_layers, write_page
from groundwork.command_line import user_path
from groundwork.threads import add_threads
from groundwork.user_errors import UserError, report_user_errors
from optimization.model_loading import load_for_inference
from tokenizer.interface import Tokenizer
from training.checkpoints.checkpoint import newest_run
from transformer.gpt_model import GPTModel

MAX_TOKENS = 256  # the size of a page with all heads grows with the square


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, draw, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="visualize_attention.py", description="Heat maps of every attention head of a model on a prompt."
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--prompt", required=True, help="text to look at")
    parser.add_argument("--output", type=user_path, default=Path("outputs"), help="folder for attention.png and .html")
    parser.add_argument("--text", action="store_true", help="draw every head in the terminal as well")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options))


def attention_of(model: GPTModel, tokenizer: Tokenizer, text: str) -> tuple[torch.Tensor, list[str]]:
    """Weights of every head on a text.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        text: a text of at most the context, and at most `MAX_TOKENS` tokens.

    Returns:
        The weights, (layers, heads, time, time), and the text of each token.

    Raises:
        UserError: the text is empty or too long.
    """
    ids = tokenizer.begin_ids + tokenizer.encode(text)
    limit = min(MAX_TOKENS, model.config.context_length)
    if not 0 < len(ids) <= limit:
        raise UserError(f"the prompt has {len(ids)} tokens; between 1 and {limit} can be drawn")
    with torch.inference_mode(), record_attention(model) as recorded:
        model(torch.tensor([ids], device=model.device))
    return stack_layers(recorded), [tokenizer.decode([token]) for token in ids]


def _run(options: argparse.Namespace) -> int:
    loaded = load_for_inference(options.checkpoint or newest_run())
    weights, tokens = attention_of(loaded.model, loaded.tokenizer, options.prompt)
    if options.text:
        for layer, heads in enumerate(weights):
            for head, head_weights in enumerate(heads):
                print(f"layer {layer}, head {head}\n{draw_text(head_weights, tokens)}\n")
    title = str(loaded.folder)
    print(draw_heatmaps(weights, tokens, options.output / "attention.png", title))
    print(write_page(weights, tokens, options.output / "attention.html", title))
    return 0

"""`evaluate.py` as a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from evaluation.calibration import calibrate
from evaluation.sliding_window import score_text
from groundwork.command_line import user_path
from groundwork.text_sources import read_text
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from neural_networks.bits_per_byte import xz_bits_per_byte
from optimization.model_loading import load_for_inference
from training.checkpoints.checkpoint import newest_run
from training.placement import choose_placement


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description="Bits per byte and perplexity of a model on a text file."
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--text", type=user_path, required=True, help="a UTF-8 text file the model was not trained on")
    parser.add_argument(
        "--stride", type=int, help="tokens counted in each window; smaller is slower and gives more context"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    text = read_text(options.text)
    placement = choose_placement(options.device, "float32")
    loaded = load_for_inference(options.checkpoint or newest_run(), placement.device)
    scores = score_text(loaded.model, loaded.tokenizer, text, placement, options.stride)
    calibration = calibrate(scores.top_probabilities, scores.correct)
    print(f"{options.text}: {scores.num_bytes:,} bytes, {len(scores.ids):,} tokens")
    print(f"  {loaded.folder}")
    print(f"    bits per byte      {scores.bits_per_byte:.3f}   (xz -9: {xz_bits_per_byte([text]):.3f})")
    print(f"    perplexity         {scores.perplexity:.2f} a token")
    print(f"    accuracy           {scores.accuracy:.1%} of tokens are the most likely one")
    print(f"    calibration error  {calibration.expected_error:.3f}")
    return 0

"""`generate.py` as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from optimization.engine import Engine
from optimization.events import GenerationStats, PromptError
from tokenizer.interface import TokenizerError
from training.checkpoint import newest_run
from training.command_line import report_user_errors
from transformer.sampling import SamplingParameters


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, generate, and return the exit status."""
    defaults = SamplingParameters()
    parser = argparse.ArgumentParser(
        prog="generate.py",
        description="Continue a prompt with a trained model. Without --prompt it asks for one again and again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", help="folder of a run or of one checkpoint; default: the newest run")
    parser.add_argument("--prompt", help="text to continue; default: interactive")
    parser.add_argument("--max_tokens", type=int, default=defaults.max_tokens, help="most tokens to generate")
    parser.add_argument("--temperature", type=float, default=defaults.temperature, help="0 is greedy, 1 as trained")
    parser.add_argument("--top_k", type=int, default=defaults.top_k, help="keep the k likeliest tokens; 0: all")
    parser.add_argument("--top_p", type=float, default=defaults.top_p, help="keep this much probability; 1: all")
    parser.add_argument("--seed", type=int, help="repeat the same draw")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    parameters = SamplingParameters(options.max_tokens, options.temperature, options.top_k, options.top_p, options.seed)
    engine = Engine.from_checkpoint(options.checkpoint or newest_run(), options.device)
    if options.prompt is not None:
        _stream(engine, options.prompt, parameters)
        return 0
    print("Type the beginning of a text and press Enter; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return 0
        if not prompt:
            return 0
        try:
            _stream(engine, prompt, parameters)
        except (PromptError, TokenizerError) as error:  # this prompt only; the next may be fine
            print(f"error: {error}", file=sys.stderr)


def _stream(engine: Engine, prompt: str, parameters: SamplingParameters) -> None:
    stats = GenerationStats()
    pieces = engine.generate(prompt, parameters, stats)
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    shifted = f", context shifted {stats.context_shifts} ×" if stats.context_shifts else ""
    print(
        f"[{stats.prompt_tokens} + {stats.generated_tokens} tokens, first after "
        f"{stats.first_token_seconds * 1000:.0f} ms, then {stats.tokens_per_second:.0f} tokens/s"
        f"{shifted}, {stats.finish_reason}]",
        file=sys.stderr,
    )

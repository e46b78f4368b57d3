"""`train_tokenizer.py` as a command: train a byte-level BPE tokenizer on text of any size."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from groundwork.command_line import HelpFormatter, user_path
from groundwork.user_errors import report_user_errors
from tokenizer.command_line import PATTERNS, WORKSPACE, count_input, train_with_progress
from tokenizer.huggingface_files import save_huggingface
from tokenizer.interface import END_OF_TEXT, check_special_tokens
from tokenizer.interop import require_gpt2_pattern, save_gpt2_files, save_tiktoken_ranks
from tokenizer.tokenizer_trainer import check_vocab_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, save, and return the exit status."""
    parser = argparse.ArgumentParser(description="Train a byte-level BPE tokenizer.", formatter_class=HelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, help="files, folders, python_docs or tiny_shakespeare")
    parser.add_argument("--vocab-size", type=int, required=True, help="ids: 256 bytes + merges + special tokens")
    parser.add_argument("--output", type=user_path, help="file to write; default: in workspace/tokenizers")
    parser.add_argument("--pattern", choices=PATTERNS, default="gpt2", help="how text is cut before merging")
    parser.add_argument("--special-tokens", nargs="*", default=[END_OF_TEXT], help="texts with ids of their own")
    parser.add_argument("--workers", type=int, help="processes for counting; default: one for each core")
    parser.add_argument(
        "--max-distinct", type=int, default=10_000_000, help="different pre-tokens to keep; bounds the memory"
    )
    parser.add_argument("--huggingface", type=user_path, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--gpt2", type=user_path, help="folder for vocab.json and merges.txt")
    parser.add_argument("--tiktoken", type=user_path, help="file for tiktoken's ranks")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: train(options, Console()))


def train(options: argparse.Namespace, console: Console) -> None:
    """Count, learn, write."""
    specials, pattern = check_special_tokens(options.special_tokens), PATTERNS[options.pattern]
    check_vocab_size(options.vocab_size, specials)
    if options.gpt2:
        require_gpt2_pattern(pattern)  # before minutes of training
    counts = count_input(options.input, pattern, specials, console, options.workers, options.max_distinct)
    tokenizer = train_with_progress(counts, options.vocab_size, specials, pattern, console)
    name = f"{Path(options.input[0]).stem or 'text'}-{tokenizer.vocab_size}.json"
    output = options.output or WORKSPACE / name
    tokenizer.save(output)
    console.print(f"{counts.total():,} pre-tokens, {len(counts):,} different; {tokenizer.vocab_size:,} ids → {output}")
    if options.huggingface:
        save_huggingface(tokenizer, options.huggingface)
    if options.gpt2:
        save_gpt2_files(tokenizer, options.gpt2)
    if options.tiktoken:
        save_tiktoken_ranks(tokenizer, options.tiktoken)

"""`encode_files.py` as a command: encode text files into a file of ids, or into shards, on all cores."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.console import Console

from groundwork.command_line import user_path
from groundwork.user_errors import report_user_errors
from tokenizer.command_line import bytes_progress, find_files
from tokenizer.file_encoder import encode_files
from tokenizer.loading import load_tokenizer
from tokenizer.parallel import usable_cores


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, encode, and return the exit status."""
    parser = argparse.ArgumentParser(description="Encode text files into flat little-endian ids.")
    parser.add_argument("--tokenizer", required=True, help="our file, a tokenizer.json, GPT-2's folder or .tiktoken")
    parser.add_argument("--input", nargs="+", required=True, help="text or JSONL files, or folders of them")
    parser.add_argument("--output", type=user_path, required=True, help="file to write, such as train.bin")
    parser.add_argument("--shard-tokens", type=int, help="the most ids in a file; default: one file")
    parser.add_argument("--allowed-special", nargs="*", default=[], help="special tokens that the text holds")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: one for each core")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: encode(options, Console()))


def encode(options: argparse.Namespace, console: Console) -> None:
    """Encode with a progress bar."""
    tokenizer, files = load_tokenizer(options.tokenizer), find_files(options.input)
    start = time.perf_counter()
    with bytes_progress(console) as progress:
        task = progress.add_task("Encoding", total=sum(file.stat().st_size for file in files))
        result = encode_files(
            tokenizer,
            files,
            options.output,
            allowed_special=options.allowed_special,
            shard_tokens=options.shard_tokens,
            workers=options.workers,
            on_bytes=lambda count: progress.advance(task, count),
        )
    seconds = time.perf_counter() - start
    console.print(
        f"{result.tokens:,} ids ({result.dtype}) of {result.text_bytes / 1e6:.1f} MB in {seconds:.1f} s, "
        f"{result.text_bytes / 1e6 / seconds:.1f} MB/s, {result.text_bytes / result.tokens:.2f} bytes per token "
        f"→ {', '.join(str(path) for path in result.paths)}"
    )

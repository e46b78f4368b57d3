"""`tokenize_text.py` as a command: see how a text is cut into tokens, in colour."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from groundwork.command_line import user_path
from groundwork.files import write_atomically
from groundwork.text_sources import read_text
from groundwork.user_errors import report_user_errors
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.command_line import default_tokenizer
from tokenizer.interface import Tokenizer
from tokenizer.loading import load_tokenizer
from tokenizer.patterns import to_utf8
from tokenizer.token_viewer import show_tokens, to_html, to_terminal
from tokenizer.vocab_builder import vocabulary_statistics


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, show, and return the exit status."""
    parser = argparse.ArgumentParser(description="Show the tokens of a text; without a text, ask for one.")
    parser.add_argument(
        "--tokenizer",
        help="our file, a tokenizer.json, a folder with GPT-2's files, or a .tiktoken file; default: the last trained",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="text to show")
    source.add_argument("--file", type=user_path, help="file to show")
    parser.add_argument("--html", type=user_path, help="write a page instead")
    parser.add_argument("--statistics", action="store_true", help="show what the vocabulary does to the text instead")
    parser.add_argument("--ids", action="store_true", help="show the id after each token")
    parser.add_argument("--specials", action="store_true", help="special tokens in the text become their ids")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: show(options, Console(highlight=False)))


def show(options: argparse.Namespace, console: Console) -> None:
    """Show one text, or ask for texts until an empty line."""
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else default_tokenizer(console)
    text = read_text(options.file) if options.file else options.text
    if text is not None:
        show_text(tokenizer, text, options, console)
        return
    console.print(
        "Type a text; /merges WORD shows how a word is merged (␣WORD: after a space); an empty line ends.", style="dim"
    )
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text:
            return
        if text.startswith("/merges ") and isinstance(tokenizer, BPETokenizer):
            for step in tokenizer.merge_steps(text.removeprefix("/merges ").replace("␣", " ")):
                tokens = (token.decode("utf-8", "backslashreplace").replace(" ", "␣") for token in step)
                console.print("  " + " · ".join(tokens), markup=False)
        else:
            show_text(tokenizer, text, options, console)


def show_text(tokenizer: Tokenizer, text: str, options: argparse.Namespace, console: Console) -> None:
    """Print the tokens and a summary, or write the page."""
    if options.statistics:
        show_statistics(tokenizer, text, console)
        return
    tokens = list(show_tokens(tokenizer, text, "all" if options.specials else ()))
    if options.html:
        write_atomically(options.html, to_html(tokens))
        console.print(f"{len(tokens):,} tokens → {options.html}")
        return
    console.print(to_terminal(tokens, options.ids), soft_wrap=True)
    size = len(to_utf8(text))
    console.print(
        f"{len(tokens):,} tokens, {size:,} bytes, {size / max(len(tokens), 1):.2f} bytes per token", style="dim"
    )


def show_statistics(tokenizer: Tokenizer, text: str, console: Console) -> None:
    """Print compression, use of the vocabulary, and the tokens that stand out."""
    found = vocabulary_statistics(tokenizer, [text])
    console.print(
        f"{found.text_bytes:,} bytes, {found.tokens:,} tokens, {found.bytes_per_token:.3f} bytes per token\n"
        f"{found.used:,} of {found.vocab_size:,} ids occur ({found.used_share:.1%})\n"
        f"most frequent: {', '.join(f'{token!r} {count:,}' for token, count in found.most_frequent)}\n"
        f"longest: {', '.join(map(repr, found.longest))}",
        markup=False,
    )

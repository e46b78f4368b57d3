"""What the scripts of this stage share: where text and tokenizers come from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console

from neural_networks.corpora import TEXT_SUFFIXES, load_corpus
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.errors import TokenizerError
from tokenizer.huggingface_files import load_huggingface
from tokenizer.interface import END_OF_TEXT, Tokenizer, load_tokenizer
from tokenizer.interop import load_gpt2_files, load_tiktoken_ranks
from tokenizer.parallel import usable_cores
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.progress import bytes_progress, merges_progress
from tokenizer.text_files import read_documents, read_json
from tokenizer.tokenizer_trainer import train_from_counts

PATTERNS = {"gpt2": GPT2_PATTERN, "cl100k": CL100K_PATTERN, "o200k": O200K_PATTERN}
NAMED_CORPORA = ("python_docs", "tiny_shakespeare")
WORKSPACE = Path("workspace/tokenizers")


def run(command: Callable[[], None]) -> int:
    """Run a command; a mistake of the user's becomes one line and a status of 1, not a traceback."""
    try:
        command()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:  # every error of this project for a user's mistake is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1


def find_files(inputs: Iterable[str]) -> list[Path]:
    """The text files that are named, and those in the folders that are named.

    Raises:
        TokenizerError: nothing is there.
    """
    files: list[Path] = []
    for name in inputs:
        path = Path(name).expanduser()
        if not path.exists():
            raise TokenizerError(
                f"there is no file or folder {name!r}, and no such corpus; there are {', '.join(NAMED_CORPORA)}"
            )
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        files += [p for p in found if path.is_file() or (p.suffix.lower() in TEXT_SUFFIXES and p.name[0] != ".")]
    if not any(file.stat().st_size for file in files):
        raise TokenizerError(f"there is no text in {', '.join(inputs)}")
    return files


def count_input(
    inputs: list[str],
    pattern: str,
    special_tokens: list[str],
    console: Console,
    workers: int | None = None,
    max_distinct: int | None = None,
) -> Counter[bytes]:
    """Count the pre-tokens of named corpora (their training part) and of files, with a progress bar."""
    with bytes_progress(console) as progress:
        task = progress.add_task("Counting", total=None)
        corpora = [load_corpus(name, 0.05) for name in inputs if name in NAMED_CORPORA]
        others = [name for name in inputs if name not in NAMED_CORPORA]
        files = find_files(others) if others or not inputs else []
        size = sum(corpus.train_bytes for corpus in corpora) + sum(file.stat().st_size for file in files)
        progress.update(task, total=size)

        def documents() -> Iterator[str | Iterator[str]]:
            for corpus in corpora:
                for document in corpus.train:
                    yield document
                    progress.advance(task, len(document.encode("utf-8")))
            for file in files:
                yield from read_documents(file, lambda count: progress.advance(task, count))

        processes = workers if workers is not None else usable_cores()
        return count_pre_tokens(documents(), pattern, special_tokens, processes, max_distinct)


def train_with_progress(
    counts: Counter[bytes], vocab_size: int, special_tokens: list[str], pattern: str, console: Console
) -> BPETokenizer:
    """Learn merges with a progress bar; say so if the text has fewer than were asked for."""
    with merges_progress(console) as progress:
        task = progress.add_task("Learning merges", total=None)

        def show(done: int, wanted: int) -> None:
            if done % 64 == 0 or done == wanted:
                progress.update(task, completed=done, total=wanted)

        tokenizer = train_from_counts(counts, vocab_size, special_tokens, pattern, show)
    missing = vocab_size - tokenizer.vocab_size
    if missing:
        console.print(
            f"[yellow]The text has pairs for {len(tokenizer.merges):,} merges, {missing:,} fewer than asked for: "
            f"the vocabulary has {tokenizer.vocab_size:,} ids.[/]"
        )
    return tokenizer


def open_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer by whatever file it is in.

    Args:
        name: our JSON file, a tokenizer.json, a folder with one or with GPT-2's vocab.json and merges.txt, or
            a `.tiktoken` file, for which cl100k's pattern is taken.

    Raises:
        TokenizerError: there is no such file, or it is none of these.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "vocab.json").exists() and not (path / "tokenizer.json").exists():
            return load_gpt2_files(path / "vocab.json", path / "merges.txt")
        path = path / "tokenizer.json"
    if path.suffix == ".tiktoken":
        return load_tiktoken_ranks(path, CL100K_PATTERN, {})
    return load_huggingface(path) if path.exists() and "model" in read_json(path) else load_tokenizer(path)


def default_tokenizer(console: Console) -> Tokenizer:
    """The tokenizer that was trained last, or a small one trained now on the Python language reference."""
    saved = sorted(WORKSPACE.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if saved:
        console.print(f"Using {saved[-1]}; another one: --tokenizer PATH", style="dim")
        return load_tokenizer(saved[-1])
    from pydoc_data.topics import topics

    console.print("No tokenizer yet: training one of 4,096 ids on the Python language reference …", style="dim")
    counts = count_pre_tokens(topics.values(), special_tokens=[END_OF_TEXT])
    return train_from_counts(counts, 4096)

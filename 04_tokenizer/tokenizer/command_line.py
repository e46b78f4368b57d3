"""What the scripts of this stage share: where text and tokenizers come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from groundwork.text_sources import TextError, find_text_files, read_documents
from neural_networks.corpora import load_corpus
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import END_OF_TEXT, Tokenizer, TokenizerError
from tokenizer.loading import load_tokenizer
from tokenizer.parallel import usable_cores
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.tokenizer_trainer import train_from_counts

PATTERNS = {"gpt2": GPT2_PATTERN, "cl100k": CL100K_PATTERN, "o200k": O200K_PATTERN}
NAMED_CORPORA = ("python_docs", "tiny_shakespeare")
WORKSPACE = Path("workspace/tokenizers")


def find_files(inputs: Iterable[str]) -> list[Path]:
    """The text files that are named, and those in the folders that are named.

    Raises:
        TokenizerError: nothing is there.
    """
    files: list[Path] = []
    for name in inputs:
        try:
            files += find_text_files(name)
        except TextError as error:
            raise TokenizerError(f"{error}; the named corpora are {', '.join(NAMED_CORPORA)}") from None
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
        counts = count_pre_tokens(documents(), pattern, special_tokens, processes, max_distinct)
    if not any(word.strip() for word in counts):
        raise TokenizerError(f"there is no text in {', '.join(inputs)}, only white space")
    return counts


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


def bytes_progress(console: Console) -> Progress:
    """A bar for work that is counted in bytes of text: megabytes done, MB/s and the time left."""
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description:<18}"), BarColumn(), *columns, console=console)


def merges_progress(console: Console) -> Progress:
    """A bar for merges: how many, and the time left."""
    columns = (TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description:<18}"), BarColumn(), *columns, console=console)

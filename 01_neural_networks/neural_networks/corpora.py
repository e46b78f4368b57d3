"""Corpora by name: where the text comes from.

A corpus has a name (`python_docs`, `tiny_shakespeare`) or is a path to the user's own files. Every stage uses the same
split, so that a bigram of stage 1 and a chat model of stage 6 are measured on the same held-out text.
"""

from __future__ import annotations

from pathlib import Path

from groundwork.text_sources import TextError, find_text_files, read_documents, read_text
from neural_networks.corpus import Corpus, CorpusError, split_documents
from neural_networks.python_docs import gather_python_docs

TINY_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def load_corpus(name: str | Path, validation_fraction: float = 0.1, cache_dir: Path | str = "datasets") -> Corpus:
    """Load a corpus by name, or from the user's own files.

    Args:
        name: `python_docs`, `tiny_shakespeare`, or the path of a text file, a JSONL file (one
            `{"text": …}` object on each line), a Parquet file with a column `text`, or a folder of such files. All of
            it is read into memory; stage 5 can also stream the same files.
        validation_fraction: share of the text held out, between 0 and 0.5.
        cache_dir: where a downloaded corpus is kept.

    Raises:
        CorpusError: there is no corpus of that name, or there is too little text to split.
        TextError: a file is empty, not UTF-8 or not readable.
    """
    if not 0.0 < validation_fraction <= 0.5:
        raise CorpusError(f"the validation fraction must be above 0 and at most 0.5, got {validation_fraction}")
    name = str(name)
    if name == "python_docs":
        return gather_python_docs(validation_fraction)
    if name == "tiny_shakespeare":
        text = read_text(_fetch_tiny_shakespeare(Path(cache_dir)))
        return split_documents(name, [text], validation_fraction)
    try:
        files = find_text_files(name)
    except TextError as error:
        raise CorpusError(
            f"there is no corpus called {name!r}: {error}; the named ones are python_docs and tiny_shakespeare"
        ) from None
    documents = ["".join(parts) for file in files for parts in read_documents(file)]
    return split_documents(name, documents, validation_fraction)


def _fetch_tiny_shakespeare(cache_dir: Path) -> Path:
    import pooch  # imported here: it takes longer to import than this module, and is rarely needed

    file = cache_dir / "tinyshakespeare.txt"
    try:
        with_progress = pooch.HTTPDownloader(progressbar=False, timeout=30)
        return Path(
            pooch.retrieve(
                TINY_SHAKESPEARE_URL,
                known_hash=f"sha256:{TINY_SHAKESPEARE_SHA256}",
                fname=file.name,
                path=str(cache_dir),
                downloader=with_progress,
            )
        )
    except Exception as error:  # pooch raises ValueError for a wrong hash; requests has other classes for the network
        raise CorpusError(
            f"Tiny Shakespeare could not be downloaded ({type(error).__name__}); put the file by hand at {file} "
            f"(SHA-256 {TINY_SHAKESPEARE_SHA256[:12]}…), or pass its path as the corpus"
        ) from None

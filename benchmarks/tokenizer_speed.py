"""Tokenizer training and encoding compared with Hugging Face `tokenizers`, tiktoken and minbpe's algorithm.

The text, the pattern and the vocabulary size are the same, and encoding uses exactly the same merges. The bare regular
expression is measured too: no encoder that goes from match to match can be faster. tokie, gigatoken and fastokens are
measured where they are installed (`pip install tokie gigatoken fastokens`), on one core.
"""

from __future__ import annotations

import os
import random
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # otherwise it warns about our processes and uses one core

import numpy as np
import regex
import tiktoken
import tokenizers

from harness import Comparison, Contender, compare
from neural_networks.corpora import load_corpus
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.file_encoder import encode_files
from tokenizer.huggingface_files import save_huggingface
from tokenizer.merging import Pair
from tokenizer.parallel import usable_cores
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN, QWEN_PATTERN
from tokenizer.tokenizer_trainer import train_bpe

CORES = 2  # for both sides, if both can use more than one


def run(quick: bool) -> list[Comparison]:
    """Train and encode `python_docs` and 50 MB of Python sources; when quick, only 2 MB of sources."""
    files = _source_files(2e6 if quick else 50e6)
    texts = {"Python sources": [file.read_bytes().decode("utf-8") for file in files]}
    if not quick:  # reading the documentation of the machine takes longer than all the quick comparisons
        texts = {"python_docs": list(load_corpus("python_docs", 0.05).train), **texts}
    name, documents = next(iter(texts.items()))
    results = [
        _compare_training(kind, those, vocab_size, quick)
        for kind, those in texts.items()
        for vocab_size in ((8192,) if quick else (8192, 32768))
    ]
    results.append(_compare_with_minbpe(name, "\n".join(documents)[:1_000_000], 4 if quick else 60))
    ours = train_bpe(documents, 8192, special_tokens=())
    results += _compare_encoding(name, documents, ours, quick)
    rounds = 2 if quick else 5
    if shakespeare := _shakespeare():
        results += _compare_encoding("Tiny Shakespeare", [shakespeare], ours, quick)
        results.append(_into_an_array("Tiny Shakespeare", shakespeare, ours, rounds))
        results.append(_into_an_array("Tiny Shakespeare ten times", 10 * shakespeare, ours, rounds))
    results.append(_into_an_array(name, "\n".join(documents), ours, rounds))
    for whose, pattern in (("GPT-4", CL100K_PATTERN), ("GPT-4o", O200K_PATTERN), ("Qwen", QWEN_PATTERN)):
        its = train_bpe(documents, 8192, special_tokens=(), pattern=pattern)
        results.append(_compare_pattern(f"{name}, {whose}'s pattern", documents, its))
    results += [
        _compare_adversarial(kind, text, ours) for kind, text in _adversarial_texts(200_000 if quick else 10**6)
    ]
    results.append(_compare_files(files, ours, quick))
    return results


def _megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6


def _source_files(size: float) -> list[Path]:
    """Installed Python sources, up to a number of bytes."""
    chosen: list[Path] = []
    for folder in ("purelib", "stdlib"):
        for path in sorted(Path(sysconfig.get_paths()[folder]).rglob("*.py")):
            try:
                text = path.read_bytes().decode("utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text and path not in chosen[-1:]:
                chosen.append(path)
                size -= len(text.encode("utf-8"))
            if size <= 0:
                return chosen
    return chosen


def _shakespeare() -> str | None:
    for path in (Path("datasets/tinyshakespeare.txt"), Path("../shared/data/tinyshakespeare.txt")):
        if path.exists():
            return path.read_text(encoding="utf-8")
    return None


def _compare_training(name: str, texts: Sequence[str], vocab_size: int, quick: bool) -> Comparison:
    size = _megabytes(texts)
    return compare(
        f"Train a tokenizer: {size:.1f} MB of {name}, vocabulary {vocab_size:,}, {CORES} cores",
        "MB/s",
        size,
        [
            Contender("ours", lambda: train_bpe(texts, vocab_size, special_tokens=(), workers=CORES)),
            Contender("ours, one process", lambda: train_bpe(texts, vocab_size, special_tokens=())),
            Contender("tokenizers", lambda: _train_with_tokenizers(texts, vocab_size)),
        ],
        rounds=2 if quick else 3,
    )


def _train_with_tokenizers(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _compare_with_minbpe(name: str, text: str, merges: int) -> Comparison:
    return compare(
        f"Train a tokenizer: 1 MB of {name}, {merges} merges",
        "MB/s",
        len(text) / 1e6,
        [
            Contender("ours", lambda: train_bpe([text], 256 + merges, special_tokens=())),
            Contender("minbpe's algorithm", lambda: _train_by_recounting(text, merges)),
        ],
        rounds=1,
    )


def _train_by_recounting(text: str, num_merges: int) -> list[Pair]:
    """Count the whole text again for each merge, as textbooks and minbpe do."""
    pieces = [list(piece.encode("utf-8")) for piece in regex.findall(GPT2_PATTERN, text)]
    merges: list[Pair] = []
    for new in range(256, 256 + num_merges):
        counts: Counter[Pair] = Counter()
        for piece in pieces:
            for pair in pairwise(piece):
                counts[pair] += 1
        best = max(counts, key=counts.__getitem__)
        merges.append(best)
        for index, piece in enumerate(pieces):
            replaced, at = [], 0
            while at < len(piece):
                if at + 1 < len(piece) and (piece[at], piece[at + 1]) == best:
                    replaced.append(new)
                    at += 2
                else:
                    replaced.append(piece[at])
                    at += 1
            pieces[index] = replaced
    return merges


def _tiktoken_with(ours: BPETokenizer) -> tiktoken.Encoding:
    ranks = {ours.decode_bytes([index]): index for index in range(ours.vocab_size)}
    return tiktoken.Encoding("ours", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens={})


def _tokenizers_with(ours: BPETokenizer) -> tokenizers.Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(ours, folder)
        return tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def _compare_encoding(name: str, texts: list[str], ours: BPETokenizer, quick: bool) -> list[Comparison]:
    size, peer, rust = _megabytes(texts), _tiktoken_with(ours), _tokenizers_with(ours)
    rounds = 2 if quick else 5
    fresh: list[BPETokenizer] = []

    def forget() -> None:
        fresh[:] = [BPETokenizer(ours.merges)]

    assert ours.encode_batch(texts) == peer.encode_ordinary_batch(texts, num_threads=1)
    comparisons = [
        compare(
            f"Encode {size:.1f} MB of {name} together, one thread",
            "MB/s",
            size,
            [
                Contender("ours", lambda: ours.encode_batch(texts)),
                Contender("ours, empty cache", lambda: fresh[0].encode_batch(texts), setup=forget),
                Contender("ours, into an array", lambda: ours.encode_batch_to_array(texts)),
                Contender("tiktoken", lambda: peer.encode_ordinary_batch(texts, num_threads=1)),
                Contender("tokenizers", lambda: [rust.encode(text).ids for text in texts]),
                _bare_expression(texts),
            ],
            rounds=rounds,
        )
    ]
    if len(texts) > 1:
        comparisons.append(
            compare(
                f"Encode {size:.1f} MB of {name} document by document, one thread",
                "MB/s",
                size,
                [
                    Contender("ours", lambda: [ours.encode(text) for text in texts]),
                    Contender("tiktoken", lambda: [peer.encode_ordinary(text) for text in texts]),
                ],
                rounds=rounds,
            )
        )
    return comparisons


def _bare_expression(texts: list[str]) -> Contender:
    expression = regex.compile(GPT2_PATTERN)
    return Contender("only regex.findall", lambda: [expression.findall(text) for text in texts])


def _into_an_array(name: str, text: str, ours: BPETokenizer, rounds: int) -> Comparison:
    """One text into an array of ids, beside the fastest that there is. Each of them gives a NumPy array, or its bytes."""
    size, peer = _megabytes([text]), _tiktoken_with(ours)
    fresh: list[BPETokenizer] = []

    def forget() -> None:
        fresh[:] = [BPETokenizer(ours.merges)]

    with _one_core():
        return compare(
            f"Encode {size:.1f} MB of {name} into an array, one core",
            "MB/s",
            size,
            [
                Contender("ours", lambda: ours.encode_to_array(text)),
                Contender("ours, empty cache", lambda: fresh[0].encode_to_array(text), setup=forget),
                Contender("tiktoken", lambda: peer.encode_to_numpy(text, disallowed_special=())),
                *_fast_peers(text, ours),
            ],
            rounds=rounds,
        )


@contextmanager
def _one_core() -> Iterator[None]:
    """Some of the others use several threads whatever they are told. Those that they start in here share one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def _tokie(path: str) -> Callable[[str], object]:
    import tokie

    encode = tokie.Tokenizer.from_json(path).encode_batch_flat
    return lambda text: encode([text], add_special_tokens=False)[0]


def _gigatoken(path: str) -> Callable[[str], object]:
    import gigatoken

    return gigatoken.Tokenizer(path).encode


def _fastokens(path: str) -> Callable[[str], object]:
    import fastokens

    encode = fastokens.Tokenizer.from_file(path).encode_batch_flat
    return lambda text: np.frombuffer(encode([text])[0], np.uint32)


def _fast_peers(text: str, ours: BPETokenizer) -> list[Contender]:
    """The libraries that are installed, each after it has been shown to give our ids."""
    loaders: dict[str, Callable[[str], Callable[[str], object]]] = {
        "tokie": _tokie,
        "gigatoken": _gigatoken,
        "fastokens": _fastokens,
    }
    expected, contenders = ours.encode_to_array(text), []
    for name, load in loaders.items():
        if find_spec(name) is None:
            print(f"  {name} is left out: it is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            save_huggingface(ours, folder)
            encode = load(str(Path(folder) / "tokenizer.json"))
        if not np.array_equal(encode(text), expected):
            print(f"  {name} is left out: its ids are not those of tiktoken")
            continue
        contenders.append(Contender(name, partial(encode, text)))
    return contenders


def _compare_pattern(name: str, texts: list[str], ours: BPETokenizer) -> Comparison:
    size, peer, rust = _megabytes(texts), _tiktoken_with(ours), _tokenizers_with(ours)
    return compare(
        f"Encode {size:.1f} MB of {name} together, one thread",
        "MB/s",
        size,
        [
            Contender("ours", lambda: ours.encode_batch(texts)),
            Contender("tiktoken", lambda: peer.encode_ordinary_batch(texts, num_threads=1)),
            Contender("tokenizers", lambda: [rust.encode(text).ids for text in texts]),
        ],
        rounds=3,
    )


def _adversarial_texts(length: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    return [
        (f"the letter a, {length:,} times", "a" * length),
        (f"{length:,} random letters without a space", "".join(draw.choices("etaoinshrdlu", k=length))),
    ]


def _compare_adversarial(name: str, text: str, ours: BPETokenizer) -> Comparison:
    peer = _tiktoken_with(ours)
    return compare(
        f"Encode {name}",
        "MB/s",
        len(text) / 1e6,
        [
            Contender("ours", lambda: ours.encode(text)),  # neither of the two remembers a pre-token of this length
            Contender("tiktoken", lambda: peer.encode_ordinary(text)),
        ],
        rounds=3,
    )


def _compare_files(files: list[Path], ours: BPETokenizer, quick: bool) -> Comparison:
    """Compare encoding from files of text to a file of ids."""
    cores = min(CORES, usable_cores())
    size = sum(file.stat().st_size for file in files) / 1e6
    peer, rust = _tiktoken_with(ours), _tokenizers_with(ours)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "ids.bin"

        def write(batch: list[list[int]]) -> None:
            with open(output, "wb") as file:
                for ids in batch:
                    file.write(np.array(ids, dtype="<u2").tobytes())

        def texts() -> list[str]:
            return [file.read_bytes().decode("utf-8") for file in files]

        return compare(
            f"Encode {size:.1f} MB of Python sources from file to file, {cores} cores",
            "MB/s",
            size,
            [
                Contender("ours, encode_files", lambda: encode_files(ours, files, output, workers=cores)),
                Contender("ours, one process", lambda: encode_files(ours, files, output)),
                Contender("tiktoken", lambda: write(peer.encode_ordinary_batch(texts(), num_threads=cores))),
                Contender("tokenizers", lambda: write([found.ids for found in rust.encode_batch_fast(texts())])),
            ],
            rounds=2 if quick else 3,
        )

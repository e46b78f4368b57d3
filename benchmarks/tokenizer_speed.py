"""Tokenizer training and encoding beside Hugging Face `tokenizers` and tiktoken.

Same text, same pattern, same vocabulary size; encoding with the very same merges.
"""

from __future__ import annotations

import tiktoken
import tokenizers

from harness import Comparison, Contender, compare
from neural_networks.corpora import load_corpus
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.patterns import GPT2_PATTERN
from tokenizer.tokenizer_trainer import train_bpe

VOCAB_SIZE = 8192


def run(quick: bool) -> list[Comparison]:
    """Measure on `python_docs`, or on about 1 MB of it when quick."""
    documents = list(load_corpus("python_docs", 0.05).train)
    if quick:
        documents = documents[::10]
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    ours = train_bpe(documents, VOCAB_SIZE, special_tokens=())
    peer = tiktoken.Encoding(
        "ours",
        pat_str=GPT2_PATTERN,
        mergeable_ranks={ours.decode_bytes([i]): i for i in range(ours.vocab_size)},
        special_tokens={},
    )
    rust = _train_with_tokenizers(documents)

    cold: list[BPETokenizer] = []

    def forget() -> None:
        cold[:] = [BPETokenizer(ours.merges)]

    return [
        compare(
            f"Train a tokenizer: {megabytes:.1f} MB of python_docs, vocabulary {VOCAB_SIZE:,}",
            "MB/s",
            megabytes,
            [
                Contender("ours", lambda: train_bpe(documents, VOCAB_SIZE, special_tokens=())),
                Contender("tokenizers", lambda: _train_with_tokenizers(documents)),
            ],
            rounds=2 if quick else 3,
        ),
        compare(
            f"Encode {megabytes:.1f} MB of python_docs, one thread",
            "MB/s",
            megabytes,
            [
                Contender("ours, empty cache", lambda: [cold[0].encode(d) for d in documents], setup=forget),
                Contender("ours, warm cache", lambda: [ours.encode(d) for d in documents]),
                Contender("tiktoken", lambda: [peer.encode_ordinary(d) for d in documents]),
                Contender("tokenizers", lambda: [rust.encode(d).ids for d in documents]),
            ],
            rounds=3 if quick else 5,
        ),
    ]


def _train_with_tokenizers(documents: list[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer

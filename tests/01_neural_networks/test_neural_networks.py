"""Stage 1: corpora and bits per byte."""

from __future__ import annotations

import importlib
import lzma
import math
import socket
from pathlib import Path

import pytest

from neural_networks import python_docs
from neural_networks.bits_per_byte import bits_per_byte, gzip_bits_per_byte, perplexity, xz_bits_per_byte
from neural_networks.corpora import TINY_SHAKESPEARE_SHA256, load_corpus
from neural_networks.corpus import Corpus, CorpusError


def test_a_uniform_guess_over_bytes_costs_eight_bits():
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8.0)
    assert perplexity(math.log(256)) == pytest.approx(256)
    assert perplexity(1e6) == math.inf


def test_bits_per_byte_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one byte"):
        bits_per_byte(1.0, 0)


def test_xz_counts_what_the_xz_file_holds():
    text = "the quick brown fox jumps over the lazy dog. " * 50
    assert xz_bits_per_byte([text]) == pytest.approx(8 * len(lzma.compress(text.encode(), preset=9)) / len(text))


def test_xz_with_the_same_text_as_context_costs_almost_nothing():
    text = "".join(chr(33 + (i * i * 7 + i // 3) % 90) for i in range(5000))
    assert xz_bits_per_byte([text], context=[text]) < 0.1 * xz_bits_per_byte([text])


def test_gzip_shrinks_repetition():
    assert gzip_bits_per_byte(["ab" * 1000]) < 1.0


@pytest.mark.slow
def test_python_docs_are_documentation_and_do_not_leak_into_validation(documentation: Corpus):
    corpus = documentation
    assert 5e6 < corpus.train_bytes < 50e6
    assert 0.01 < corpus.validation_bytes / corpus.train_bytes < 0.15
    assert any(
        text.startswith("collections.Counter.most_common(self, n=None)") for text in corpus.train + corpus.validation
    )
    docstrings = [text.split("\n\n", 1)[1] for text in corpus.train + corpus.validation]
    assert len(set(docstrings)) == len(docstrings)
    train_lines = {line for text in corpus.train for line in python_docs._long_lines(text)}
    for text in corpus.validation:
        lines = list(python_docs._long_lines(text.split("\n\n", 1)[1]))
        assert sum(line in train_lines for line in lines) <= 0.5 * len(lines)


@pytest.mark.slow
def test_python_docs_are_the_same_whatever_the_program_has_imported():
    def imported() -> list[python_docs.DocumentedSymbol]:  # the rest is read from files
        found = python_docs._symbols_without_source()
        return [symbol._replace(docstring=python_docs._clean(symbol.docstring)) for symbol in found]

    first = imported()
    importlib.import_module("torch.utils.tensorboard")
    importlib.import_module("torch.distributed.checkpoint")
    assert len(first) > 1000 and imported() == first


def test_a_file_is_split_at_its_tail(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes(("héllo\r\n" * 100).encode())
    corpus = load_corpus(str(path), 0.1)
    assert "".join(corpus.train + corpus.validation) == "héllo\r\n" * 100
    assert len(corpus.train[0]) == 630
    assert corpus.train_bytes + corpus.validation_bytes == 800


def test_a_folder_gives_every_text_once_whatever_the_file_names(tmp_path: Path):
    for order, folder in ((1, "a"), (-1, "b")):
        (tmp_path / folder / "sub").mkdir(parents=True)
        for index in range(10):
            (tmp_path / folder / "sub" / f"{order * index + 20}.md").write_text(f"document {index} " * 5)
    (tmp_path / "a" / "sub" / "data.jsonl").write_text('{"text": "from a record"}\n\n')
    (tmp_path / "b" / "record.txt").write_text("from a record")
    first, second = load_corpus(str(tmp_path / "a"), 0.3), load_corpus(str(tmp_path / "b"), 0.3)
    assert (first.train, first.validation) == (second.train, second.validation)
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("copies", [1, 2, 7])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5])
def test_no_document_is_in_both_parts(copies: int, fraction: float, tmp_path: Path):
    for index in range(9):
        for copy in range(copies):
            (tmp_path / f"{index} {copy}.txt").write_text(f"document {index} " * 5)
    corpus = load_corpus(tmp_path, fraction)
    assert corpus.name == str(tmp_path)
    assert not set(corpus.train) & set(corpus.validation)
    if corpus.train[-1] + corpus.validation[0] in {f"document {index} " * 5 for index in range(9)}:  # cut in two
        assert corpus.train[-1] + corpus.validation[0] not in {*corpus.train, *corpus.validation}


def test_one_copy_is_said_as_one(tmp_path: Path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the same text " * 9)
    load_corpus(tmp_path, 0.5)
    assert "1 copy of a document at the cut" in capsys.readouterr().err


def test_copies_of_one_document_are_cut_as_one(tmp_path: Path, capsys):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("the same text " * 9)
    corpus = load_corpus(tmp_path, 0.5)
    assert (corpus.train, corpus.validation) == (
        ("the same text " * 4 + "the sam",),
        ("e text " + "the same text " * 4,),
    )
    assert "2 copies of a document at the cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n", "is empty"),
        ("latin1.txt", "caf\xe9 au lait".encode("latin-1"), "not UTF-8: byte 0xe9 at offset 3"),
        ("bad.jsonl", b'{"text": "ok"}\n{"text": 3}\n', 'line 2: expected an object with a string field "text"'),
        ("broken.jsonl", b'{"text": "ok"\n', "line 1: not valid JSON"),
    ],
)
def test_an_unusable_file_is_named_with_the_reason(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_corpus_says_what_there_is():
    with pytest.raises(CorpusError, match="python_docs and tiny_shakespeare"):
        load_corpus("pyhton_docs")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_tiny_shakespeare_offline_says_where_to_put_the_file(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"put the file by hand at .*tinyshakespeare\.txt"):
        load_corpus("tiny_shakespeare", cache_dir=tmp_path)


@pytest.mark.usefixtures("offline")
def test_tiny_shakespeare_is_taken_from_the_cache_and_split_as_nanogpt_does(shared_data: Path, tmp_path: Path):
    content = (shared_data / "tinyshakespeare.txt").read_bytes()
    (tmp_path / "tinyshakespeare.txt").write_bytes(content)
    corpus = load_corpus("tiny_shakespeare", 0.1, tmp_path)
    assert (corpus.train_bytes, corpus.validation_bytes) == (1_003_854, 111_540)
    (tmp_path / "tinyshakespeare.txt").write_bytes(content + b"tampered")
    with pytest.raises(CorpusError, match=f"SHA-256 {TINY_SHAKESPEARE_SHA256[:12]}"):
        load_corpus("tiny_shakespeare", 0.1, tmp_path)

"""Stage 4: characters, bytes, WordPiece; statistics, the viewer and the scripts."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from rich.console import Console
from support.tokenizer_references import TEXT, any_texts

from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.token_viewer import show_tokens, to_html, to_terminal
from tokenizer.tokenizer_trainer import train_bpe
from tokenizer.vocab_builder import compression_by_size, plot_compression, vocabulary_statistics
from tokenizer.wordpiece_tokenizer import SPECIAL_TOKENS, WordPieceTokenizer
from tokenizer.wordpiece_trainer import train_wordpiece


def test_characters_get_ids_in_order_and_unknown_ones_are_named():
    tokenizer = CharacterTokenizer.train(["hello"], [END_OF_TEXT])
    assert tokenizer.encode("hole") == [1, 3, 2, 0]
    assert tokenizer.end_of_text_id == 4
    with pytest.raises(TokenizerError, match=r"'z' \(U\+007A\)"):
        tokenizer.encode("z")
    with pytest.raises(TokenizerError, match="id 5 is outside the vocabulary of 5"):
        tokenizer.decode([5])


@settings(max_examples=100, deadline=None)
@given(text=any_texts)
def test_bytes_are_their_ids(text: str):
    tokenizer = ByteTokenizer([END_OF_TEXT])
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.encode(text) == list(clean.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == clean
    assert tokenizer.encode(text + END_OF_TEXT, allowed_special="all")[-1] == 256
    assert tokenizer.decode([104, 256, 105]) == f"h{END_OF_TEXT}i"
    with pytest.raises(TokenizerError, match="id 257 is outside the vocabulary of 257"):
        tokenizer.decode([257])


# WordPiece


@pytest.fixture(scope="module")
def wordpiece() -> tuple[WordPieceTokenizer, tokenizers.Tokenizer]:
    ours = train_wordpiece([TEXT], 400)
    vocabulary = {piece: index for index, piece in enumerate(ours.vocabulary)} | ours.special_tokens
    theirs = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return ours, theirs


def test_wordpiece_encodes_as_hugging_face_does(wordpiece):
    ours, theirs = wordpiece
    text = f"{TEXT} unknownßword {'a' * 100} {'a' * 101} def defined $5 x=y 3.14 ``quoted''"
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.special_tokens["[UNK]"] in ours.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=any_texts)
def test_wordpiece_encodes_any_unicode_as_hugging_face_does(text: str, wordpiece):
    ours, theirs = wordpiece
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert ours.encode(text) == theirs.encode(clean).ids


def test_wordpiece_learns_the_pieces_that_hugging_face_learns_where_no_count_is_tied():
    words = ["ab", "abc", "abcd", "ce", "cef"]
    documents = [" ".join([word] * 3**index) for index, word in enumerate(words)]
    size = len(SPECIAL_TOKENS) + len("abcdef") + len(["##b", "##c", "##d", "##e", "##f"]) + 5
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece({}, unk_token="[UNK]"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    theirs.train_from_iterator(documents, trainer)
    ours = train_wordpiece(documents, size)
    assert {*ours.vocabulary, *SPECIAL_TOKENS} == set(theirs.get_vocab())
    assert ours.vocabulary[-5:] == ["ce", "cef", "ab", "abc", "abcd"]


def test_wordpiece_reads_its_pieces_back_as_words(wordpiece):
    ours, _ = wordpiece
    assert ours.decode(ours.encode("def  test(text):")) == "def test ( text ) :"
    assert ours.encode("[MASK]", allowed_special="all") == [ours.special_tokens["[MASK]"]]
    assert ours.decode_bytes(ours.encode("def")) == b"def"
    with pytest.raises(TokenizerError, match="id 400 is outside the vocabulary of 400"):
        ours.decode([400])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WordPieceTokenizer(["a", "a"]), "distinct"),
        (lambda: WordPieceTokenizer(["a"], ["[PAD]"]), r"needs the special token \[UNK\]"),
        (lambda: train_wordpiece(["abc"], 9), "at least 10: 5 characters"),
        (lambda: train_wordpiece([" "], 100), "there is no word"),
    ],
)
def test_an_impossible_wordpiece_vocabulary_is_refused(make, message: str):
    with pytest.raises(TokenizerError, match=message):
        make()


# Statistics


def test_statistics_count_what_encoding_gives():
    tokenizer = train_bpe([TEXT], 400)
    found = vocabulary_statistics(tokenizer, [TEXT, "the"])
    ids = tokenizer.encode(TEXT) + tokenizer.encode("the")
    assert (found.tokens, found.used, found.vocab_size) == (len(ids), len(set(ids)), 400)
    assert found.text_bytes == len(TEXT.encode()) + 3
    assert found.bytes_per_token == found.text_bytes / len(ids)
    values, counts = np.unique(ids, return_counts=True)
    assert found.most_frequent[0] == (tokenizer.decode([values[counts.argmax()]]), counts.max())
    assert len(found.longest[0]) == max(len(tokenizer.decode([index])) for index in set(ids))
    with pytest.raises(TokenizerError, match="no text"):
        vocabulary_statistics(tokenizer, [""])


def test_compression_by_size_is_that_of_tokenizers_trained_one_by_one(tmp_path: Path):
    held_out = "def test(text): return text\n"
    points = compression_by_size(count_pre_tokens([TEXT]), [held_out], [300, 256, 400, 10**6])
    assert [point.vocab_size for point in points] == [256, 300, 400]  # the text has no pairs for a million
    for point in points:
        tokenizer = train_bpe([TEXT], point.vocab_size, special_tokens=())
        assert point.train == pytest.approx(len(TEXT.encode()) / len(tokenizer.encode(TEXT)), rel=1e-12)
        assert point.held_out == pytest.approx(len(held_out) / len(tokenizer.encode(held_out)), rel=1e-12)
        counts = Counter(tokenizer.encode(TEXT))
        ids = tokenizer.encode(held_out)
        bits = -sum(math.log2((counts[index] + 1) / (counts.total() + point.vocab_size)) for index in ids)
        assert point.unigram_bits_per_byte == pytest.approx(bits / len(held_out), rel=1e-12)
    assert points[0].train == 1.0
    plot_compression(points, tmp_path / "plots" / "compression.png")
    assert (tmp_path / "plots" / "compression.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TokenizerError, match="at least 256"):
        compression_by_size(count_pre_tokens([TEXT]), [held_out], [100])


# The viewer


def test_the_viewer_shows_every_token_in_terminal_and_page():
    tokenizer = train_bpe([TEXT], 300)
    text = f"the <b>\n\t\x1b[31m 東{END_OF_TEXT}"
    tokens = list(show_tokens(tokenizer, text, allowed_special="all"))
    assert [token.id for token in tokens] == tokenizer.encode(text, allowed_special="all")
    styles = [str(span.style) for span in to_terminal(tokens).spans]
    assert all(left != right for left, right in pairwise(styles))  # the end of a token is visible
    console = Console(color_system="standard", force_terminal=True, width=200)
    with console.capture() as capture:
        console.print(to_terminal(tokens, with_ids=True), end="")
    shown = capture.get()
    assert "⟨1b⟩" in shown and "⟨e6⟩" in shown  # no control character reaches the terminal, no byte is lost
    assert "\x1b[31m" not in shown
    assert str(tokenizer.end_of_text_id) in shown

    class Spans(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.texts.append(data)

    page = Spans()
    page.feed(to_html(tokens))
    assert "".join(token.text for token in tokens) in "".join(page.texts)
    assert "<b>" not in to_html(tokens)


# The scripts


def run(root: Path, script: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "04_tokenizer" / script, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8", "PATH": ""},
        cwd=root,
    )


@pytest.mark.slow
def test_the_scripts_train_encode_and_show(root: Path, text_file: Path, tmp_path: Path):
    saved, ids = tmp_path / "t.json", tmp_path / "ids.bin"
    result = run(
        root, "train_tokenizer.py", "--input", text_file, "--vocab-size", 300, "--output", saved, "--workers", 2
    )
    assert result.returncode == 0, result.stderr
    assert "300 ids" in result.stdout
    result = run(root, "encode_files.py", "--tokenizer", saved, "--input", text_file, "--output", ids)
    assert result.returncode == 0, result.stderr
    assert "MB/s" in result.stdout
    assert np.fromfile(ids, dtype="<u2").max() < 300
    result = run(root, "tokenize_text.py", "--tokenizer", saved, stdin="Return\n/merges ␣Return\n\n")
    assert result.returncode == 0, result.stderr
    assert "Return" in result.stdout and "␣ · R · e · t · u · r · n" in result.stdout
    result = run(root, "tokenize_text.py", "--tokenizer", saved, "--file", text_file, "--statistics")
    assert "bytes per token" in result.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train_tokenizer.py", ("--input", "nowhere", "--vocab-size", "300"), "there is no file or folder nowhere"),
        ("train_tokenizer.py", ("--input", "LICENSE", "--vocab-size", "10"), "at least 257"),
        ("train_tokenizer.py", ("--input", "{blank}", "--vocab-size", "300"), "only white space"),
        ("tokenize_text.py", ("--tokenizer", "LICENSE", "--text", "a"), "LICENSE, line 1: not valid JSON"),
        ("encode_files.py", ("--tokenizer", "nothing.json", "--input", "LICENSE", "--output", "x"), "no tokenizer at"),
    ],
)
def test_a_mistake_becomes_one_line(script: str, arguments, message: str, root: Path, tmp_path: Path):
    (tmp_path / "blank.txt").write_text("\n\n  \n", encoding="utf-8")
    result = run(root, script, *(argument.format(blank=tmp_path / "blank.txt") for argument in arguments))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1

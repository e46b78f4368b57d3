"""Stage 4: text in parts, ids in parts, files of text and files of ids."""

from __future__ import annotations

import contextlib
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.tokenizer_references import TEXT, any_texts

from groundwork.text_sources import TextError
from tokenizer import file_encoder
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.file_encoder import encode_files
from tokenizer.interface import END_OF_TEXT, Tokenizer, TokenizerError
from tokenizer.patterns import CL100K_PATTERN, O200K_PATTERN
from tokenizer.shard_writer import ShardWriter, id_dtype
from tokenizer.streaming import StreamingDecoder, join_safely
from tokenizer.tokenizer_trainer import train_bpe
from tokenizer.wordpiece_trainer import train_wordpiece

KINDS = {
    "gpt2": lambda: train_bpe([TEXT], 600),
    "cl100k": lambda: train_bpe([TEXT], 600, pattern=CL100K_PATTERN),
    "o200k": lambda: train_bpe([TEXT], 600, pattern=O200K_PATTERN),
    "own pattern": lambda: train_bpe([TEXT], 600, pattern=r"\w+|\W"),
    "byte": lambda: ByteTokenizer([END_OF_TEXT]),
    "character": lambda: CharacterTokenizer.train([TEXT], [END_OF_TEXT]),
    "wordpiece": lambda: train_wordpiece([TEXT], 600, ["[UNK]", END_OF_TEXT]),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    return KINDS[request.param]()


def in_parts(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("allowed", [(), "all"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_text_in_parts_gives_the_ids_of_the_whole(tokenizer: Tokenizer, size: int, allowed):
    text = f"{TEXT}{END_OF_TEXT}{END_OF_TEXT}\n\n {END_OF_TEXT[:7]} {TEXT}"
    assert list(tokenizer.encode_iterable(in_parts(text, size), allowed)) == tokenizer.encode(text, allowed)
    specials = [END_OF_TEXT] if allowed else []
    chunks = list(join_safely(in_parts(text, size), tokenizer.last_safe_cut, specials, 60))
    assert "".join(chunks) == text
    assert [i for chunk in chunks for i in tokenizer.encode(chunk, allowed)] == tokenizer.encode(text, allowed)


@settings(max_examples=200, deadline=None)
@given(text=any_texts, size=st.integers(1, 10), length=st.integers(1, 10))
def test_chunks_of_any_text_give_the_ids_of_the_whole(text: str, size: int, length: int):
    for tokenizer in (BPETokenizer([(32, 97)]), BPETokenizer([(32, 97)], (), O200K_PATTERN), ByteTokenizer()):
        chunks = join_safely(in_parts(text, size), tokenizer.last_safe_cut, (), length)
        assert [i for chunk in chunks for i in tokenizer.encode(chunk)] == tokenizer.encode(text)


@pytest.mark.slow
def test_encoding_a_stream_takes_constant_memory():
    tokenizer = BPETokenizer([(32, 97)])
    tracemalloc.start()
    endless = tokenizer.encode_iterable("some words in a line\n" for _ in iter(int, 1))
    assert sum(1 for _ in islice(endless, 5_000_000)) == 5_000_000
    assert tracemalloc.get_traced_memory()[1] < 100e6  # 5 million ids in a list would take 40 MB more for each million
    tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 255), max_size=6), max_size=10))
def test_ids_decoded_in_parts_give_the_text_of_the_whole(parts):
    tokenizer = ByteTokenizer()
    decoder = StreamingDecoder(tokenizer)
    for _ in range(2):  # after `finish` it starts again
        pieces = [decoder.decode(part) for part in parts] + [decoder.finish()]
        assert "".join(pieces) == tokenizer.decode([index for part in parts for index in part])


def test_a_character_appears_when_it_is_complete(tokenizer: Tokenizer):
    if tokenizer.type_name == "wordpiece":
        pytest.skip("WordPiece drops white space between words")
    decoder = StreamingDecoder(tokenizer)
    text = "naïve 東京 🙂"
    pieces = [decoder.decode([index]) for index in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


# Files


@pytest.fixture
def text_files(tmp_path: Path) -> list[Path]:
    (tmp_path / "a.txt").write_bytes(("\ufeff" + TEXT * 3).encode())
    (tmp_path / "b.txt").write_bytes(f"one\r\n{END_OF_TEXT}two\u2028 three".encode())
    (tmp_path / "c.jsonl").write_bytes('{"text": "first\u2028 line"}\n\n{"text": "second"}'.encode())
    return [tmp_path / name for name in ("a.txt", "b.txt", "c.jsonl")]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shard_tokens", [None, 1000])
def test_files_of_ids_hold_the_documents(text_files, workers: int, shard_tokens, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(file_encoder, "CHUNK_LENGTH", 500)
    tokenizer = train_bpe([TEXT], 600)
    output = tmp_path / "out" / "train.bin"
    read = []
    result = encode_files(
        tokenizer,
        text_files,
        output,
        allowed_special=[END_OF_TEXT],
        shard_tokens=shard_tokens,
        workers=workers,
        on_bytes=read.append,
    )
    documents = [TEXT * 3, f"one\r\n{END_OF_TEXT}two\u2028 three", "first\u2028 line", "second"]
    expected = [
        index for text in documents for index in [tokenizer.end_of_text_id, *tokenizer.encode(text, [END_OF_TEXT])]
    ]
    assert result.dtype == "<u2"
    assert np.concatenate([np.fromfile(path, dtype=result.dtype) for path in result.paths]).tolist() == expected
    assert result.tokens == len(expected)
    assert result.text_bytes == sum(len(text.encode()) for text in documents)
    assert sum(read) == sum(path.stat().st_size for path in text_files)  # what a progress bar counts to
    if shard_tokens:
        assert [path.name for path in result.paths][:2] == ["train_00000.bin", "train_00001.bin"]
        assert {path.stat().st_size for path in result.paths[:-1]} == {2 * shard_tokens}
    assert sorted(output.parent.iterdir()) == result.paths  # nothing temporary is left


def test_large_ids_take_four_bytes(tmp_path: Path):
    tokenizer = BPETokenizer([(97, 98)], ids=[*range(256), 70_000])
    (tmp_path / "a.txt").write_text("ab")
    result = encode_files(tokenizer, [tmp_path / "a.txt"], tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == (70_000).to_bytes(4, "little")
    assert result.dtype == "<u4"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_encoded_leaves_nothing_behind(workers: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(file_encoder, "CHUNK_LENGTH", 10)
    (tmp_path / "good.txt").write_text("a few words " * 20)
    (tmp_path / "bad.txt").write_bytes(b"fine so far \xff")
    inputs = [tmp_path / "good.txt", tmp_path / "bad.txt"]
    with pytest.raises(TextError, match=r"bad.txt, line 1, is not UTF-8: byte 0xff at offset 12"):
        encode_files(ByteTokenizer(), inputs, tmp_path / "out" / "train.bin", workers=workers)
    with pytest.raises(TokenizerError, match="'w'"):  # raised in another process
        encode_files(CharacterTokenizer("a fe"), inputs[:1], tmp_path / "out" / "train.bin", workers=workers)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_text_and_no_room_are_refused(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TokenizerError, match="nothing to encode"):
        encode_files(ByteTokenizer(), [tmp_path / "empty.txt"], tmp_path / "a.bin")
    with pytest.raises(TokenizerError, match="at least 1 token, got 0"):
        encode_files(ByteTokenizer(), [tmp_path / "empty.txt"], tmp_path / "a.bin", shard_tokens=0)


def test_documents_are_one_stream_with_the_end_of_text_before_each():
    documents = ["one", "", "two"]
    assert ByteTokenizer().encode_documents(documents).tolist() == list(b"onetwo")
    tokenizer = ByteTokenizer([END_OF_TEXT])
    assert tokenizer.encode_documents(documents).tolist() == [256, *b"one", 256, 256, *b"two"]
    assert tokenizer.encode_documents(iter(documents), begins=[True, False, False]).tolist() == [256, *b"onetwo"]
    assert tokenizer.encode_documents([]).tolist() == []
    assert tokenizer.encode_documents([END_OF_TEXT]).tolist() == [256, *END_OF_TEXT.encode()]
    assert tokenizer.encode_documents([END_OF_TEXT], allowed_special="all").tolist() == [256, 256]


def test_shards_are_full_but_the_last_and_appear_together(tmp_path: Path):
    with ShardWriter(tmp_path / "new" / "a.bin", id_dtype(300), 4) as writer:
        for ids in (np.arange(3), np.arange(0), np.arange(3, 8), np.arange(8, 10)):
            writer.write(ids)
        assert all(path.name.endswith(".tmp") for path in (tmp_path / "new").iterdir())
    assert [path.name for path in writer.paths] == ["a_00000.bin", "a_00001.bin", "a_00002.bin"]
    assert sorted((tmp_path / "new").iterdir()) == writer.paths
    read = [np.fromfile(path, dtype="<u2").tolist() for path in writer.paths]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and writer.tokens == 10
    with pytest.raises(KeyError), ShardWriter(tmp_path / "b.bin", id_dtype(70_000)) as writer:
        writer.write(np.arange(5))
        raise KeyError("x")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_shards_of_an_earlier_encoding_do_not_stay_behind_those_of_a_new_one(tmp_path: Path):
    def encode(limit: int | None, fail: bool = False) -> list[str]:
        with contextlib.suppress(KeyError), ShardWriter(tmp_path / "a.bin", id_dtype(300), limit) as writer:
            writer.write(np.arange(8))
            if fail:
                raise KeyError
        return sorted(path.name for path in tmp_path.iterdir())

    others = ["a_1.bin", "b_00009.bin", "my_a_00009.bin"]
    for name in others:
        (tmp_path / name).touch()
    small, large = ([f"a_{i:05d}.bin" for i in range(count)] for count in (4, 2))
    assert encode(2) == sorted([*small, *others])
    assert encode(4, fail=True) == sorted([*small, *others])  # what was whole stays whole
    assert encode(4) == sorted([*large, *others])
    assert encode(None) == sorted(["a.bin", *others])
    assert encode(2) == sorted([*small, *others])

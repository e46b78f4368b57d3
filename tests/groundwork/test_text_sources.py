"""The one reader of text: what a file means, whole and in blocks, and what every command says of a file it cannot use."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from evaluation.tasks.records import read_records
from finetuning.data.instruction_data import read_instruction_data
from groundwork import text_sources, user_errors
from groundwork.text_sources import (
    find_text_files,
    parse_json,
    parse_record,
    read_blocks,
    read_documents,
    read_jsonl,
    read_lines,
    read_parquet,
    read_text,
)
from groundwork.user_errors import UserError, require_texts
from neural_networks.corpora import load_corpus
from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.file_encoder import encode_files
from training.data.document_stream import stream_documents

TEXT = "\r\naé東🙂\u2028b\x85c\r d\x0b\x0c\x1c\r\n\n\ufeffe\r"
CAFE = "a\ncafé\n".encode("latin-1")


@pytest.fixture(params=[1, 2, 3, 4, 5, 7, 1 << 22])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Borders of blocks fall everywhere: into characters, line ends, byte order marks and escapes."""
    monkeypatch.setattr(text_sources, "BLOCK_BYTES", request.param)
    return request.param


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_jsonl(path: Path, *texts: str) -> Path:
    return write(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_parquet(path: Path, **columns: list) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        action()
    assert not isinstance(caught.value, UnicodeError)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- whole files and blocks -------------------------------------------------------------------


def test_a_file_is_its_characters_whatever_the_blocks(block_bytes: int, tmp_path: Path):
    path, sizes = write(tmp_path / "a.txt", TEXT), []
    assert "".join(read_blocks(path, sizes.append)) == read_text(path) == TEXT
    assert sum(sizes) == len(TEXT.encode()) and max(sizes) <= block_bytes


def test_only_the_first_byte_order_mark_is_dropped(block_bytes: int, tmp_path: Path):
    path = write(tmp_path / "a.txt", "\ufeff\ufeff" + TEXT)
    assert read_text(path) == "\ufeff" + TEXT
    assert list(read_blocks(write(path, "\ufeff"))) == []


def test_lines_end_at_line_feeds_only_and_are_numbered(block_bytes: int, tmp_path: Path):
    path = write(tmp_path / "a.txt", "\ufeffone\u2028still\x85one\r\n\n \t\r\nfour\rfour\nfive")
    assert list(read_lines(path)) == [(1, "one\u2028still\x85one\r"), (4, "four\rfour"), (5, "five")]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (CAFE, "line 2, is not UTF-8: byte 0xe9 at offset 5"),
        (b"\xef\xbb\xbf" + CAFE, "line 2, is not UTF-8: byte 0xe9 at offset 8"),  # after a byte order mark
        ("aé東🙂".encode() + b"\xe6b", "line 1, is not UTF-8: byte 0xe6 at offset 10"),
        ("a\n東".encode()[:-1], "line 2, is not UTF-8: byte 0xe6 at offset 2"),  # ends within a character
        (b"\xef\xbb", "line 1, is not UTF-8: byte 0xef at offset 0"),  # ends within a byte order mark
        (b"\n\n\xed\xa0\x80", "line 3, is not UTF-8: byte 0xed at offset 2"),  # a surrogate, which UTF-8 excludes
    ],
)
def test_what_is_not_utf8_is_named_by_file_line_and_offset(content: bytes, place: str, block_bytes, tmp_path: Path):
    path = write(tmp_path / "a.txt", content)
    for read in (read_text, lambda path: list(read_blocks(path)), lambda path: list(read_lines(path))):
        message = message_of(lambda read=read: read(path))
        assert message.startswith(f"{path}, {place};") and "iconv" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_recognised_by_its_byte_order_mark(encoding: str, tmp_path: Path):
    path = write(
        tmp_path / "a.txt", ("" if encoding == "utf-16" else "\ufeff").encode(encoding) + "hé".encode(encoding)
    )
    message = message_of(lambda: read_text(path))
    assert message == (
        f"{path}, line 1, is UTF-16, not UTF-8; convert the file first, for example with: iconv -f UTF-16 -t UTF-8"
    )


def test_an_empty_file_has_no_text(block_bytes: int, tmp_path: Path):
    for content in ("", "\ufeff", " \r\n\t"):
        assert "is empty" in message_of(lambda content=content: read_text(write(tmp_path / "a.txt", content)))
    assert list(read_blocks(write(tmp_path / "a.txt", ""))) == list(read_lines(tmp_path / "a.txt")) == []


# --- what is not a file -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_folders_pipes_and_missing_files_are_refused_at_once(name: str, tmp_path: Path):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")

    def read() -> None:
        for parts in read_documents(tmp_path / name):
            list(parts)

    assert "there is no file or folder" in message_of(read)
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert "there is no file or folder" in message_of(read)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert message_of(read) == f"{tmp_path / name} is a folder, not a file"
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    assert "is a pipe or a device" in message_of(read)
    assert "is a pipe or a device" in message_of(lambda: find_text_files(tmp_path / name))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.txt", "x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop root
    assert message_of(lambda: read_text(path)) == f"{path} cannot be read: Permission denied"


def test_one_long_line_takes_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_sources, "BLOCK_BYTES", 1 << 8)
    path = write(tmp_path / "a.jsonl", '{"text": "' + "x" * (1 << 22) + '"}')  # joined block by block, 32 GB are copied
    start = time.process_time()
    ((number, line),) = read_lines(path)
    assert (number, len(line)) == (1, (1 << 22) + 12)
    assert list(map(len, stream_documents(str(path)))) == [1 << 22]
    path.rename(tmp_path / "a.txt")
    assert list(map(len, stream_documents(str(tmp_path / "a.txt")))) == [(1 << 22) + 12]
    assert time.process_time() - start < 5


# --- JSON, JSONL and Parquet ------------------------------------------------------------------


def test_jsonl_records_may_hold_every_line_end_but_the_line_feed(block_bytes: int, tmp_path: Path):
    records = [{"text": "a\u2028b\x85c\n"}, {"text": "🙂\\ud800"}, [1], "é"]
    content = "\ufeff" + "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n"
    path = write(tmp_path / "a.jsonl", content)
    assert list(read_jsonl(path)) == list(enumerate(records, start=1))
    path = write(path, "\n".join(map(json.dumps, records)))  # escapes, and no line feed at the end
    assert list(read_jsonl(path)) == list(enumerate(records, start=1))


@pytest.mark.parametrize("line", ["[1]", '"text"', '{"text": 1}', '{"text": null}', '{"body": "x"}'])
def test_a_document_of_a_jsonl_file_is_an_object_with_a_text(line: str, tmp_path: Path):
    path = write(tmp_path / "a.jsonl", '{"text": "good"}\n' + line)
    message = message_of(lambda: list(read_documents(path)))
    assert message == f'{path}, line 2: expected an object with a string field "text"'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: Expecting property name"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ("1" * 5000, "not valid JSON: Exceeds the limit"),
    ],
)
def test_a_line_that_holds_no_record_is_named(line: str, reason: str, block_bytes: int, tmp_path: Path):
    path = write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00 \\\\ud800"}\n\n' + line + "\n")
    message = message_of(lambda: list(read_jsonl(path)))
    assert message.startswith(f"{path}, line 3: {reason}")


HALVES = [
    (r'{"text": "a \ud83d"}', {"text": "a \ufffd"}, r"\ud83d"),
    (r'{"text": "\ude00\ud83d"}', {"text": "\ufffd\ufffd"}, r"\ude00"),
    (r'{"text": "\ud83d \ude00"}', {"text": "\ufffd \ufffd"}, r"\ud83d"),
    (r'{"\\\uDFFF": 1}', {"\\\ufffd": 1}, r"\uDFFF"),
    (r'{"text": "\ud83d\ude00\ud83d\\ud83d"}', {"text": "\U0001f600\ufffd\\ud83d"}, r"\ud83d"),
]


@pytest.mark.parametrize(("line", "expected", "half"), HALVES)
def test_half_of_a_surrogate_pair_is_read_as_the_replacement_character_and_said_once(
    line: str, expected: dict, half: str, block_bytes: int, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(user_errors, "_noticed", set())
    path = write(tmp_path / "a.jsonl", f"{line}\n" * 3)
    assert [record for _, record in read_jsonl(path)] == [expected] * 3
    assert [record for _, record in read_jsonl(path)] == [expected] * 3
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"note: {path}: half of a surrogate pair")
    assert f"line 1: {half} is half of a surrogate pair" in message_of(lambda: parse_json(line, "a.json"))


def test_json_over_several_lines_is_read_with_the_line_of_a_fault():
    assert parse_json('{"a":\n"\\ud83d\\ude00"}', "a.json") == {"a": "😀"}
    assert "a.json, line 3: not valid JSON" in message_of(lambda: parse_json('{"a":\n1,\n]', "a.json"))
    assert "a.json, line 2: \\udc00 is half" in message_of(lambda: parse_json('{"a":\n"\\udc00"}', "a.json"))


def test_parquet_rows_are_read_as_documents(tmp_path: Path):
    texts = [f"{number} é\u2028🙂" for number in range(3000)]
    path, sizes = write_parquet(tmp_path / "a.PARQUET", text=texts, number=list(range(3000))), []
    assert ["".join(parts) for parts in read_documents(path, sizes.append)] == texts
    assert len(sizes) == 3 and sum(sizes) == path.stat().st_size  # what a progress bar counts to
    assert [row for row, _ in read_parquet(path)] == list(range(1, 3001))


def test_a_parquet_file_that_unpacks_to_gigabytes_is_read_row_by_row(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    text = "a" * 4_000_000
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array([text]))
    path = write_parquet(tmp_path / "a.parquet", text=column, number=list(range(1000)))
    assert path.stat().st_size < 1_000_000
    rows, before = read_parquet(path), psutil.Process().memory_info().rss
    assert [(next(rows)[0], len(next(rows)[1]["text"])) for _ in range(3)] == [
        (1, 4_000_000),
        (3, 4_000_000),
        (5, 4_000_000),
    ]
    assert psutil.Process().memory_info().rss - before < 500_000_000


def test_a_parquet_file_whose_parts_exceed_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_parquet(tmp_path / "a.parquet", text=["a" * 1000 + str(index) for index in range(1000)])
    monkeypatch.setattr("groundwork.text_sources.memory_limit", lambda: 500_000)
    assert "unpacks to 0.0 GiB at once" in message_of(lambda: next(read_parquet(path)))


def test_parquet_files_that_hold_no_text_are_refused(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")

    def read(path: Path) -> str:
        return message_of(lambda: list(read_documents(path)))

    assert "row 2: expected a string" in read(write_parquet(tmp_path / "a.parquet", text=["x", None]))
    assert 'has no column "text"; its columns are body, id' in read(
        write_parquet(tmp_path / "b.parquet", body=[], id=[])
    )
    assert "is not a readable Parquet file" in read(write(tmp_path / "c.parquet", "PAR1 nothing"))
    assert "is not a readable Parquet file" in read(write(tmp_path / "d.parquet", ""))
    latin = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"a\xe9b")
    )
    assert "row 2: a text is not UTF-8" in read(write_parquet(tmp_path / "e.parquet", text=latin))


# --- folders ----------------------------------------------------------------------------------


def test_a_folder_gives_its_text_files_in_order_without_hidden_ones(tmp_path: Path):
    folder = tmp_path / ".hidden" / "texts"
    wanted = ["LICENSE", "a.txt", "b/z.md", "b.txt", "c.JSONL", "d/e/f.rst"]
    for name in wanted:
        write(folder / name, "x")
    for name in (".git/a.txt", ".a.txt", "b/.c/a.txt", "image.png", "d/.e/f/a.txt"):
        write(folder / name, "x")
    expected = [folder / "LICENSE", folder / "a.txt", folder / "b" / "z.md", folder / "b.txt", folder / "c.JSONL"]
    expected = sorted([*expected, folder / "d" / "e" / "f.rst"])
    assert find_text_files(folder) == expected  # itself below a hidden folder
    assert find_text_files(tmp_path / ".hidden") == expected
    assert '"." is this folder' in message_of(lambda: find_text_files(""))
    assert find_text_files(folder / ".a.txt") == [folder / ".a.txt"]  # named
    assert find_text_files(folder / "image.png") == [folder / "image.png"]
    assert find_text_files(str(folder), {".md"}) == [folder / "b" / "z.md"]
    assert "holds no file that ends in .csv, .html" in message_of(lambda: find_text_files(tmp_path))
    assert "holds no file that ends in .png" in message_of(lambda: find_text_files(folder / "d", [".png"]))


PROGRAM = b"\x7fELF\x02" + bytes(range(128, 256))


def test_what_is_installed_or_not_text_is_left_out_of_a_folder_and_said(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(user_errors, "_noticed", set())
    folder = tmp_path / "texts"
    wanted = ["LICENSE", "a.py", "environment/notes.md", "package/__init__.py", "z.jsonl"]
    for name in wanted:
        write(folder / name, "" if name.endswith("__init__.py") else "text é\n" * 20)
    for name in ("env/lib/other.py", "node_modules/x/index.html", "conda/lib/other.py", ".venv/lib/other.py"):
        write(folder / name, "not mine")
    write(folder / "env" / "pyvenv.cfg", "home = /usr/bin")
    (folder / "conda" / "conda-meta").mkdir()
    write(folder / ".git" / "objects" / "ab" / "cdef", zlib.compress(b"blob 3\0abc"))
    left_out = {"b.txt.gz": gzip.compress(b"x"), "image.txt": b"GIF89a\0\0", "latin.txt": CAFE, "program": PROGRAM}
    for name, content in left_out.items():
        write(folder / name, content)
    assert [str(path.relative_to(folder)) for path in find_text_files(folder)] == wanted
    find_text_files(folder)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"note: {folder}: left out, because packed or not UTF-8 text: b.txt.gz, image.txt, latin.txt and 1 more"
    )
    assert find_text_files(folder / "env" / "lib") == [folder / "env" / "lib" / "other.py"]  # named


def test_a_file_is_left_out_of_a_folder_wherever_it_stops_being_text(block_bytes: int, tmp_path: Path):
    path = write(tmp_path / "texts" / "a.txt", "a" + "東" * 50)
    for name, end in (("latin.txt", "é".encode("latin-1")), ("cut.txt", "東".encode()[:2]), ("zero.txt", b"\0")):
        write(tmp_path / "texts" / name, "東".encode() * 50 + end)
    assert find_text_files(tmp_path / "texts") == [path]


def test_a_packed_file_is_named_with_the_way_out(block_bytes: int, tmp_path: Path):
    for name, content, said in (
        ("book.txt.gz", gzip.compress(TEXT.encode()), "packed with gzip: unpack it first, for example with: gunzip -k"),
        ("a.jsonl.xz", lzma.compress(TEXT.encode()), "packed with xz"),
        ("a.bz2", bz2.compress(TEXT.encode() * 9), "packed with bzip2"),
        ("a.txt", gzip.compress(b"not named so"), "packed with gzip"),
    ):
        path = write(tmp_path / name, content)
        assert said in message_of(lambda path=path: read_text(path))


def test_links_to_files_are_read_and_loops_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "other" / "a.txt", "x")
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "gone.txt").symlink_to(tmp_path / "gone")
    (folder / "link.txt").symlink_to(tmp_path / "other" / "a.txt")
    os.mkfifo(folder / "pipe.txt")
    assert find_text_files(folder) == [folder / "link.txt"]
    assert message_of(lambda: find_text_files(folder / "self.txt"))
    monkeypatch.chdir(folder)
    assert find_text_files(".") == [Path("link.txt")]
    assert "home folder" in message_of(lambda: find_text_files("~nobody-has-this-name/texts"))


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path):
    write(tmp_path / "a.txt", "x")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    assert "closed cannot be read: Permission denied" in message_of(lambda: find_text_files(tmp_path))


def test_a_single_text_is_refused_where_a_list_is_expected():
    require_texts(["one"])
    require_texts(iter(["one"]))
    for text in ("one string", b"bytes", ""):
        with pytest.raises(UserError, match="documents must be a list of texts, got the single text"):
            require_texts(text)


# --- through each door ------------------------------------------------------------------------


def _corpus(path: Path) -> str:
    corpus = load_corpus(str(path), 0.5)
    return "".join([*corpus.train, *corpus.validation])


def _stream(path: Path) -> str:
    return "".join(stream_documents(str(path)))


def _encode(path: Path) -> str:
    output = path.parent / "ids.bin"
    encode_files(ByteTokenizer(), find_text_files(path), output)
    return b"".join(int(index).to_bytes(1, "little") for index in memoryview(output.read_bytes()).cast("H")).decode()


def _instructions(path: Path) -> str:
    return "".join(message.content for e in read_instruction_data(path).examples for message in e.messages)


def _records(path: Path) -> str:
    return "".join(record.text("text") for record in read_records(path))


TEXT_DOORS = [_corpus, _stream, _encode]
DOORS = [*TEXT_DOORS, _instructions, _records]


def record(text: str) -> dict[str, str]:
    """A record for every door."""
    return {"text": text, "instruction": text[: len(text) // 2], "output": text[len(text) // 2 :]}


@pytest.mark.parametrize("door", TEXT_DOORS)
def test_a_text_file_means_the_same_everywhere(door: Callable[[Path], str], block_bytes: int, tmp_path: Path):
    assert door(write(tmp_path / "in" / "a.txt", "\ufeff" + TEXT)) == TEXT


@pytest.mark.parametrize("door", DOORS)
def test_a_jsonl_file_means_the_same_everywhere(door: Callable[[Path], str], block_bytes: int, tmp_path: Path):
    for ascii_only in (True, False):
        line = json.dumps(record(TEXT), ensure_ascii=ascii_only)
        assert door(write(tmp_path / "in" / "a.jsonl", f"\ufeff\n{line}\r\n\n")) == TEXT


@pytest.mark.parametrize("door", [*TEXT_DOORS, _instructions])
def test_a_parquet_file_means_the_same_everywhere(door: Callable[[Path], str], tmp_path: Path):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / "a.parquet", **{name: [text] for name, text in record(TEXT).items()})
    assert door(tmp_path / "in" / "a.parquet") == TEXT
    assert door(tmp_path / "in") == TEXT  # and in a folder


@pytest.mark.parametrize("door", DOORS)
def test_every_door_names_the_file_and_the_line(door: Callable[[Path], str], tmp_path: Path):
    path, good = tmp_path / "in" / "a.jsonl", json.dumps(record("fine text"))
    for content, place, reason in (
        ((good + "\n").encode() + CAFE, "line 3", "is not UTF-8: byte 0xe9"),
        (good.encode("utf-16"), "line 1", "is UTF-16"),
        ("\n\n{\n", "line 3", "not valid JSON"),
    ):
        message = " ".join(_said_by(door, write(path, content)).split())
        assert f"{path}, {place}" in message or f"{path}:{place.removeprefix('line ')}:" in message, message
        assert reason in message


def _said_by(door: Callable[[Path], str], path: Path) -> str:
    """Instruction data reports malformed records with the others, one a line."""
    with pytest.raises(ValueError) as caught:
        door(path)
    assert not isinstance(caught.value, UnicodeError)
    assert door is _instructions or "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_half_of_a_surrogate_pair_means_the_same_everywhere(door: Callable[[Path], str], tmp_path: Path):
    half = {"text": "a\ud800 b\udfff", "instruction": "a\ud800 ", "output": "b\udfff"}
    assert door(write(tmp_path / "in" / "a.jsonl", json.dumps(half))) == "a\ufffd b\ufffd"


def test_half_of_a_surrogate_pair_in_a_json_list_is_replaced(tmp_path: Path):
    path = write(tmp_path / "a.json", '[\n{"instruction": "a",\n"output": "\\ud800"}]')
    assert _instructions(path) == "a\ufffd"
    assert parse_record('"\\ud83d\\ude00"', path) == "\U0001f600"


@pytest.mark.parametrize("door", TEXT_DOORS)
def test_a_folder_that_holds_more_than_text_is_read(door: Callable[[Path], str], tmp_path: Path):
    write(tmp_path / "in" / "late.txt", b"a line\n" * 20_000 + CAFE)  # after more than 64 KiB
    write(tmp_path / "in" / "__init__.py", "")
    write(tmp_path / "in" / "program", PROGRAM)
    write(tmp_path / "in" / ".git" / "HEAD", "ref")
    write(tmp_path / "in" / "a.txt", TEXT)
    assert door(tmp_path / "in") == TEXT


def test_a_folder_of_records_is_read_where_one_file_holds_none(tmp_path: Path):
    write(tmp_path / "config.json", '{"a": 1}')
    write(tmp_path / "empty.json", "")
    write(tmp_path / "latin.jsonl", CAFE)
    write(tmp_path / "z.jsonl", json.dumps(record("fine text")))
    data = read_instruction_data(tmp_path)
    assert len(data.examples) == 1
    assert {Path(problem.file).name for problem in data.problems} >= {"config.json", "empty.json", "latin.jsonl"}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_hangs_or_gives_a_traceback(door: Callable[[Path], str], tmp_path: Path):
    (tmp_path / "in").mkdir()
    assert f"{tmp_path / 'in' / 'none'}" in _said_by(door, tmp_path / "in" / "none")
    assert f"{tmp_path / 'in'}" in _said_by(door, tmp_path / "in")  # a folder with nothing in it
    os.mkfifo(tmp_path / "in" / "pipe")
    assert "is a pipe or a device" in _said_by(door, tmp_path / "in" / "pipe")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_an_empty_file_is_refused_or_gives_nothing(door: Callable[[Path], str], name: str, tmp_path: Path):
    path = write(tmp_path / "in" / name, "")
    if door is _stream:  # who asks for documents reports that there are none
        assert door(path) == ""
    else:
        assert any(said in _said_by(door, path) for said in ("no text", "no usable record", "no record"))


def test_a_csv_file_of_questions_is_named_by_line(tmp_path: Path):
    good = 'q,a,b,c,d,A\n\n"two\nlines",a,b,c,d,B\n'
    assert [r.place for r in read_records(write(tmp_path / "a.CSV", good))] == [
        f"{tmp_path}/a.CSV, line 1",
        f"{tmp_path}/a.CSV, line 4",
    ]
    assert "line 5: expected 6 columns" in message_of(lambda: read_records(write(tmp_path / "b.csv", good + "x\n")))
    huge = "x" * 200_000
    assert "line 1: not CSV (field larger" in message_of(lambda: read_records(write(tmp_path / "c.csv", huge)))


def test_a_pipe_on_the_command_line_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    command = [
        sys.executable,
        "04_tokenizer/train_tokenizer.py",
        "--input",
        str(tmp_path / "pipe"),
        "--vocab-size",
        "300",
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "is a pipe or a device" in done.stderr and "Traceback" not in done.stderr

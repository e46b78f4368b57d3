"""Files are written all or nothing, and JSON files are read with a clear error."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from groundwork.files import read_json, read_yaml, replacing, to_json, write_atomically, write_json
from groundwork.text_sources import TextError
from groundwork.user_errors import report_user_errors


def test_a_file_appears_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_bytes(b"all")
        assert temporary.parent == path.parent and temporary.name.startswith(".") and not path.exists()
    assert path.read_bytes() == b"all"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError("x")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "a \ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_the_same_file_is_removed(tmp_path: Path):
    path = tmp_path / "a[1].txt"  # brackets mean something to glob
    with replacing(path) as temporary:
        temporary.touch()
        pattern = temporary.name
    names = [pattern.replace(f".{os.getpid()}.", f".{process}.") for process in (2**22 + 5, os.getppid())]
    other = pattern.replace(f".{platform.node()}.", ".elsewhere.").replace(f".{os.getpid()}.", f".{2**22 + 5}.")
    for name in [*names, other, ".a[1].txt.mine.tmp"]:
        (tmp_path / name).touch()
    write_atomically(path, "whole")
    # The first process does not exist. Another one, or one of another machine, may be writing.
    assert {file.name for file in tmp_path.iterdir()} == {path.name, names[1], other, ".a[1].txt.mine.tmp"}


def test_text_is_written_byte_for_byte(tmp_path: Path):
    text = "a\r\nb\rc\nd\u2028é\ufeff"
    write_atomically(str(tmp_path / "a.txt"), text)
    assert (tmp_path / "a.txt").read_bytes() == text.encode()


def test_what_is_written_as_json_is_valid_json(tmp_path: Path):
    content = {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": float("-inf")}, "d": "NaN", "e": True, "f": 3}
    write_json(tmp_path / "new" / "a.json", content)
    assert read_json(tmp_path / "new" / "a.json") == {
        "a": [None, [None, 1.5]],
        "b": {"c": None},
        "d": "NaN",
        "e": True,
        "f": 3,
    }
    assert to_json({"é": 1}, ensure_ascii=False) == '{"é": 1}'


def test_a_json_file_is_an_object_and_may_begin_with_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": "é\u2028"}', encoding="utf-8")
    assert read_json(path) == read_json(str(path)) == {"a": "é\u2028"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n{", "line 2: not valid JSON"),
        (b"[1]", "should hold a JSON object, it holds a list"),
        (b'{"a":\n"\xe9"}', "line 2, is not UTF-8: byte 0xe9"),
        (b'{"a":\n"\\ud800"}', r"line 2: \\ud800 is half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_named(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(TextError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(TextError, match="there is no file"):
        read_json(tmp_path / "none.json")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"- 1", "should hold named fields, it holds a list"),
        (b"a: [b", "not valid YAML"),
        (b"a: " + b"[" * 100_000, "not valid YAML: nested too deeply"),
        (b"a: " + b"{b: " * 5000, "not valid YAML: nested too deeply"),
        (BOMB.encode(), "holds more than 100,000 values"),
        (b"a: &a [*a]", "holds more than 100,000 values"),
        (b"a: !!python/object/apply:os.system ['touch was_here']", "not valid YAML"),
        (b"a: 2001-99-99", "not valid YAML"),
        (b"a: \xe9", "is not UTF-8"),
        (b"a: " + b"9" * 5000, "not valid YAML"),
        (b"? [1]\n: 2", "not valid YAML"),
        (b"a: 1\nb: 2\na: 3", "the key 'a' in line 3 is there twice"),
        (b"a: {b: 1, c: 2, b: 1}", "the key 'b' in line 1 is there twice"),
        (b"a:\n  - b: 1\n    b: 2", "the key 'b' in line 3 is there twice"),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_named(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(TextError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_yaml_file_may_use_anchors(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a: &a {b: 1}\nc: *a\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}}


def test_what_an_anchor_gives_may_be_given_again(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a: &a {b: 1, c: 1}\nd:\n  <<: *a\n  b: 2\n")
    assert read_yaml(tmp_path / "a.yaml")["d"] == {"b": 2, "c": 1}


def test_numbers_that_yaml_reads_otherwise_than_people_stay_texts(tmp_path: Path):
    texts = ["0500", "08", "-017", "2:30", "1:02:03.5"]
    numbers = {"0": 0, "500": 500, "-3": -3, "0x1F": 31, "1_000": 1000, "0.5": 0.5, "00.5": 0.5, "1.5e-3": 0.0015}
    (tmp_path / "a.yaml").write_text("".join(f"k{i}: {text}\n" for i, text in enumerate([*texts, *numbers])))
    assert list(read_yaml(tmp_path / "a.yaml").values()) == [*texts, *numbers.values()]


def test_a_mistake_of_the_user_is_one_line_and_a_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture):
    def fail(error: BaseException):
        def command() -> None:
            raise error

        return command

    assert report_user_errors(lambda: None) == 0
    assert report_user_errors(lambda: 3) == 3
    assert report_user_errors(fail(ValueError("too large"))) == 1
    assert report_user_errors(fail(OSError("disk full")), status=2) == 2
    assert report_user_errors(fail(KeyboardInterrupt()), status=2) == 130
    assert capsys.readouterr().err == "error: too large\nerror: disk full\ninterrupted\n"
    with pytest.raises(TypeError):
        report_user_errors(fail(TypeError("a bug")))

"""Stage 5: a prepared data set is what was written, or is refused; what killed processes left is removed."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from training.checkpoints.manifest import sha256_of
from training.data.config import DataConfig, TokenizerConfig
from training.data.data_preparation import _lock_of, prepare_dataset
from training.data.prepared_dataset import PreparedDataset
from training.data.token_files import DataError

CHARACTERS = TokenizerConfig("character", None)


@pytest.fixture
def prepare(text_file: Path, tmp_path: Path):
    def prepared(tokenizer: TokenizerConfig = CHARACTERS) -> PreparedDataset:
        data = DataConfig(corpus=str(text_file), dataset_dir=str(tmp_path / "datasets"))
        return prepare_dataset(data, tokenizer, Console(quiet=True))

    return prepared


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4 * 2])


def _reverse(path: Path) -> None:
    path.write_bytes(np.fromfile(path, "<u2")[::-1].tobytes())


def _retype(path: Path) -> None:
    path.write_bytes(np.fromfile(path, "<u2").astype("<u4").tobytes())


def _swap_two_ids(path: Path) -> None:
    content = json.loads(path.read_text())
    key = next(
        key
        for key, value in content.items()
        if isinstance(value, (list, str)) and key not in ("type", "special_tokens")
    )
    content[key] = content[key][::-1]
    path.write_text(json.dumps(content))


def _say_another_dtype(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "<i2"}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.bin", _halve),
        ("train.bin", _reverse),
        ("train.bin", _retype),
        ("train.bin", Path.unlink),
        ("val.bin", _reverse),
        ("val.bin", lambda path: path.write_bytes(b"")),
        ("val.bin", Path.unlink),
        ("tokenizer.json", _swap_two_ids),
        ("meta.json", _halve),
        ("meta.json", _say_another_dtype),
        ("manifest.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_changed_file_is_refused_and_named(name: str, change, prepare):
    folder = prepare().folder
    change(folder / name)
    with pytest.raises(
        DataError, match=r"delete .*datasets.* to prepare it again|delete it to prepare it again"
    ) as caught:
        prepare()
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_whole_is_used_as_it_is_and_one_without_a_manifest_is_made_again(prepare):
    folder = prepare().folder
    made = (folder / "train.bin").stat().st_mtime_ns
    assert prepare().folder == folder and (folder / "train.bin").stat().st_mtime_ns == made
    hashes = {path.name: sha256_of(path) for path in folder.iterdir()}
    (folder / "manifest.json").unlink()
    _halve(folder / "train.bin")
    assert {path.name: sha256_of(path) for path in prepare().folder.iterdir()} == hashes
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_killed_preparations_left_is_removed_and_what_others_write_stays(prepare):
    folder = prepare().folder
    shutil.rmtree(folder)
    other, living = (folder.with_name(f"other-bpe400-{key * 10}") for key in "ab")
    for name in (f"{folder.name}.7.tmp", f"{other.name}.8.tmp", f"{living.name}.9.tmp", "notes.1.tmp"):
        (folder.parent / name).mkdir()
    _lock_of(other).path.touch()  # of the killed process
    lock, held, done = _lock_of(living), threading.Event(), threading.Event()

    def hold() -> None:
        lock.acquire()
        held.set()
        done.wait(10)
        lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    prepare()
    left = {path.name for path in folder.parent.iterdir() if not path.name.startswith(".")}
    assert left == {folder.name, f"{living.name}.9.tmp", "notes.1.tmp"}
    done.set()
    thread.join()
    prepare(TokenizerConfig("bpe", 300))
    assert not (folder.parent / f"{living.name}.9.tmp").exists()


def test_two_that_prepare_the_same_wait_for_each_other(prepare, monkeypatch):
    import training.data.data_preparation as module

    made, plain = [], module._prepare
    monkeypatch.setattr(module, "_prepare", lambda *arguments: made.append(1) or plain(*arguments))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(prepare().folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    assert len(made) == 1


def test_a_preparation_that_fails_leaves_nothing(prepare, monkeypatch, tmp_path: Path):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.data_preparation.write_manifest", fail)
    with pytest.raises(OSError, match="No space left"):
        prepare()
    assert not list((tmp_path / "datasets").iterdir())


def test_an_empty_name_is_not_the_current_folder():
    for fields in ({"corpus": ""}, {"mixture": {"": 1.0}}, {"dataset_dir": ""}):
        with pytest.raises(ValueError, match='got ""'):
            DataConfig(**fields)

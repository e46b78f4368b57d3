"""Small data and small models that the tests share."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock

from neural_networks.corpora import load_corpus
from neural_networks.corpus import Corpus

ROOT = Path(__file__).parents[1]
# Files that are not part of the repository. Tests that need them say so, and are skipped without them.
SHARED_DATA = ROOT.parent / "shared" / "data"

SLOW_FILE = re.compile(r"^pytestmark = \[?pytest\.mark\.slow", re.MULTILINE)

SENTENCES = [
    "Return the number of items in the container.",
    "Raise ValueError if the index is out of range.",
    "The argument must be a string, a bytes-like object or a real number.",
    "Split the string at the last occurrence of sep, and return a 3-tuple.",
    "If the list is empty, return None; otherwise return its first element.",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what is marked slow; files marked so are not read")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a whole file without importing it, because importing what it tests takes time too."""
    if config.getoption("--quick") and collection_path.name.startswith("test_"):
        return SLOW_FILE.search(collection_path.read_text(encoding="utf-8")) is not None or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the test workers already run in parallel; more threads would compete for the cores


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs reference files in {SHARED_DATA}, which are not part of the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The whole default corpus. It takes a quarter of a minute to collect, so one worker does it for all."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "documentation.json"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            corpus = load_corpus("python_docs", 0.05)
            shared.write_text(json.dumps([corpus.train, corpus.validation]), encoding="utf-8")
    train, validation = json.loads(shared.read_text(encoding="utf-8"))
    return Corpus("python_docs", tuple(train), tuple(validation))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few kilobytes with something to learn."""
    path = tmp_path_factory.mktemp("corpus") / "sentences.txt"
    lines = [SENTENCES[(3 * i + i // 7) % 5] + f" See section {i % 9}." for i in range(400)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tiny_settings(tmp_path: Path, text_file: Path) -> dict:
    """Settings of a run that takes a few seconds."""
    return {
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
        "precision": "float32",
        "data": {"corpus": str(text_file), "validation_fraction": 0.1, "dataset_dir": str(tmp_path / "datasets")},
        "tokenizer": {"kind": "bpe", "vocab_size": 320},
        "model": {"context_length": 32, "num_layers": 2, "num_heads": 2, "d_model": 32, "dropout": 0.1},
        "optimizer": {"lr": 5e-3},
        "schedule": {"warmup_steps": 2},
        "training": {
            "max_steps": 12,
            "batch_size": 4,
            "eval_interval": 5,
            "eval_tokens": 256,
            "checkpoint_interval": 4,
            "keep_checkpoints": 3,
            "sample_prompts": ["Return"],
        },
    }


@pytest.fixture
def write_config(tmp_path: Path):
    """Write settings as a YAML file and return its path."""

    def write(settings: dict, name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A run trained through the command, for tests of what comes after training."""
    from training.train_command import main

    folder = tmp_path_factory.mktemp("trained")
    arguments = [
        f"--output_dir={folder / 'run'}",
        "--device=cpu",
        f"--data.corpus={text_file}",
        f"--data.dataset_dir={folder / 'datasets'}",
        "--tokenizer.vocab_size=320",
        "--model.context_length=32",
        "--model.num_layers=2",
        "--model.num_heads=2",
        "--model.d_model=64",
        "--training.max_steps=60",
        "--training.batch_size=8",
        "--schedule.warmup_steps=5",
        "--optimizer.lr=0.005",
    ]
    assert main(arguments) == 0
    return folder / "run"

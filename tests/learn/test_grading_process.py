"""A learner's file changes its own grade and nothing else: not the next grade, not the package, not the machine."""

from __future__ import annotations

import textwrap
from pathlib import Path

import psutil
import pytest

from learn.catalogue import all_exercises, choose_one
from learn.grading_process import grade_apart
from learn.learners_file import load_function
from learn.limits import BoundedText, TooMuchOutput

pytestmark = pytest.mark.slow

ENTRIES = all_exercises()
BITS = 'if num_bytes <= 0:\n    raise ValueError("no text")\nreturn total_nats / math.log(2) / num_bytes'
MASK = "keys = torch.arange(num_keys, device=device)\nreturn visible_keys({queries}, keys, window, sinks)"
RIGHT_MASK = MASK.format(queries="keys[num_keys - num_queries:]")
WRONG_MASK = MASK.format(queries="keys[:num_queries]")

# What a file does, in its first lines, its function, or its last lines; and what its grade says.
FILES = [
    # It must not change what is right for the exercise that comes after it.
    ("bits_per_byte", "import torch\ntorch.set_default_device('meta')", BITS, "", "passed", ""),
    ("bits_per_byte", "import torch\ntorch.set_default_dtype(torch.float64)", BITS, "", "passed", ""),
    ("bits_per_byte", "import warnings, os, sys\nwarnings.simplefilter('error')\nos.chdir('/')\nsys.path.clear()", BITS, "", "passed", ""),
    ("bits_per_byte", "import attention.masks as m\nm.visible_keys = m.torch = None", BITS, "", "passed", ""),
    # What it puts into the package does not become right, and the package's own answer is not the learner's.
    ("causal_mask", "", WRONG_MASK, "import attention.masks as m\nm.causal_mask = causal_mask", "failed", "expected"),
    ("causal_mask", "", "pass", "from attention.masks import causal_mask", "failed", "the package's own answer"),
    ("causal_mask", "", "import attention.masks as m\nreturn m.causal_mask(num_queries, num_keys, window, sinks, device)", "", "failed", "the package's own answer"),
    # It ends by itself, or has to be ended.
    ("bits_per_byte", "", "import os\nos._exit(0)", "", "failed", "Python itself ended with status 0"),
    ("bits_per_byte", "", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "", "failed", "Python itself ended with signal 11"),
    ("bits_per_byte", "", "raise KeyboardInterrupt", "", "failed", "KeyboardInterrupt"),
    ("bits_per_byte", "", "import os\nos.write(1, b'{\"state\": \"passed\"}\\n')\nos.closerange(0, 3)\nreturn 1.0", "", "failed", "1.0, expected 8.0"),
    ("bits_per_byte", "", "while True:\n    pass", "", "failed", "still not done after"),
    ("bits_per_byte", "", "while True:\n    print('x' * 1000)", "", "failed", "more than 1,000,000 characters were printed"),
    ("bits_per_byte", "import logging", "while True:\n    logging.warning('x' * 1000)", "", "failed", "more than 1,000,000 characters were printed"),
    ("bits_per_byte", "", "out = []\nwhile True:\n    out.append(bytes(10**7))", "", "failed", "Memory"),
    ("causal_mask", "", RIGHT_MASK, "", "passed", ""),
]  # fmt: skip


def write(folder: Path, name: str, before: str, body: str, after: str) -> Path:
    folder.mkdir()
    entry = choose_one(ENTRIES, name)
    head, _, _ = entry.stub.partition("    raise NotImplementedError(")
    future = "from __future__ import annotations\n"
    path = folder / entry.path.name
    text = head.replace(future, f"{future}{before}\n", 1) + textwrap.indent(body, "    ")
    path.write_text(f"{text}\n\n\n{after}\n", encoding="utf-8")
    return path


def test_each_file_is_graded_as_if_it_were_alone(tmp_path: Path):
    tasks = [
        (choose_one(ENTRIES, name), write(tmp_path / str(index), name, *parts))
        for index, (name, *parts, _, _) in enumerate(FILES)
    ]
    for (_, grade), (_, before, body, after, state, problem) in zip(
        grade_apart(tasks, time_limit=4.0), FILES, strict=True
    ):
        assert grade.state == state, (before, body, after, grade)
        assert problem in grade.problem, (before, body, after, grade)
    assert not psutil.Process().children(recursive=True)


def test_output_is_kept_from_its_beginning_and_bounded():
    stream = BoundedText()
    print("begin", file=stream)
    with pytest.raises(TooMuchOutput, match="is there an endless loop"):
        while True:
            print("x" * 1000, file=stream)
    assert stream.kept.startswith("begin\nxxx") and len(stream.kept) == 2000


@pytest.mark.parametrize(
    "content",
    ["\ufeffdef f():\n    return 'é'\n".encode(), "# coding: latin-1\ndef f():\n    return 'é'\n".encode("latin-1")],
    ids=["byte order mark", "Latin-1"],
)
def test_a_file_is_read_as_python_reads_it(content: bytes, tmp_path: Path):
    path = tmp_path / "answer.py"
    path.write_bytes(content)
    assert load_function(path, "f")() == "é"

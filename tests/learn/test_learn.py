"""The command `learn`, as a learner uses it: begin, fail, get help, pass, and run a model on the learner's own code."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learn.catalogue import ROOT, Entry, LearnError, all_exercises, choose, choose_one
from learn.command_line import main
from learn.comparison import first_difference, show
from learn.grade import Grade
from learn.grading import grade_file
from learn.substitution import CountedFunction, substitute
from learn.workspace import Workspace
from training import train_command

ENTRIES = all_exercises()

# Written from the stubs, as a learner would write them.
SOLUTIONS = {
    "bits_per_byte": """
        if num_bytes <= 0:
            raise ValueError("no text")
        return total_nats / math.log(2) / num_bytes
    """,
    "rms_norm": """
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight.to(x.dtype)
    """,
    "rotary": """
        first, second = heads.chunk(2, dim=-1)
        swapped = __import__("torch").cat([second, first], dim=-1)
        return heads * self.cos.to(heads.dtype) + swapped * self.signed_sin.to(heads.dtype)
    """,
    "clip_gradients": """
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        norm = sum(float(parameter.grad.double().square().sum()) for parameter in parameters) ** 0.5
        if max_norm and norm > max_norm and norm < float("inf"):
            for parameter in parameters:
                parameter.grad.mul_(max_norm / (norm + 1e-6))
        return norm
    """,
    "merge": """
        tokens = list(pre_token)
        while True:
            options = [(self._merged[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:])) if pair in self._merged]
            if not options:
                return tokens
            new, at = min(options)
            tokens[at : at + 2] = [new]
    """,
}


def entry_of(name: str) -> Entry:
    return choose_one(ENTRIES, name)


def write(workspace: Workspace, name: str, body: str) -> Path:
    """Replace the body of the stub."""
    entry = entry_of(name)
    head, _, rest = entry.stub.partition("    raise NotImplementedError(")
    path = workspace.file_of(entry)
    path.write_text(head + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n", encoding="utf-8")
    assert rest.count("\n") == 1  # the body was one line
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "workspace")
    made.start(ENTRIES)
    return made


# --- start ---------------------------------------------------------------------------------------


def test_start_gives_every_stub_and_nothing_of_the_grader(workspace: Workspace):
    files = sorted(workspace.folder.glob("*/*.py"))
    assert len(files) == len(ENTRIES)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "raise NotImplementedError" in text and "EXERCISE" not in text and "hints" not in text
        compile(text, file.name, "exec")


def test_starting_again_keeps_what_was_written(workspace: Workspace):
    path = write(workspace, "causal_mask", "return None")
    written = path.read_text(encoding="utf-8")
    done = workspace.start(ENTRIES)
    assert not done.made and len(done.kept) == len(ENTRIES)
    assert path.read_text(encoding="utf-8") == written


def test_a_new_version_replaces_untouched_stubs_only(tmp_path: Path):
    """An exercise's text changes, as when the repository is upgraded."""
    exercises = tmp_path / "02_attention" / "exercises"
    exercises.mkdir(parents=True)
    for name in ("begun", "untouched"):
        (exercises / f"{name}.py").write_text('"""Exercise 2.1: Old text."""\n\n# === rest\n', encoding="utf-8")
    entries = [Entry(2, 1, "Old text", exercises / f"{name}.py") for name in ("begun", "untouched")]
    workspace = Workspace(tmp_path / "workspace")
    workspace.start(entries)
    begun, untouched = (workspace.file_of(entry) for entry in entries)
    begun.write_text("mine", encoding="utf-8")
    for entry in entries:
        entry.path.write_text('"""Exercise 2.1: New text."""\n\n# === rest\n', encoding="utf-8")
    done = Workspace(tmp_path / "workspace").start(entries)
    assert done.updated == [untouched] and done.outdated == [begun]
    assert begun.read_text(encoding="utf-8") == "mine"
    assert "New text" in untouched.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    ["{", "[" * 100_000, "[1]", "\xff", '{"causal_mask": 3}', '{"causal_mask": {"hints": "2"}}', '{"a": {"b": 1}}'],
)
def test_a_damaged_progress_file_loses_nothing_but_the_memory_of_grades(content: str, workspace: Workspace):
    path = write(workspace, "causal_mask", "return None")
    (workspace.folder / "progress.json").write_text(content, encoding="latin-1")
    again = Workspace(workspace.folder)
    again.start(ENTRIES)
    assert "return None" in path.read_text(encoding="utf-8")
    assert again.standing(entry_of("causal_mask")) == "changed"
    assert again.hint_level(entry_of("causal_mask")) == 0


# --- check ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_tells_what_is_wrong(
    workspace: Workspace, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    write(workspace, "bits_per_byte", SOLUTIONS["bits_per_byte"])
    write(workspace, "unbroadcast", "import os\nos._exit(3)")
    write(workspace, "visible_keys", "print('here')\nreturn query_positions >= key_positons")
    write(
        workspace,
        "causal_mask",
        "return visible_keys(torch.arange(num_queries), torch.arange(num_keys), window, sinks)",
    )
    write(workspace, "document_mask", "raise SystemExit('enough')")
    workspace.file_of(entry_of("discounts")).write_text("def discounts(counts:\n    pass\n", encoding="utf-8")
    workspace.file_of(entry_of("sgd")).write_text("def stop(self):\n    pass\n", encoding="utf-8")
    workspace.file_of(entry_of("adamw")).unlink()
    assert main(["check"], workspace) == 1
    out = capsys.readouterr().out
    assert "2 passed" not in out and "1 passed, 6 failed, 64 to do" in out
    # The first wrong value, the call, and the mistake.
    assert "causal_mask(num_queries=2, num_keys=4)" in out
    assert "at [0, 1]: False, expected True  (4 of 8 values differ)" in out
    assert "Likely: the first query is aligned with the first key" in out
    # The learner's own line and no other.
    assert "NameError: name 'key_positons' is not defined" in out
    assert "return query_positions >= key_positons" in out and "Traceback" not in out and "grading.py" not in out
    assert "here" in out  # what their code printed
    assert "SyntaxError" in out and "line 1: def discounts(counts:" in out
    assert "sgd.py defines no function update" in out
    assert "Python itself ended with status 3" in out
    assert "SystemExit: enough" in out
    # A grade is remembered, but not if the answer has changed since.
    assert Workspace(workspace.folder).standing(entry_of("bits_per_byte")) == "passed"
    write(workspace, "bits_per_byte", "return 0.0")
    assert Workspace(workspace.folder).standing(entry_of("bits_per_byte")) == "changed"
    assert main(["status"], workspace) == 0
    status = capsys.readouterr().out
    assert len(re.findall(r"(?m)^\d  .+ \d+ of \d+ *$", status)) == 9
    assert "Next: learn check 1.2" in status


def test_an_argument_that_is_changed_is_a_mistake(workspace: Workspace):
    path = write(workspace, "repetition_penalty", "logits[sorted(set(seen))] /= penalty\nreturn logits")
    grade = grade_file(entry_of("repetition_penalty").load(), path)
    assert grade.problem == "the function changes its argument logits, which belongs to the caller"
    assert "work on a copy" in grade.likely


@pytest.mark.parametrize(
    ("name", "body", "asked"),
    [
        ("repetition_penalty", "logits.clone()", True),
        ("calibration", "np.bincount([1])", True),  # what the grader looks at is missing
        ("repetition_penalty", "seen = None\nseen.clear()", False),  # an error of the learner's own
        ("find_key", "hash_key(presented)", False),  # None may be right
    ],
)
def test_a_forgotten_return_is_named(workspace: Workspace, name: str, body: str, asked: bool):
    grade = grade_file(entry_of(name).load(), write(workspace, name, body))
    assert grade.state == "failed"
    assert ("did you forget `return`?" in grade.problem) == asked, grade.problem


def test_check_before_start_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["check", "2"], Workspace(tmp_path / "none")) == 2
    assert capsys.readouterr().err == "error: your workspace has none of these exercises yet; begin with: learn start\n"


# --- hint, solution, choice ----------------------------------------------------------------------


@pytest.mark.slow
def test_each_hint_gives_one_more(workspace: Workspace, capsys: pytest.CaptureFixture):
    for level, last in ((1, "One more"), (2, "One more"), (3, "That is all"), (3, "That is all")):
        assert main(["hint", "1.2"], workspace) == 0
        out = capsys.readouterr().out
        assert out.count("of 3") == level and last in out
    assert main(["hint", "1.2", "1"], workspace) == 0
    assert capsys.readouterr().out.count("of 3") == 1


def test_solution_shows_the_package(workspace: Workspace, capsys: pytest.CaptureFixture):
    assert main(["solution", "3.1"], workspace) == 0
    out = capsys.readouterr().out
    assert str(Path("03_transformer/transformer/layers.py")) in out and "F.rms_norm" in out


def test_exercises_are_chosen_by_number_stage_or_name():
    assert [entry.number for entry in choose(ENTRIES, ["2.3", "rms_norm", "2.3"])] == ["2.3", "3.1"]
    assert {entry.stage for entry in choose(ENTRIES, ["4"])} == {4}
    assert choose(ENTRIES, []) == ENTRIES
    with pytest.raises(LearnError, match=r"there is no exercise '2\.33'; give a stage \(1 to 9\) or one like 2\.3"):
        choose(ENTRIES, ["2.33"])
    with pytest.raises(LearnError, match="'2' names 8 exercises"):
        choose_one(ENTRIES, "2")


# --- comparison ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected", "difference"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), "shape (2, 3), expected (3, 2)"),
        (torch.ones(2).double(), torch.ones(2), "dtype torch.float64, expected torch.float32"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), "at [1]: 2.0, expected 3.0  (1 of 2 values differ)"),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), None),
        (torch.tensor(float("nan")), torch.tensor(1.0), "nan, expected 1.0"),
        (np.ones(2), torch.ones(2), "ndarray of shape (2,), expected Tensor of shape (2,)"),
        (None, 2.0, "NoneType, expected a number: 2.0"),
        (True, 1, "bool, expected a number: 1"),
        (1, True, "1, expected True"),
        ([1, 2, 3], [1, 2], "3 entries, expected 2"),
        ((1, 2), [1, 2], "tuple, expected list"),
        ({"a": [1, 2.0]}, {"a": [1, 2.5]}, "at ['a'][1]: 2.0, expected 2.5"),
        ({"a": 1}, {"b": 1}, "missing: 'b'; not expected: 'a'"),
        ("one", "two", "'one', expected 'two'"),
        (1.0000001, 1.0, None),
    ],
)
def test_the_first_difference_is_named(got, expected, difference):
    assert first_difference(got, expected, tolerance=1e-6) == difference


def test_values_are_shown_in_a_line():
    assert show(np.arange(3)) == "[0, 1, 2]"
    assert show(torch.zeros(20, 3)) == "tensor of shape (20, 3)"
    assert len(show("x" * 1000)) == 100


# --- run -----------------------------------------------------------------------------------------


@pytest.fixture
def afterwards_the_package():
    """Undo what a run puts into the package: it is meant for a process that ends with the run."""
    references = [entry.load().resolve() for entry in ENTRIES]
    yield references
    for reference in references:
        mine = inspect.getattr_static(reference.holder, reference.name)
        substitute(replace(reference, function=mine), reference.function)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, text_file: Path):
    """A function that makes a short training run by a given command, and reads its losses."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name: str, command: Callable[[list[str]], int]) -> list[float]:
        arguments = [
            f"--output_dir={folder / name}", "--device=cpu", "--precision=float32", f"--data.corpus={text_file}",
            f"--data.dataset_dir={folder / 'datasets'}", "--tokenizer.vocab_size=300", "--model.context_length=32",
            "--model.num_layers=2", "--model.num_heads=2", "--model.d_model=32", "--training.max_steps=6",
            "--training.batch_size=4", "--training.eval_tokens=128", "--schedule.warmup_steps=2",
        ]  # fmt: skip
        assert command(arguments) == 0
        lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [step["train_loss"] for step in map(json.loads, lines) if "train_loss" in step]

    return train


@pytest.fixture(scope="module")
def packages_losses(training) -> list[float]:
    """The losses of the run without `learn`; it also makes the data set for the others."""
    return training("package", train_command.main)


@pytest.mark.slow
def test_a_run_with_the_learners_code_has_the_same_loss(
    training, packages_losses, workspace: Workspace, afterwards_the_package, capsys: pytest.CaptureFixture
):
    for name, body in SOLUTIONS.items():
        write(workspace, name, body)
        workspace.remember(entry_of(name), Grade("passed"))
    write(workspace, "swiglu", "return self.down(self.up(x))")  # wrong, and therefore left out
    workspace.remember(entry_of("swiglu"), Grade("failed"))
    script = str(ROOT / "05_training" / "train.py")
    losses = training("mine", lambda arguments: main(["run", script, *arguments], workspace))
    # The learner's sums have another order, so only rounding differs. Float32 has seven digits; six steps lose one.
    np.testing.assert_allclose(losses, packages_losses, rtol=2e-6)
    out = capsys.readouterr().out
    assert "runs with your code for 5 exercises: " in out and "3.2  SwiGLU" not in out.partition("The run called")[0]
    used = out.partition("The run called")[2]
    for number in ("3.1", "3.4", "5.4"):
        assert f" {number}  " in used
    assert " 3.2  " not in used


@pytest.mark.slow
def test_every_exercise_can_take_the_place_of_the_packages_function(training, packages_losses, afterwards_the_package):
    """Each function is replaced by itself and counts its calls."""
    for reference in afterwards_the_package:
        substitute(reference, CountedFunction(reference.function).function)
    assert training("replaced", train_command.main) == packages_losses


@pytest.mark.slow
def test_a_file_of_a_package_runs_with_the_learners_functions_of_that_very_file(
    workspace: Workspace, afterwards_the_package, capsys: pytest.CaptureFixture
):
    write(
        workspace,
        "causal_mask",
        """
        own = torch.arange(num_keys - num_queries, num_keys, device=device)
        return visible_keys(own, torch.arange(num_keys, device=device), window, sinks)
        """,
    )
    assert main(["run", str(ROOT / "02_attention" / "attention" / "masks.py")], workspace) == 0
    out = capsys.readouterr().out
    assert "runs with your code for 1 exercise: 2.3" in out and "three documents in one window" in out
    assert out.rstrip().endswith("5 calls")


def test_run_refuses_what_it_cannot_do(workspace: Workspace, capsys: pytest.CaptureFixture):
    assert main(["run", "no_such.py"], workspace) == 2
    assert "there is no script no_such.py" in capsys.readouterr().err
    assert main(["run", "--only", "2", str(ROOT / "05_training" / "train.py")], workspace) == 2
    assert "none of your exercises has passed yet" in capsys.readouterr().err

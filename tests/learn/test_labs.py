"""Every lab: its file is wrong and shows the symptom; the package and the repaired file are right and do not."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from learn.catalogue import MARKER, ROOT, LabEntry, all_exercises, all_labs, choose_one
from learn.command_line import main
from learn.experiment import run_apart
from learn.grading import grade_file, grade_function
from learn.workspace import Workspace

pytestmark = pytest.mark.slow

LABS = all_labs()
PACKAGES = [path.name for path in sorted(ROOT.glob("0?_*/*")) if (path / "__init__.py").is_file()]
each = pytest.mark.parametrize("entry", LABS, ids=[f"{entry.number}-{entry.name}" for entry in LABS])


@pytest.fixture(scope="module")
def loaded():
    """All labs; each is imported once."""
    cache: dict = {}

    def load(entry: LabEntry):
        if entry.name not in cache:
            cache[entry.name] = entry.load_lab()
        return cache[entry.name]

    return load


# --- each lab ------------------------------------------------------------------------------------


@each
def test_the_file_fails_and_the_package_and_the_mended_file_pass(entry: LabEntry, loaded, tmp_path: Path):
    lab = loaded(entry)
    exercise = lab.exercise()
    given, mended = tmp_path / "given.py", tmp_path / "mended.py"
    given.write_text(entry.stub, encoding="utf-8")
    mended.write_text(lab.mended(entry.stub), encoding="utf-8")
    grade = grade_file(exercise, given)
    assert grade.state == "failed" and grade.question and "still wrong" in grade.likely, grade
    assert grade_file(exercise, mended).state == "passed", grade_file(exercise, mended)
    assert grade_function(exercise, exercise.resolve().function).state == "passed"


@each
def test_the_symptom_shows_with_the_file_and_not_with_the_package(entry: LabEntry, loaded):
    lab = loaded(entry)
    before = lab.exercise().resolve().function
    package, file = lab.experiment(), lab.experiment(lab.broken)
    assert package.keys() == file.keys()
    assert lab.visible(file, package), (file, package)
    assert not lab.visible(package, package), package
    assert lab.exercise().resolve().function is before  # and the package is as it was


@each
def test_the_function_looks_like_the_packages_and_gives_nothing_away(entry: LabEntry, loaded):
    lab = loaded(entry)
    reference = lab.exercise().resolve()
    assert lab.broken.__name__ == reference.name
    assert _parameters(lab.broken) == _parameters(inspect.unwrap(reference.function))
    assert entry.path.read_text(encoding="utf-8").count(f"\n{MARKER}") == 1
    assert "learn." not in entry.stub and "LAB" not in entry.stub
    comments = [line.partition("#")[2].lower() for line in entry.stub.splitlines() if "#" in line]
    assert not [c for c in comments if any(word in c for word in ("bug", "wrong", "fix", "missing", "broken"))]
    assert len(entry.title) <= 66 and len(set(lab.hints)) == 3 and lab.diagnosis


@each
def test_a_lab_knows_its_own_stage_and_earlier_ones(entry: LabEntry):
    allowed = {*PACKAGES[: entry.stage], "learn"}
    for node in ast.walk(ast.parse(entry.path.read_text(encoding="utf-8"))):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        if module and module.partition(".")[0] in {*PACKAGES, "learn"}:
            assert module.partition(".")[0] in allowed, module


def test_every_stage_has_labs_lettered_in_order():
    for stage in range(1, 10):
        places = [entry.place for entry in LABS if entry.stage == stage]
        assert places == list(range(1, len(places) + 1)) and places
        assert all(entry.folder.startswith(f"{stage:02}_") for entry in LABS if entry.stage == stage)
    names = [entry.name for entry in [*LABS, *all_exercises()]]
    assert len(set(names)) == len(names)  # the workspace knows both by name


def test_the_readmes_list_every_lab():
    text = (ROOT / "exercises" / "README.md").read_text(encoding="utf-8")
    assert f"{len(LABS)} labs" in text
    assert f"[{len(LABS)} labs](exercises/README.md#labs)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for entry in LABS:
        assert f"| {entry.number} | [{entry.title}](../{entry.folder}/labs/{entry.path.name}) |" in text
        lesson = (ROOT / entry.folder / "README.md").read_text(encoding="utf-8")
        assert f"learn lab {entry.number}" in lesson, f"{entry.folder}/README.md does not mention lab {entry.number}"


@pytest.mark.parametrize("stage", range(1, 10))
def test_each_lesson_lists_its_exercises(stage: int):
    own = [entry for entry in all_exercises() if entry.stage == stage]
    lesson = (ROOT / own[0].folder / "README.md").read_text(encoding="utf-8")
    assert f"learn check {stage}" in lesson
    for entry in own:
        assert f"{entry.number} {entry.title}" in lesson


# --- the command, as a learner uses it -----------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("COLUMNS", "160")
    return Workspace(tmp_path / "workspace")


def test_a_lab_from_its_symptom_to_solved(workspace: Workspace, capsys: pytest.CaptureFixture):
    entry = choose_one(LABS, "2.b")
    assert main(["lab", "2.B"], workspace) == 0
    out = capsys.readouterr().out
    path = workspace.file_of(entry)
    assert "Put into" in out and entry.title in out and "edit the last key and" in out
    assert "learn check 2.B grades it" in out and path.with_suffix(".png").stat().st_size > 1000
    text = path.read_text(encoding="utf-8")
    assert text == entry.stub and "LAB" not in text

    assert main(["check", "2.B"], workspace) == 0  # as it was given
    assert "to do" in capsys.readouterr().out
    path.write_text(text.replace("masked_fill(~allowed, 0.0)", "masked_fill(allowed, 0.0)"), encoding="utf-8")
    assert main(["check"], workspace) == 1
    assert "failed" in capsys.readouterr().out
    path.write_text(
        text.replace("    return weights @ values, weights", "    print('here')\n    return nothing"), encoding="utf-8"
    )
    assert main(["lab", "2.B"], workspace) == 0
    out = capsys.readouterr().out
    assert (
        "here\n" in out
        and "NameError: name 'nothing' is not defined" in out
        and "return nothing" in out
        and "Put into" not in out
    )

    path.write_text(entry.load_lab().mended(text), encoding="utf-8")
    assert main(["lab", "2.B"], workspace) == 0
    assert "The symptom is gone: learn check 2.B" in capsys.readouterr().out
    assert main(["check", "2.B"], workspace) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["lab"], workspace) == 0
    out = capsys.readouterr().out
    assert out.count("solved") == 1 and all(lab.number in out for lab in LABS)
    assert main(["status"], workspace) == 0
    out = capsys.readouterr().out
    assert f"1 of {len(LABS)} solved" in out and "0 of 8" in out  # the stage's exercises are counted separately


def test_starting_again_keeps_a_lab_that_was_begun(workspace: Workspace, capsys: pytest.CaptureFixture):
    entry = choose_one(LABS, "2.B")
    path = workspace.file_of(entry)
    workspace.start([entry])
    path.write_text("def attention_reference(*arguments):\n    raise SystemExit('enough')\n", encoding="utf-8")
    assert main(["lab", "2.B"], workspace) == 0
    assert "SystemExit: enough" in capsys.readouterr().out
    assert "SystemExit" in path.read_text(encoding="utf-8")


def test_an_endless_loop_ends_the_experiment(workspace: Workspace):
    entry = choose_one(LABS, "2.B")
    path = workspace.folder / "endless.py"
    path.parent.mkdir()
    path.write_text("while True:\n    pass\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"endless\.py is still not done after [28] seconds"):
        run_apart(entry, path, time_limit=2)


def test_the_solution_is_the_difference_and_how_to_find_it(workspace: Workspace, capsys: pytest.CaptureFixture):
    assert main(["solution", "8.A"], workspace) == 0
    out = capsys.readouterr().out
    assert "-            counts.append(len(window) - 1)" in out and "+            counts.append(stop - counted)" in out
    assert "number of counted tokens" in " ".join(out.split())
    assert main(["hint", "8.A"], workspace) == 0
    assert "Hint 1 of 3" in capsys.readouterr().out


def test_what_is_no_lab_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture):
    assert main(["lab", "5.Z"], workspace) == 2
    assert "there is no lab '5.Z'; give a stage (1 to 9) or one like 2.A" in capsys.readouterr().err
    assert main(["check", "5.A"], workspace) == 2
    assert "begin with: learn lab 5.A" in capsys.readouterr().err


def _parameters(function) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

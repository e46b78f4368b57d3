"""The lessons and the site: links have a target, commands name existing files, and figures are what the code draws."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("0?_*/README.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
)
PAGES = [page for page in PAGES if "_build" not in page.parts]
NAMES = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
CODE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@NAMES
def test_links_between_files_lead_somewhere(page: Path):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if re.match(r"[a-z]+:", target):
            continue
        where = ROOT / "docs" / target.lstrip("/") if target.startswith("/") else page.parent / target
        assert where.exists(), f"{target} is linked to, and is not there"


def headings_of(page: Path) -> set[str]:
    """The names that can follow a # in a link, as GitHub and the site form them."""
    if lesson := re.fullmatch(r"docs/stages/(\d)\.md", page.relative_to(ROOT).as_posix()):
        [page] = ROOT.glob(f"0{lesson[1]}_*/README.md")  # the site has the same text there
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@NAMES
def test_links_to_headings_name_one_that_is_there(page: Path):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text):
        there = (page.parent / target).resolve() if target else page
        assert anchor in headings_of(there), f"{target}#{anchor}"


@NAMES
def test_commands_name_scripts_modules_and_configurations_that_exist(page: Path):
    for block in CODE.findall(page.read_text(encoding="utf-8")):
        for script in re.findall(
            r"(?:python3?|nproc_per_node=\w+) (0\d_\w+/\S+\.py|docs/\S+\.py|benchmarks/\S+\.py)", block
        ):
            assert (ROOT / script).exists(), script
        for module in re.findall(r"python -m ([a-z_]+\.[a-z0-9_.]+[a-z0-9_])", block):
            assert importlib.util.find_spec(module) is not None, module
        for config in re.findall(r"(configs/\S+\.yaml)", block):
            assert (ROOT / config).exists(), config
        for target in re.findall(r"^make ([a-z0-9-]+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_every_stage_has_a_lesson_in_the_same_shape():
    for number in range(1, 10):
        [lesson] = ROOT.glob(f"0{number}_*/README.md")
        text = lesson.read_text(encoding="utf-8")
        assert text.startswith(f"# {number} · "), lesson
        assert "**At the end of this stage**" in text, lesson
        assert number == 9 or "**Next:** [" in text, lesson
        parts = ["## Experiments", "## What goes wrong", "## Test yourself", "<details>", "## Further reading"]
        places = [text.rfind(part) for part in parts]  # a lesson may hide other answers earlier
        assert -1 not in places and places == sorted(places), (lesson, dict(zip(parts, places, strict=True)))
        assert "eading order" in text, lesson


def test_the_learning_path_has_every_exercise_in_one_week():
    from learn.catalogue import all_exercises

    text = (ROOT / "docs" / "learning_path.md").read_text(encoding="utf-8")
    planned = []
    for cells in re.findall(r"^\| \d+ \|[^|]*\|[^|]*\|([^|]*)\|", text, re.MULTILINE):
        for stage, first, last in re.findall(r"(\d)\.(\d+)(?:–\d\.(\d+))?", cells):
            planned += [f"{stage}.{number}" for number in range(int(first), int(last or first) + 1)]
    assert sorted(planned) == sorted(str(entry.number) for entry in all_exercises())


@pytest.mark.slow
@pytest.mark.skipif(not matplotlib.__version__.startswith("3.11"), reason="another matplotlib draws other files")
def test_figures_are_what_the_code_draws(tmp_path: Path):
    names = ["descent", "masks", "activations", "rope_scaling", "sampling", "schedules"]
    command = [sys.executable, str(ROOT / "docs" / "make_figures.py"), *names, "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for name in names:
        drawn, kept = (folder / f"{name}.svg" for folder in (tmp_path, ROOT / "docs" / "figures"))
        words, numbers = _words_and_numbers(drawn)
        kept_words, kept_numbers = _words_and_numbers(kept)
        same = words == kept_words and numbers == pytest.approx(kept_numbers, abs=1e-3)  # processors round differently
        assert same, f"make it again: python docs/make_figures.py {name}"


def _words_and_numbers(drawing: Path) -> tuple[list[str], list[float]]:
    """What is between the numbers of an SVG file, and the numbers, most of them coordinates in points."""
    text = drawing.read_text()
    return re.split(r"-?\d+\.\d+", text), [float(number) for number in re.findall(r"-?\d+\.\d+", text)]

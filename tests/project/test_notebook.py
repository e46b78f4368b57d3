"""The notebook runs from top to bottom at its smallest scale, and is committed with its output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "zero_to_hero.ipynb"
nbformat = pytest.importorskip("nbformat")


def test_it_is_committed_with_outputs_and_without_errors():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert not re.search(r"/(home|Users|tmp|work)/", nbformat.writes(notebook))


def test_it_runs_at_the_tiny_scale(tmp_path: Path):
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, 4)
    environment = {**os.environ, "NULLM_SCALE": "tiny", "NULLM_WORK": str(tmp_path), "OMP_NUM_THREADS": "1"}
    client.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(env=environment)
    printed = "".join(o.text for o in notebook.cells[-2].outputs if o.output_type == "stream")
    bits = {line[:32].strip(): float(line[32:39]) for line in printed.splitlines() if line.strip()}
    assert bits["trained GPT (BPE)"] < bits["xz"] < bits["bigram, counted"]

"""The number of files that a journey visits is as docs/architecture.md says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_architecture_page_counts_the_files_of_each_journey(root: Path):
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = {name.replace("`", "").lower(): int(count) for name, count in re.findall(r"\*\*(One .*): (\d+) files", page)}
    result = subprocess.run([sys.executable, root / "docs" / "journeys.py"], capture_output=True, text=True, check=True)
    counted = {name: int(count) for name, count in re.findall(r"^(one .*): (\d+) files$", result.stdout, re.MULTILINE)}
    assert said == counted and len(counted) == 3

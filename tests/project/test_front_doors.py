"""The names that a package exports itself: every name exists, and `import package` alone stays cheap."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    path.name: path
    for folder in sorted(Path(__file__).parents[2].glob("0?_*"))
    if (path := folder / folder.name[3:]).is_dir()
}


def test_every_stage_has_a_front_door():
    assert len(PACKAGES) == 9


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_of_the_front_door_can_be_imported_and_is_the_one_of_its_module(name: str):
    package = importlib.import_module(name)
    checked = ast.parse((PACKAGES[name] / "__init__.py").read_text(encoding="utf-8"))
    seen_by_type_checkers = {
        alias.name: node.module
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(name)
        for alias in node.names
    }
    assert sorted(package.__all__) == sorted(seen_by_type_checkers)
    for exported, module in seen_by_type_checkers.items():
        assert getattr(package, exported) is getattr(importlib.import_module(module), exported)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_exported_name_is_a_submodule_which_would_take_its_place_once_imported(name: str):
    package = importlib.import_module(name)
    assert not set(package.__all__) & {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    import tokenizer

    with pytest.raises(AttributeError, match=r"'tokenizer' has no attribute 'Tokeniser'; it exports .*BPETokenizer"):
        _ = tokenizer.Tokeniser


def test_importing_a_package_loads_none_of_its_modules_nor_pytorch():
    code = f"import sys, {', '.join(PACKAGES)}; print([name for name in sys.modules if name.split('.')[0] in sys.argv])"
    arguments = [sys.executable, "-c", code, *PACKAGES, "torch", "numpy"]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(printed) == list(PACKAGES)

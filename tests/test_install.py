"""install.py makes, completes, repairs and replaces an environment; each refusal is one line with a way out.

The environments are real and pip is real. The index is a folder with three wheels made here, so that no network is
needed and an installation takes a second.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests call .venv/bin/python")


def write_wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    """A package of one module, as an index has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        about = f"{name}-{version}.dist-info"
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def write_index(folder: Path, **packages: str) -> str:
    """An index of packages and their versions; its address."""
    for name, version in packages.items():
        write_wheel(folder / name, name, version)
        links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in (folder / name).glob("*.whl"))
        (folder / name / "index.html").write_text(f"<html><body>{links}</body></html>", encoding="utf-8")
    return folder.as_uri()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that is set up as the repository is, but needs less; there is a space in its path."""
    folder = tmp_path / "my project"
    folder.mkdir()
    shutil.copy(ROOT / "install.py", folder)
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    (folder / "requirements.txt").write_text("torch==2.0\n", encoding="utf-8")
    (folder / "requirements-docs.txt").write_text("-r requirements.txt\n", encoding="utf-8")
    (folder / "requirements-test.txt").write_text("-r requirements-docs.txt\ncheckers==1.0\n", encoding="utf-8")
    write_index(tmp_path / "index", torch="2.0", checkers="1.0")
    write_index(tmp_path / "cpu", torch="2.0+cpu")
    return folder


def install(project: Path, *arguments: str, python: str = sys.executable, **environment: str):
    """Run it as a user would; the index is the folder beside the project."""
    settings = {key: text for key, text in os.environ.items() if not key.startswith(("PIP_", "MAKE"))}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (project.parent / "index").as_uri()} | environment
    return subprocess.run(
        [python, "install.py", *arguments], cwd=project, env=settings, capture_output=True, text=True, check=False
    )


def installed(project: Path) -> set[str]:
    """Names and versions of what the environment has, pip and setuptools excepted."""
    folder = next((project / ".venv" / "lib").glob("python3*")) / "site-packages"
    return {path.stem for path in folder.glob("*.dist-info") if not path.name.startswith(("pip-", "setuptools-"))}


def test_an_environment_grows_by_parts_and_says_before_what_it_fetches(project: Path):
    first = install(project)
    assert first.returncode == 0, first.stderr
    assert installed(project) == {"torch-2.0"}
    announced = first.stdout.split("Looking in")[0]
    assert "train, generate, serve and learn" in announced and re.search(r"fetches about [\d.]+ [GM]B", announced)

    again = install(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    second = install(project, "--with", "test")
    assert second.returncode == 0 and installed(project) == {"torch-2.0", "checkers-1.0"}
    assert second.stdout.startswith("Adding to .venv what is needed to build the site, to test")
    assert [install(project, *part).stdout for part in ((), ("--with", "docs"), ("--with", "test"))] == ["", "", ""]

    # New pins, as after `git pull`; what else the user installed stays.
    write_index(project.parent / "index", checkers="2.0", mine="1.0")
    subprocess.run(
        [project / ".venv/bin/python", "-m", "pip", "install", "-q", "mine", "--index-url", f"{project.parent.as_uri()}/index"],
        check=True,
    )  # fmt: skip
    (project / "requirements-test.txt").write_text("-r requirements-docs.txt\ncheckers==2.0\n", encoding="utf-8")
    assert install(project).stdout == ""  # the part that runs has not changed
    third = install(project, "--with", "test")
    assert third.returncode == 0 and "have changed" in third.stdout
    assert installed(project) == {"torch-2.0", "checkers-2.0", "mine-1.0"}


def test_the_build_of_pytorch_is_chosen_kept_and_changed(project: Path):
    cpu = (project.parent / "cpu").as_uri()
    chosen = install(project, "--torch", cpu)
    assert chosen.returncode == 0, chosen.stderr
    assert installed(project) == {"torch-2.0+cpu"}
    added = install(project, "--with", "test")
    assert added.returncode == 0 and installed(project) == {"torch-2.0+cpu", "checkers-1.0"}
    wrong = install(project, "--torch", (project.parent / "cpu_").as_uri(), PIP_RETRIES="0")
    assert wrong.returncode == 1 and "is in its place again" in wrong.stderr
    assert installed(project) == {"torch-2.0+cpu", "checkers-1.0"} and install(project).stdout == ""
    changed = install(project, "--torch", "default")
    assert "replaced: it has PyTorch's build" in changed.stdout and installed(project) == {"torch-2.0"}
    assert not (project / ".venv.old").exists()


def test_what_is_broken_is_made_again_and_what_was_moved_too(project: Path, tmp_path: Path):
    assert install(project).returncode == 0
    python = project / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    mended = install(project)
    assert mended.returncode == 0 and "its Python does not start" in mended.stdout
    assert installed(project) == {"torch-2.0"}

    # Copied, an environment still means the old folder: its programs and the project would be those over there.
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    moved = install(copy)
    assert moved.returncode == 0 and f"it was made for the folder {project}" in moved.stdout
    assert json.loads((copy / ".venv/nullm.json").read_text("utf-8"))["folder"] == str(copy)

    # A stamp that cannot be read, and an environment that the user made by hand, are completed.
    (project / ".venv/nullm.json").write_text("{", encoding="utf-8")
    adopted = install(project)
    assert adopted.returncode == 0 and "replaced" not in adopted.stdout and install(project).stdout == ""


def test_what_is_not_an_environment_is_left_alone(project: Path):
    (project / ".venv").mkdir()
    (project / ".venv/thesis.txt").write_text("years of work", encoding="utf-8")
    refused = install(project)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "thesis.txt" in refused.stderr and "move it away" in refused.stderr
    assert (project / ".venv/thesis.txt").read_text("utf-8") == "years of work"


def test_an_interrupted_call_goes_on(project: Path):
    """Ctrl-C while pip waits for an index that does not answer; the next call completes the environment."""
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
    process = subprocess.Popen(
        [sys.executable, "install.py"], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address},
        start_new_session=True,
    )  # fmt: skip
    while not (project / ".venv/nullm.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    silent.close()
    assert process.returncode == 130 and complaints.strip().splitlines()[-1].startswith("interrupted; nothing is lost")
    assert "Traceback" not in complaints
    went_on = install(project)
    assert went_on.returncode == 0 and went_on.stdout.startswith("Adding to .venv")
    assert installed(project) == {"torch-2.0"}


def test_no_network_and_a_missing_package_are_told_apart(project: Path):
    refused = install(project, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: the package index does not answer") and "PIP_INDEX_URL" in refused.stderr

    (project / "requirements.txt").write_text("torch==2.0\nchequers==1.0\n", encoding="utf-8")
    refused = install(project)
    assert refused.returncode == 1 and "chequers==1.0" in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("error: `pip install -r requirements.txt` failed")

    (project / "requirements.txt").write_text("torch==2.0\n", encoding="utf-8")
    assert install(project).returncode == 0


def test_two_calls_at_once_take_turns(project: Path):
    settings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (project.parent / "index").as_uri()}
    calls = [
        subprocess.Popen(
            [sys.executable, "install.py", *part], cwd=project, env=settings, stdout=subprocess.PIPE, text=True
        )
        for part in ((), ("--with", "test"))
    ]
    printed = [call.communicate(timeout=120)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    assert sum("waiting for it" in text for text in printed) == 1
    assert installed(project) == {"torch-2.0", "checkers-1.0"}


# --- refusals, by the functions that decide ---


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0)])
def test_a_python_without_builds_is_refused_and_another_named(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
):
    fake = SimpleNamespace(version_info=version, executable="/usr/bin/python3", implementation=sys.implementation)
    monkeypatch.setattr(module, "sys", fake)
    monkeypatch.setattr(module, "starts", lambda name: name == "python3.12")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    with pytest.raises(
        module.SetupError, match=r"3\.11 to 3\.14 is needed, .* Another one is here: `python3\.12 install"
    ):
        module.check_python()
    monkeypatch.setenv("MAKELEVEL", "1")
    with pytest.raises(module.SetupError, match=r"`make setup PYTHON=python3\.12`"):
        module.check_python()
    monkeypatch.setattr(module, "starts", lambda name: False)
    with pytest.raises(module.SetupError, match=r"Install one of these, then make setup PYTHON="):
        module.check_python()


def test_a_python_that_cannot_make_environments_names_the_debian_package(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(module.SetupError, match=rf"apt install python3\.{sys.version_info[1]}-venv"):
        module.check_python()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "macos", "named"),
    [
        ("linux", "riscv64", "glibc", "", "riscv64"),
        ("linux", "x86_64", "", "", "without glibc"),
        ("darwin", "x86_64", "", "14.1", "x86_64"),
        ("darwin", "arm64", "", "13.6", "macOS 13.6"),
        ("win32", "x86", "", "", "x86"),
    ],
)
def test_a_system_without_pytorch_is_refused_by_name(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: str, macos: str, named: str
):
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    monkeypatch.setattr(module.platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(module.platform, "mac_ver", lambda: (macos, ("", "", ""), ""))
    with pytest.raises(module.SetupError, match=named):
        module.check_system()


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100e6))
    with pytest.raises(module.SetupError, match=r"100 MB free .* needed"):
        module.announce("run", "cpu", {}, "")


# --- the pins ---


def pins(*parts: str) -> dict[str, Requirement]:
    lines = [line for part in parts for line in (ROOT / f"requirements{part}.txt").read_text("utf-8").splitlines()]
    found = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip() and line[0] != "-"]
    return {requirement.name.lower().replace("_", "-"): requirement for requirement in found}


def test_every_dependency_is_pinned_within_its_range_where_it_is_needed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    for ranges, pinned in (
        (project["dependencies"], pins("")),
        (extras["docs"], pins("-docs")),
        (extras["dev"], pins("-test")),
    ):
        needed = {item.name.lower().replace("_", "-"): item for item in map(Requirement, ranges)}
        needed.pop("nullm", None)
        assert needed.keys() <= pinned.keys()
        for name, requirement in pinned.items():
            if name in needed and name != "triton":
                (specifier,) = requirement.specifier
                assert specifier.operator == "==" and needed[name].specifier.contains(specifier.version), name
    assert not pins("").keys() & pins("-test").keys()


def test_what_only_docs_and_tests_need_is_imported_by_no_module_but_two():
    """So training, serving, learning and the container run without; and the site is built with these two mocked."""
    left_out = sorted(name.replace("-", "_") for name in pins("-docs", "-test"))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["root_packages"]
    code = f"""
import importlib, pkgutil, sys
for name in {left_out!r}:
    sys.modules[name] = None
for package in {packages!r}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(module.name, error.name.split(".")[0])
from deployment.server import main
main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needing = re.findall(r"^([a-z_.]+) ([a-z_]+)$", done.stdout.split("usage:")[0], re.MULTILINE)
    assert sorted(needing) == [
        ("attention.flash_attention_triton", "triton"),
        ("evaluation.lm_eval_adapter", "lm_eval"),
    ]
    mocked = re.search(r"autodoc_mock_imports = (.*)", (ROOT / "docs/conf.py").read_text("utf-8"))
    assert mocked and all(f'"{name}"' in mocked[1] for _, name in needing)


def test_the_readme_names_the_pinned_pytorch():
    named = re.findall(r"torch==(\S+)", (ROOT / "README.md").read_text("utf-8"))
    assert named and {f"=={version}" for version in named} == {str(pins("")["torch"].specifier)}


def test_a_pin_holds_on_every_system_and_python():
    """One version for all; and none for Triton, because PyTorch's CUDA build asks for exactly one of its own."""
    everything = pins("", "-docs", "-test")
    assert {name for name, pin in everything.items() if pin.marker} == {"triton"}
    assert not everything["triton"].specifier

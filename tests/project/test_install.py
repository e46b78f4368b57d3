"""install.py makes and completes an environment. It does not touch one that it cannot use, and says what to do.

The environments are real and pip is real. The index is a folder with three wheels made here. So no network is
needed, and an installation takes a second.
"""

from __future__ import annotations

import importlib.util
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

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the tests call .venv/bin/python")]


def write_wheel(folder: Path, name: str, version: str, code: str = "") -> None:
    """A package with one module, as an index stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        about = f"{name}-{version}.dist-info"
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def write_index(folder: Path, **packages: str) -> str:
    """Make an index of packages and their versions, and return its address."""
    for name, version in packages.items():
        write_wheel(folder / name, name, version)
        links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in (folder / name).glob("*.whl"))
        (folder / name / "index.html").write_text(f"<html><body>{links}</body></html>", encoding="utf-8")
    return folder.as_uri()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder like the repository, but with fewer requirements; there is a space in its path."""
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
    """Run it as a user does; the index is the folder next to the project."""
    settings = {key: text for key, text in os.environ.items() if not key.startswith(("PIP_", "MAKE"))}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (project.parent / "index").as_uri()} | environment
    return subprocess.run(
        [python, "install.py", *arguments], cwd=project, env=settings, capture_output=True, text=True, check=False
    )


def refused(project: Path, *arguments: str, **environment: str) -> str:
    """The last line that a refused call prints."""
    done = install(project, *arguments, **environment)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and lines[-1].startswith("error: ") and "Traceback" not in done.stderr, done.stderr
    return lines[-1]


def installed(project: Path) -> set[str]:
    """Names and versions of the installed packages, without pip and setuptools."""
    folder = next((project / ".venv" / "lib").glob("python3*")) / "site-packages"
    return {path.stem for path in folder.glob("*.dist-info") if not path.name.startswith(("pip-", "setuptools-"))}


@pytest.mark.slow
def test_an_environment_grows_by_parts_and_says_before_what_it_downloads(project: Path):
    misleading = {
        "PIP_TARGET": str(project.parent / "x"),
        "PIP_DRY_RUN": "1",
        "PIP_USER": "1",
        "PYTHONPATH": "/nowhere",
    }
    first = install(project, **misleading)
    assert first.returncode == 0, first.stderr
    assert installed(project) == {"torch-2.0"}
    announced = first.stdout.split("Looking in")[0]
    assert "train, generate, serve and learn" in announced and re.search(r"[\d.]+ [GM]B to download", announced)

    again = install(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    second = install(project, "--with", "test")
    assert second.returncode == 0 and installed(project) == {"torch-2.0", "checkers-1.0"}
    assert second.stdout.startswith("Continuing with .venv: what is needed to build the site; to test")
    assert [install(project, *part).stdout for part in ((), ("--with", "docs"), ("--with", "test"))] == ["", "", ""]

    # New pins, as after `git pull`; other packages of the user stay.
    index = write_index(project.parent / "index", checkers="2.0", mine="1.0")
    pip = [project / ".venv/bin/python", "-m", "pip"]
    subprocess.run([*pip, "install", "-q", "mine", "--index-url", index], check=True)
    (project / "requirements-test.txt").write_text("-r requirements-docs.txt\ncheckers==2.0\n", encoding="utf-8")
    assert install(project).stdout == ""  # the part that runs has not changed
    third = install(project, "--with", "test")
    assert third.returncode == 0 and "have changed" in third.stdout
    assert installed(project) == {"torch-2.0", "checkers-2.0", "mine-1.0"}

    # A package that is missing although it was installed once, and a stamp that cannot be read.
    subprocess.run([*pip, "uninstall", "-q", "-y", "torch"], check=True)
    assert install(project).returncode == 0 and "torch-2.0" in installed(project)
    for stamp in (
        "{",
        "5",
        '{"parts": {}, "torch": null}',
        '{"parts": 3, "torch": "../x", "folder": 5}',
        "[" * 100_000,
    ):
        (project / ".venv/nullm.json").write_text(stamp, encoding="utf-8")
        assert "Traceback" not in install(project).stderr and install(project).stdout == ""


@pytest.mark.slow
def test_the_build_of_pytorch_is_chosen_and_kept_and_no_other_takes_its_place(project: Path):
    cpu = (project.parent / "cpu").as_uri()
    assert "'cuda' is not a build" in refused(project, "--torch", "cuda") and not (project / ".venv").exists()
    missing = (project.parent / "cu999").as_uri()
    assert "pip failed, for the reason above" in refused(project, "--torch", missing)  # a name that could exist
    chosen = install(project, "--torch", f" {cpu} ")
    assert chosen.returncode == 0, chosen.stderr
    assert installed(project) == {"torch-2.0+cpu"}
    added = install(project, "--with", "test")
    assert added.returncode == 0 and installed(project) == {"torch-2.0+cpu", "checkers-1.0"}
    assert install(project, "--torch", cpu).stdout == ""
    line = refused(project, "--torch", "cu130")
    assert "it has PyTorch 2.0+cpu, and you asked for cu130. Delete the folder .venv" in line
    assert installed(project) == {"torch-2.0+cpu", "checkers-1.0"}


@pytest.mark.slow
def test_an_environment_that_cannot_be_used_is_refused_and_left_as_it_is(project: Path, tmp_path: Path):
    assert install(project).returncode == 0
    cfg, python = project / ".venv/pyvenv.cfg", project / ".venv/bin/python"
    text, target = cfg.read_text("utf-8"), python.readlink()

    # A copied environment still points to the old folder, so its programs and the project would be the old ones.
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    assert f"it was made for the folder {project}" in refused(copy)
    alias = tmp_path / "alias"
    alias.symlink_to(project)  # another path to the same folder is allowed
    assert install(alias).stdout == ""

    cfg.write_text(re.sub(r"version = 3\.\d+", "version = 3.9", text), encoding="utf-8")
    assert "it was made with Python 3.9, and its Python is now 3." in refused(project)
    cfg.write_text(text, encoding="utf-8")
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert refused(project).endswith(
        "its Python does not start. Delete the folder .venv, then type the same command again"
    )
    python.unlink()
    python.symlink_to(target)
    assert install(project).stdout == "" and installed(project) == {"torch-2.0"}


@pytest.mark.slow
def test_what_has_the_name_of_the_environment_and_is_none_is_left_alone(project: Path, tmp_path: Path):
    venv = project / ".venv"
    venv.mkdir()
    (venv / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert "has no file pyvenv.cfg. Move it away" in refused(project)
    assert (venv / "thesis.txt").read_text("utf-8") == "years of work"
    shutil.rmtree(venv)
    venv.symlink_to(tmp_path / "disk that is not mounted")
    assert "which is not there" in refused(project) and venv.is_symlink()
    (tmp_path / "disk that is not mounted").mkdir()  # and now it is: an empty folder on another disk is filled
    assert install(project).returncode == 0 and venv.is_symlink() and installed(project) == {"torch-2.0"}


@pytest.mark.slow
def test_a_stopped_call_continues(project: Path):
    """Ctrl-C while pip waits for an index that does not answer; the next call completes the environment."""
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
    process = subprocess.Popen(
        [sys.executable, "install.py", "--torch", (project.parent / "cpu").as_uri()], cwd=project, text=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored where tests run with nohup
    )  # fmt: skip
    while not (project / ".venv/nullm.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    silent.close()
    assert process.returncode == 130 and complaints.endswith("Stopped. Type the same command again to continue.\n")
    assert "Traceback" not in complaints
    went_on = install(project)  # with the build that was chosen
    assert went_on.returncode == 0 and went_on.stdout.startswith("Continuing with .venv")
    assert installed(project) == {"torch-2.0+cpu"}


@pytest.mark.slow
def test_no_network_and_a_missing_package_are_told_apart(project: Path):
    line = refused(project, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    assert "the package index did not answer" in line and "PIP_INDEX_URL" in line

    (project / "requirements.txt").write_text("torch==2.0\nchequers==1.0\n", encoding="utf-8")
    done = install(project)
    assert done.returncode == 1 and "chequers==1.0" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: pip failed, for the reason above")

    (project / "requirements.txt").write_text("torch==2.0\n", encoding="utf-8")
    assert install(project).returncode == 0
    (project / "requirements.txt").unlink()
    assert "requirements.txt" in refused(project)


@pytest.mark.slow
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
    fake = SimpleNamespace(version_info=version, executable="/usr/bin/python3", argv=["install.py", "--with", "test"])
    monkeypatch.setattr(module, "sys", fake)
    monkeypatch.setattr(module, "starts", lambda name: name == "python3.12")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    with pytest.raises(
        module.SetupError, match=r"3\.11 to 3\.14 is needed, .* Another one is here: python3\.12 install"
    ):
        module.check_python()
    monkeypatch.setenv("MAKELEVEL", "1")
    with pytest.raises(module.SetupError, match=r"Another one is here: add PYTHON=python3\.12 to the command"):
        module.check_python()
    monkeypatch.setattr(module, "starts", lambda name: False)
    with pytest.raises(module.SetupError, match=r"Install one of these, then: add PYTHON=python3\.13"):
        module.check_python()


def test_a_python_that_cannot_make_environments_names_the_debian_package(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(module.SetupError, match=rf"sudo apt install python3\.{sys.version_info[1]}-venv"):
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
    with pytest.raises(module.SetupError, match=r"1\.7 GB are needed .* 100 MB are free"):
        module.announce("run", "cpu", {}, is_new=True)


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


@pytest.mark.slow
def test_what_only_docs_and_tests_need_is_imported_by_no_module_but_two():
    """So training, serving, learning and the container run without them, and the site is built with the two mocked."""
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
from deployment.main_command import main
main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needing = re.findall(r"^([a-z_.]+) ([a-z_]+)$", done.stdout.split("usage:")[0], re.MULTILINE)
    assert sorted(needing) == [
        ("attention.flash_attention_triton", "triton"),
        ("evaluation.tasks.lm_eval_adapter", "lm_eval"),
    ]
    mocked = re.search(r"autodoc_mock_imports = (.*)", (ROOT / "docs/conf.py").read_text("utf-8"))
    assert mocked and all(f'"{name}"' in mocked[1] for _, name in needing)


def test_the_readme_names_the_pinned_pytorch():
    named = re.findall(r"torch==(\S+)", (ROOT / "README.md").read_text("utf-8"))
    assert named and {f"=={version}" for version in named} == {str(pins("")["torch"].specifier)}


def test_a_pin_holds_on_every_system_and_python():
    """There is one version for all builds, and none for Triton: PyTorch's CUDA build needs exactly one itself."""
    everything = pins("", "-docs", "-test")
    assert {name for name, pin in everything.items() if pin.marker} == {"triton"}
    assert not everything["triton"].specifier

"""Set up .venv, the environment in which everything here runs. Nothing but Python is needed.

python install.py                  to train, generate, serve and learn
python install.py --with docs      the same, and to build the site (make docs)
python install.py --with test      the same, and to test and to measure speed (make test, make bench)
python install.py --torch cpu      with the CPU build of PyTorch: on Linux 250 MB to fetch in all, instead of 2.8 GB

`make` calls this before every command. Where nothing is missing it says nothing and takes a tenth of a second. It can be interrupted
at any time: the next call goes on from there.
"""

# A Python that is too old must be able to read this file to its end, to say so: nothing newer than Python 3.6 is used.

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLD_VENV = ROOT / ".venv.old"  # while another one is made
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "nullm.json"  # what was installed here, and for which folder

OLDEST, NEWEST = (3, 11), (3, 14)  # every pinned package has a build for these Pythons
SYSTEMS = {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "amd64")}  # and for these systems
PYTORCH_INDEXES = "https://download.pytorch.org/whl/"

# Each part includes those before it, as its file does with `-r`.
PARTS = ("run", "docs", "test")
FILES = {"run": "requirements.txt", "docs": "requirements-docs.txt", "test": "requirements-test.txt"}
PURPOSES = {"run": "train, generate, serve and learn", "docs": "build the site", "test": "test and measure speed"}

# Megabytes to fetch, and then on disk. `make resolve` compares the first with what the package index has.
SIZES = {
    "the CUDA build of PyTorch": (2740, 4600),
    "the CPU build of PyTorch": (190, 760),
    "PyTorch for macOS": (111, 550),
    "PyTorch for Windows": (122, 550),
    "run": (60, 420),
    "docs": (25, 100),
    "test": (320, 1400),
}


class SetupError(Exception):
    """What keeps the environment from being set up, in one line with the way out."""


def main() -> int:
    """Set up what is asked for, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="part", choices=PARTS[1:], default="run", help="install what this needs, too")
    parser.add_argument(
        "--torch",
        metavar="BUILD",
        help="the build of PyTorch: cpu, cu130, … (a folder of download.pytorch.org/whl), the address of another such "
        "index, or default (the package index decides: on Linux a CUDA build). Later calls keep what was chosen",
    )
    parser.add_argument(
        "--keep-python",
        action="store_true",
        help="keep an environment that was made with another Python (as make does without PYTHON=…)",
    )
    options = parser.parse_args()
    try:
        if is_needed(options):
            with lock():
                if is_needed(options):  # another call may have done it while this one waited
                    set_up(options)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is lost: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def is_needed(options: argparse.Namespace) -> bool:
    """Whether something is missing, or is not as it was asked for."""
    state = read_state()
    return state["parts"].get(options.part) != digest(options.part) or reason_to_replace(options, state) != ""


def set_up(options: argparse.Namespace) -> None:
    """Make the environment if there is no good one, and install what it lacks.

    Raises:
        SetupError: this Python, this system, the disk or the package index does not allow it.
    """
    start = time.monotonic()
    state = read_state()
    reason = reason_to_replace(options, state)
    torch = options.torch or state.get("torch", "default")
    parts = {} if reason else dict(state["parts"])
    if reason or not VENV.exists():
        check_python()
        check_system()
    announce(options.part, torch, parts, reason)
    with old_environment_kept(reason != ""):
        if reason or not VENV.exists():
            make_environment()
        write_state(torch, parts)
        install(options.part, torch)
        write_state(torch, {**parts, **{part: digest(part) for part in included(options.part)}})
    seconds = round(time.monotonic() - start)
    print(f"\n.venv is ready after {seconds // 60} min {seconds % 60} s.\n", flush=True)


# What is there already


def read_state() -> "dict[str, Any]":
    """What the last call wrote into the environment."""
    try:
        state = json.loads(STAMP.read_text(encoding="utf-8"))
        return state if isinstance(state["parts"], dict) else {"parts": {}}
    except (OSError, ValueError, KeyError, TypeError):
        return {"parts": {}}


def write_state(torch: str, parts: "dict[str, str]") -> None:
    """Write what is installed, for the next call; the file appears whole or not at all."""
    state = {"folder": str(ROOT), "python": python_of_environment(), "torch": torch, "parts": parts}
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(state, indent=1), encoding="utf-8")
    os.replace(str(new), str(STAMP))


def included(part: str) -> "tuple[str, ...]":
    """The part and those that it includes."""
    return PARTS[: PARTS.index(part) + 1]


def digest(part: str) -> str:
    """Hash of the files that say what a part needs: where they change, it is installed again."""
    names = [FILES[each] for each in included(part)] + ["pyproject.toml"]
    return hashlib.sha256(b"".join(Path(ROOT, name).read_bytes() for name in names)).hexdigest()


def python_of_environment() -> str:
    """Its version, such as "3.12"; empty where it does not start."""
    command = [str(VENV_PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return run.stdout.decode().strip() if run.returncode == 0 else ""


def reason_to_replace(options: argparse.Namespace, state: "dict[str, Any]") -> str:
    """Why the environment that is there cannot be used; empty where it can, or where there is none."""
    if not VENV.exists() and not VENV.is_symlink():
        return ""
    python, own = python_of_environment(), version(sys.version_info)
    if not python or python != state.get("python", python):
        return "its Python does not start, or is not the one that it was made with"
    if state.get("folder", str(ROOT)) != str(ROOT):
        return f"it was made for the folder {state['folder']}"
    if not OLDEST <= tuple(map(int, python.split("."))) <= NEWEST:
        return f"it has Python {python}, and {version(OLDEST)} to {version(NEWEST)} can be used"
    if python != own and not options.keep_python:
        return f"it has Python {python}, and {own} was asked for"
    if options.torch and options.torch != state.get("torch", options.torch):
        return f"it has PyTorch's build {state['torch']!r}, and {options.torch!r} was asked for"
    return ""


def version(numbers: "tuple[Any, ...]") -> str:
    """(3, 12, …) as "3.12"."""
    return f"{numbers[0]}.{numbers[1]}"


# What this machine must have


def check_python() -> None:
    """Check that this Python can make the environment.

    Raises:
        SetupError: it is too old or too new, or lacks a part; names another one where there is one.
    """
    if not OLDEST <= tuple(sys.version_info[:2]) <= NEWEST:
        others = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        other = next((name for name in others if starts(name)), "")
        choice = f"`make setup PYTHON={other}`" if "MAKELEVEL" in os.environ else f"`{other} install.py`"
        raise SetupError(
            f"Python {version(OLDEST)} to {version(NEWEST)} is needed, and {sys.executable} is "
            f"{platform.python_version()}. "
            + (f"Another one is here: {choice}" if other else "Install one of these, then make setup PYTHON=its name")
        )
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        kind = f"{sys.implementation.name} for {64 if sys.maxsize > 2**32 else 32} bits"
        raise SetupError(f"the packages are built for CPython with 64 bits, and {sys.executable} is {kind}")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python cannot make environments, because its modules venv and ensurepip are not installed. On Debian "
            f"and Ubuntu: apt install python{version(sys.version_info)}-venv"
        ) from None


def starts(command: str) -> bool:
    """Whether there is such a Python, and it runs."""
    path = shutil.which(command)
    return path is not None and subprocess.call([path, "-c", "import venv"], stderr=subprocess.DEVNULL) == 0


def check_system() -> None:
    """Check that there are builds of PyTorch for this system.

    Raises:
        SetupError: there are none; says for which there are.
    """
    system, machine = sys.platform, platform.machine().lower()
    found = f"{platform.system()} on {platform.machine()}"
    if system == "linux" and platform.libc_ver()[0] != "glibc":
        machine, found = "", f"{found} without glibc"
    if system == "darwin" and int((platform.mac_ver()[0] or "0").split(".")[0]) < 14:
        machine, found = "", f"macOS {platform.mac_ver()[0]}"
    if (system, machine) not in SYSTEMS:
        raise SetupError(
            f"PyTorch has no build for {found}. It has some for Linux with glibc (x86_64, aarch64), macOS 14 or newer on "
            "Apple silicon and Windows with 64 bits (AMD64); a container of one of these works as well"
        )


def announce(part: str, torch: str, installed: "dict[str, str]", reason: str) -> None:
    """Say what will be done and how much it fetches, before it begins.

    Raises:
        SetupError: the disk has not enough room for it.
    """
    if reason:
        print(f"The .venv that is here is replaced: {reason}.")
    missing = [each for each in included(part) if each not in installed]
    if not missing:
        print("The tested versions have changed; installing the new ones into .venv.", flush=True)
        return
    build = build_of(torch)
    sizes = [SIZES[each] for each in missing] + ([SIZES[build]] if "run" in missing else [])
    fetched, on_disk = (sum(column) for column in zip(*sizes))  # noqa: B905  (strict= came with Python 3.10)
    purposes = ", to ".join(PURPOSES[each] for each in missing)
    begun = VENV.exists() and not reason
    what = "Adding to .venv what is needed" if begun else f"Making .venv with Python {platform.python_version()},"
    print(f"{what} to {purposes}.")
    print(f"It fetches about {size(fetched)} and takes about {size(on_disk)} on this disk.", flush=True)
    if "run" in missing and "CUDA" in build:
        print(f"Most of it is {build}.", end="")
        if not shutil.which("nvidia-smi"):
            command = "make setup TORCH=cpu" if "MAKELEVEL" in os.environ else "python install.py --torch cpu"
            small = size(fetched - SIZES[build][0] + SIZES["the CPU build of PyTorch"][0])
            print(f" No NVIDIA GPU was found here; the CPU build needs {small} in all: {command}", end="")
        print(flush=True)
    free = shutil.disk_usage(str(ROOT)).free / 1e6
    if free < fetched + on_disk:
        raise SetupError(f"there are {size(free)} free on this disk, and {size(fetched + on_disk)} are needed")


def build_of(torch: str) -> str:
    """The line of `SIZES` for a build of PyTorch on this system."""
    if sys.platform == "darwin":
        return "PyTorch for macOS"
    if torch.rstrip("/").rsplit("/", 1)[-1] == "cpu":
        return "the CPU build of PyTorch"
    return "PyTorch for Windows" if sys.platform == "win32" and torch == "default" else "the CUDA build of PyTorch"


def size(megabytes: float) -> str:
    """Such as "2.8 GB" or "250 MB"."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 950 else f"{megabytes:.0f} MB"


# What is done


@contextlib.contextmanager
def lock() -> "Iterator[None]":
    """Let one call at a time work in this folder; the others wait. A call that dies leaves no lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(str(ROOT), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another call sets up .venv at this moment; waiting for it …", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass  # a network disk without locks
    try:
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def old_environment_kept(is_replaced: bool) -> "Iterator[None]":
    """Keep an environment that works until the one that replaces it is complete; if that fails, put it back.

    Args:
        is_replaced: whether there is such a one.

    Raises:
        SetupError: it cannot be moved.
    """
    if not is_replaced or not python_of_environment() or VENV.is_symlink():
        yield
        return
    shutil.rmtree(str(OLD_VENV), ignore_errors=True)
    try:
        VENV.rename(OLD_VENV)
    except OSError as error:
        raise SetupError(f"{VENV} is in use ({error.strerror}); close the programs that run from it") from None
    try:
        yield
    except BaseException:
        shutil.rmtree(str(VENV), ignore_errors=True)
        OLD_VENV.rename(VENV)
        print("The .venv that was here before is in its place again.", file=sys.stderr)
        raise
    shutil.rmtree(str(OLD_VENV), ignore_errors=True)


def make_environment() -> None:
    """Make .venv with this Python, in the place of one that there may be.

    Raises:
        SetupError: what is there is not an environment, or cannot be replaced.
    """
    if VENV.is_symlink() and not VENV.exists():
        VENV.unlink()
    parts = {"bin", "lib", "lib64", "include", "share", "scripts", "pyvenv.cfg", ".gitignore", ".lock", "nullm.json"}
    strange = [path.name for path in VENV.iterdir() if path.name.lower() not in parts] if VENV.is_dir() else []
    if strange or VENV.is_file():
        what = f"has {strange[0]!r} in it" if strange else "is a file"
        raise SetupError(f"{VENV} {what} and is not an environment of Python; move it away, then repeat the command")
    base = getattr(sys, "_base_executable", sys.executable)  # what an activated .venv was made with
    run = subprocess.run(
        [base, "-m", "venv", "--clear", str(VENV)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if run.returncode:
        line = (run.stdout.strip().splitlines() or ["no reason given"])[-1]
        raise SetupError(f"{base} could not make {VENV}: {line}")


def install(part: str, torch: str) -> None:
    """Install the pinned packages of a part, and of those that it includes.

    Args:
        part: of `PARTS`.
        torch: which build; see ``--torch``.

    Raises:
        SetupError: pip could not.
    """
    if subprocess.call([str(VENV_PYTHON), "-c", "import pip"], stderr=subprocess.DEVNULL):
        subprocess.check_call([str(VENV_PYTHON), "-m", "ensurepip"], stdout=subprocess.DEVNULL)
    pip("install", "--quiet", "--upgrade", "--retries", "1", "pip")
    also = []
    if torch != "default":
        pin = re.search("^torch==.*", Path(ROOT, FILES["run"]).read_text(encoding="utf-8"), re.MULTILINE)
        assert pin is not None
        index = torch if ":/" in torch else PYTORCH_INDEXES + torch
        # What PyTorch needs comes from the usual index: there it is newer, and mirrors of PyTorch's do not have it.
        pip("install", "--no-deps", "--index-url", index, pin.group())
        if build_of(torch) != "the CPU build of PyTorch":
            also = ["--extra-index-url", index]  # some builds need a Triton of their own, which is only there
    pip("install", "-r", FILES[part], *also)


def pip(*arguments: str) -> None:
    """Run pip. Its progress is shown as it comes; its complaints are kept, and explained if it fails.

    Raises:
        SetupError: it failed.
    """
    # A personal configuration for packages of the user (PIP_USER) would be refused inside an environment.
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0")
    command = [str(VENV_PYTHON), "-m", "pip", *arguments]
    with subprocess.Popen(
        command, cwd=str(ROOT), env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        complaints = process.stderr.read()
    if process.returncode == 0:
        return
    if process.returncode in (-2, 130):
        raise KeyboardInterrupt
    if re.search("after connection broken|ConnectionError|Read timed out|ProxyError", complaints):
        raise SetupError(
            "the package index does not answer. Is there a network? Behind a proxy set HTTPS_PROXY, for a mirror set "
            "PIP_INDEX_URL; then repeat the command, it goes on from here"
        )
    if "No space left" in complaints:
        raise SetupError("the disk is full; make room, then repeat the command: it goes on from here")
    print(complaints, file=sys.stderr)
    raise SetupError(f"`pip {' '.join(arguments)}` failed, for the reason above; after that, the same command goes on")


if __name__ == "__main__":
    sys.exit(main())

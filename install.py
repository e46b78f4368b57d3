"""Set up .venv, the environment in which everything here runs.

python3 install.py                  to train, generate, serve and learn
python3 install.py --with docs      also to build the site (make docs)
python3 install.py --with test      also to test and to measure speed (make test, make bench)
python3 install.py --torch cpu      with the CPU build of PyTorch: on Linux 310 MB to download in all, instead of 2.9 GB

It needs only Python and a package index. `make` calls it before every command. If nothing is missing, it prints
nothing and takes a tenth of a second. It can be stopped at any time, and the next call continues. It never deletes an
environment: if it cannot use the existing one, it says why.
"""

# A Python that is too old must read this file to its end to say so. So nothing newer than Python 3.6 is used here.

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
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "nullm.json"  # what was installed, and for which folder

OLDEST, NEWEST = (3, 11), (3, 14)  # every pinned package has a build for these Pythons
SYSTEMS = {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "amd64")}  # and for these systems
BUILD = r"(cpu|xpu|cu\d{3}|rocm\d[\d.]*)$"
BUILD_OR_INDEX = BUILD + "|(https?|file)://"
PYTORCH_INDEXES = "https://download.pytorch.org/whl/"
AGAIN = "then type the same command again"

# Each part includes the parts before it, because its file includes theirs with `-r`.
PARTS = ("run", "docs", "test")
FILES = {"run": "requirements.txt", "docs": "requirements-docs.txt", "test": "requirements-test.txt"}
PURPOSES = {"run": "train, generate, serve and learn", "docs": "build the site", "test": "test and measure speed"}

# Megabytes to download, and then on disk. `make resolve` compares the first with what the package index has.
SIZES = {
    "the CUDA build of PyTorch": (2740, 4600),
    "the CPU build of PyTorch": (190, 760),
    "PyTorch for macOS": (111, 550),
    "PyTorch for Windows": (122, 550),
    "run": (120, 620),
    "docs": (25, 100),
    "test": (320, 1400),
}

# These variables would send packages to another place than .venv, or find packages there.
MISLEADING = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_DRY_RUN", "PYTHONPATH", "PYTHONHOME")
ENVIRONMENT = {key: text for key, text in os.environ.items() if key not in MISLEADING}
ENVIRONMENT.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")


class SetupError(Exception):
    """The reason why the environment cannot be set up, in one line with the way out."""


def main() -> int:
    """Set up the requested parts, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="part", choices=PARTS[1:], default="run", help="also install what this needs")
    parser.add_argument(
        "--torch",
        metavar="BUILD",
        type=str.strip,
        help="the build of PyTorch: cpu, cu130 and the like (a folder of download.pytorch.org/whl), or the address of "
        "another such index. Without it the package index decides: on Linux it has a CUDA build",
    )
    parser.add_argument(
        "--keep-python",
        action="store_true",
        help="use a .venv that was made with another Python (make does, where no PYTHON=... is typed)",
    )
    options = parser.parse_args()
    try:
        if not is_complete(options):
            with lock():
                if not is_complete(options):  # another process may have done it while this one waited
                    set_up(options)
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Type the same command again to continue.", file=sys.stderr)
        return 130
    return 0


def is_complete(options: argparse.Namespace) -> bool:
    """Whether all requested parts are installed.

    Raises:
        SetupError: there is an environment that cannot be used.
    """
    state = read_state()
    check_environment(options, state)
    return state["parts"].get(options.part) == digest(options.part) and installed_torch() != ""


def set_up(options: argparse.Namespace) -> None:
    """Make the environment if there is none, and install what it lacks.

    Raises:
        SetupError: this Python, this system, the disk or the package index makes it impossible.
    """
    start = time.monotonic()
    state = read_state()
    torch = options.torch or state["torch"]
    is_new = not (VENV / "pyvenv.cfg").exists()
    if is_new:
        check_python()
        check_system()
    announce(options.part, torch, state["parts"], is_new)
    if is_new:
        make_environment()
    write_state(torch, state["parts"])
    install(options.part, torch, is_new)
    if not installed_torch():
        raise SetupError(
            "pip reports success, but PyTorch is not in .venv. Does `pip config list` show a target or a prefix? Remove "
            f"it, {AGAIN}"
        )
    write_state(torch, dict(state["parts"], **{part: digest(part) for part in included(options.part)}))
    seconds = round(time.monotonic() - start)
    print(f"\n.venv is ready after {seconds // 60} min {seconds % 60} s.\n", flush=True)


# What is there already


def read_state() -> "dict[str, Any]":
    """The stamp that the last call wrote into the environment: parts with hashes, the build of PyTorch, the folder."""
    try:
        state = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        state = None
    state = state if isinstance(state, dict) else {}
    parts, torch = state.get("parts"), state.get("torch")
    return {
        "parts": parts if isinstance(parts, dict) else {},
        "torch": torch if isinstance(torch, str) and re.match(BUILD_OR_INDEX, torch) else "",
        "folder": str(state.get("folder") or ROOT),
    }


def write_state(torch: str, parts: "dict[str, str]") -> None:
    """Write the stamp for the next call. The file appears complete or not at all."""
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps({"folder": str(ROOT), "torch": torch, "parts": parts}, indent=1), encoding="utf-8")
    os.replace(str(new), str(STAMP))


def included(part: str) -> "tuple[str, ...]":
    """The part and the parts that it includes."""
    return PARTS[: PARTS.index(part) + 1]


def digest(part: str) -> str:
    """Hash of the files that say what a part needs. When they change, the part is installed again."""
    names = [FILES[each] for each in included(part)] + ["pyproject.toml"]
    return hashlib.sha256(b"".join(Path(ROOT, name).read_bytes() for name in names)).hexdigest()


def python_of_environment() -> str:
    """The version of the environment's Python, such as "3.12"; empty if it does not start."""
    command = [str(VENV_PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        run = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return run.stdout.decode().strip() if run.returncode == 0 else ""


def installed_torch() -> str:
    """The version of PyTorch in the environment, such as "2.13.0+cpu"; empty if there is none."""
    folders = [*VENV.glob("lib/python3*/site-packages"), VENV / "Lib" / "site-packages"]
    found = [path.name for folder in folders for path in folder.glob("torch-*.dist-info")]
    return found[0][len("torch-") : -len(".dist-info")] if found else ""


def check_environment(options: argparse.Namespace, state: "dict[str, Any]") -> None:
    """Check that there is no environment yet, or one that can be used.

    Raises:
        SetupError: there is one that cannot be used, or something else has its name.
    """
    if options.torch:
        check_build(options.torch)
    if VENV.is_symlink() and not VENV.exists():
        raise SetupError(f".venv is a link to {VENV.resolve()}, which is not there; delete the link, {AGAIN}")
    if not VENV.exists() or (VENV.is_dir() and not any(VENV.iterdir())):
        return
    if not (VENV / "pyvenv.cfg").is_file():
        raise SetupError(f"{VENV} is not an environment of Python: it has no file pyvenv.cfg. Move it away, {AGAIN}")
    made_with = re.search(r"^version\w* = (\d+\.\d+)", (VENV / "pyvenv.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    python, own = python_of_environment(), version(sys.version_info)
    reason = ""
    if not python:
        reason = "its Python does not start"
    elif made_with and python != made_with.group(1):
        reason = f"it was made with Python {made_with.group(1)}, and its Python is now {python}"
    elif not OLDEST <= tuple(map(int, python.split("."))) <= NEWEST:
        reason = f"it has Python {python}, and {version(OLDEST)} to {version(NEWEST)} can be used"
    elif python != own and not options.keep_python:
        reason = f"it has Python {python}, and you asked for {own}"
    elif state["folder"] != str(ROOT) and not is_same_folder(state["folder"]):
        reason = f"it was made for the folder {state['folder']}"
    elif options.torch and installed_torch() and sys.platform != "darwin":
        build = options.torch.rstrip("/").rsplit("/", 1)[-1]
        if re.match(BUILD, build) and installed_torch().partition("+")[2] != build:
            reason = f"it has PyTorch {installed_torch()}, and you asked for {build}"
    if reason:
        raise SetupError(f".venv cannot be used: {reason}. Delete the folder .venv, {AGAIN}")


def is_same_folder(path: str) -> bool:
    """Whether this is another path to the project's folder."""
    try:
        return Path(path).samefile(ROOT)
    except OSError:
        return False


def version(numbers: "tuple[Any, ...]") -> str:
    """(3, 12, 1) as "3.12"."""
    return f"{numbers[0]}.{numbers[1]}"


# What this machine must have


def check_build(torch: str) -> None:
    """Check the name of a build of PyTorch.

    Raises:
        SetupError: there is none of that name.
    """
    if not re.match(BUILD_OR_INDEX, torch):
        raise SetupError(
            f"{torch!r} is not a build of PyTorch. Take cpu, cu130 and the like (a folder of download.pytorch.org/whl), "
            "or the address of an index; without it, the package index decides"
        )


def check_python() -> None:
    """Check that this Python can make the environment.

    Raises:
        SetupError: it is too old or too new, or lacks a part; the message names another Python if there is one.
    """
    if not OLDEST <= tuple(sys.version_info[:2]) <= NEWEST:
        names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        other = next((name for name in names if starts(name)), "")
        is_make = "MAKELEVEL" in os.environ
        way = (
            f"add PYTHON={other or names[1]} to the command" if is_make else f"{other or names[1]} {' '.join(sys.argv)}"
        )
        raise SetupError(
            f"Python {version(OLDEST)} to {version(NEWEST)} is needed, and {sys.executable} is "
            f"{platform.python_version()}. {'Another one is here' if other else 'Install one of these, then'}: {way}"
        )
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        kind = f"{sys.implementation.name} for {64 if sys.maxsize > 2**32 else 32} bits"
        raise SetupError(f"CPython for 64 bits is needed, and {sys.executable} is {kind}. Install it, {AGAIN}")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = f"python{version(sys.version_info)}-venv"
        raise SetupError(
            "this Python cannot make environments: its modules venv and ensurepip are not installed. On Debian and "
            f"Ubuntu type sudo apt install {package}, {AGAIN}"
        ) from None


def starts(command: str) -> bool:
    """Whether there is such a Python, and it runs."""
    path = shutil.which(command)
    return path is not None and subprocess.call([path, "-c", "import venv"], stderr=subprocess.DEVNULL) == 0


def check_system() -> None:
    """Check that there are builds of PyTorch for this system.

    Raises:
        SetupError: there are none; the message names the systems that have builds.
    """
    system, machine = sys.platform, platform.machine().lower()
    found = f"{platform.system()} on {platform.machine()}"
    if system == "linux" and platform.libc_ver()[0] != "glibc":
        machine, found = "", f"{found} without glibc"
    if system == "darwin" and int((platform.mac_ver()[0] or "0").split(".")[0]) < 14:
        machine, found = "", f"macOS {platform.mac_ver()[0]}"
    if (system, machine) not in SYSTEMS:
        raise SetupError(
            f"PyTorch has no build for {found}. It has builds for Linux with glibc (x86_64, aarch64), macOS 14 or newer "
            "on Apple silicon, and 64-bit Windows (AMD64)"
        )


def announce(part: str, torch: str, installed: "dict[str, str]", is_new: bool) -> None:
    """Say what will be done and how much will be downloaded, before it begins.

    Raises:
        SetupError: the disk has too little room.
    """
    missing = [each for each in included(part) if each not in installed]
    if not missing:
        print("The requirements have changed; bringing .venv up to date.", flush=True)
        return
    build = build_of(torch)
    rows = [SIZES[each] for each in missing] + ([SIZES[build]] if "run" in missing else [])
    download, on_disk = sum(row[0] for row in rows), sum(row[1] for row in rows)
    begin = f"Making .venv with Python {platform.python_version()}" if is_new else "Continuing with .venv"
    print(f"{begin}: what is needed to {'; to '.join(PURPOSES[each] for each in missing)}.")
    print(
        f"About {size(download)} to download and {size(on_disk)} on disk; {size(download + on_disk)} while it installs."
    )
    if "run" in missing and "CUDA" in build:
        small = size(download - SIZES[build][0] + SIZES["the CPU build of PyTorch"][0])
        command = "make setup TORCH=cpu" if "MAKELEVEL" in os.environ else "python3 install.py --torch cpu"
        print(f"Most of it is {build}.", end=" ")
        if not shutil.which("nvidia-smi"):
            print("No NVIDIA GPU was found (no nvidia-smi). Without one, the CPU build is enough:")
            print(f"{small} to download in all. To take it, press Ctrl-C and type: {command}", end="")
        print(flush=True)
    if "run" in missing and "CPU" in build and shutil.which("nvidia-smi"):
        print("There is an NVIDIA GPU (nvidia-smi); this build of PyTorch does not use it.", flush=True)
    sys.stdout.flush()  # so that this comes before pip's lines, also in a file
    free = shutil.disk_usage(str(VENV if VENV.exists() else ROOT)).free / 1e6
    if free < download + on_disk and (is_new or "run" not in missing):  # otherwise a part of it is already there
        raise SetupError(
            f"{size(download + on_disk)} are needed on this disk, and {size(free)} are free. Make room"
            + (", or take the CPU build of PyTorch (TORCH=cpu)" if "CUDA" in build else "")
            + f", {AGAIN}"
        )


def build_of(torch: str) -> str:
    """The line of `SIZES` for a build of PyTorch on this system; "" is what the package index has."""
    if sys.platform == "darwin":
        return "PyTorch for macOS"
    if torch.rstrip("/").rsplit("/", 1)[-1] == "cpu":
        return "the CPU build of PyTorch"
    return "PyTorch for Windows" if sys.platform == "win32" and not torch else "the CUDA build of PyTorch"


def size(megabytes: float) -> str:
    """A size as text, such as "2.8 GB" or "250 MB"."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 950 else f"{megabytes:.0f} MB"


# What is done


@contextlib.contextmanager
def lock() -> "Iterator[None]":
    """Let one process at a time work in this folder, while the others wait. A process that dies leaves no lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(str(ROOT), os.O_RDONLY)
    os.set_inheritable(folder, True)  # pip keeps the lock if only this process is killed
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another process is setting up .venv; waiting for it.", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass  # a network disk without locks
    try:
        yield
    finally:
        os.close(folder)


def make_environment() -> None:
    """Make .venv with this Python. If that fails, nothing of it is left.

    Raises:
        SetupError: it failed.
    """
    folder = VENV.resolve()  # .venv may be a link to an empty folder on a larger disk
    base = getattr(sys, "_base_executable", sys.executable)  # the Python that an activated environment was made with
    try:
        subprocess.run(
            [base, "-m", "venv", str(folder)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        remove_content(folder)
        print(error.stdout.decode(errors="replace").strip(), file=sys.stderr)
        raise SetupError(f"Python could not make {folder}, for the reason above. Remove the reason, {AGAIN}") from None
    except BaseException:
        remove_content(folder)
        raise


def remove_content(folder: Path) -> None:
    """Delete the files of an unfinished `make_environment`; its folder was empty or did not exist."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()


def install(part: str, torch: str, is_new: bool) -> None:
    """Install the pinned packages of a part, and of those that it includes.

    Args:
        part: one of `PARTS`.
        torch: the build of PyTorch; see ``--torch``.
        is_new: whether the environment was made in this call.

    Raises:
        SetupError: pip could not install them.
    """
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # type: dict[str, Any]
    module = [str(VENV_PYTHON), "-m"]
    if subprocess.call([*module, "pip", "--version"], **quiet) and subprocess.call([*module, "ensurepip"], **quiet):
        raise SetupError(f".venv has no pip that starts, and cannot get one. Delete the folder .venv, {AGAIN}")
    if is_new:
        pip("install", "--quiet", "--upgrade", "--retries", "1", "pip")
    also = []
    if torch and sys.platform != "darwin":  # there is only one build for macOS
        pin = re.search("^torch==.*", Path(ROOT, FILES["run"]).read_text(encoding="utf-8"), re.MULTILINE)
        if pin is None:
            raise SetupError(f"{FILES['run']} does not say torch==..., so --torch does not know which version to take")
        index = torch if "://" in torch else PYTORCH_INDEXES + torch
        # PyTorch's requirements come from the usual index: they are newer there, and mirrors of PyTorch's lack them.
        pip("install", "--no-deps", "--index-url", index, pin.group().strip())
        if build_of(torch) != "the CPU build of PyTorch":
            also = ["--extra-index-url", index]  # some builds need their own version of Triton, which is only there
    pip("install", "-r", FILES[part], *also)


def pip(*arguments: str) -> None:
    """Run pip. Its progress is shown at once; its error messages are kept, and explained if it fails.

    Raises:
        SetupError: it failed.
    """
    command = [str(VENV_PYTHON), "-m", "pip", *arguments]
    with subprocess.Popen(command, cwd=str(ROOT), env=ENVIRONMENT, stderr=subprocess.PIPE, close_fds=False) as process:
        assert process.stderr is not None
        complaints = process.stderr.read().decode(errors="replace")
    if process.returncode == 0:
        return
    if process.returncode in (-2, 130):
        raise KeyboardInterrupt
    errors = [line for line in complaints.splitlines() if "WARNING: Retrying" not in line]
    print("\n".join(errors), file=sys.stderr)
    if "CERTIFICATE_VERIFY_FAILED" in complaints:
        raise SetupError(
            "the package index answers with a certificate that this machine does not know. If it is your company's, set "
            f"PIP_CERT to its file, {AGAIN}"
        )
    if re.search("after connection broken|Read timed out", complaints):
        raise SetupError(
            "the package index did not answer, or not every time. Check the network. Behind a proxy, set HTTPS_PROXY; "
            f"for a mirror, set PIP_INDEX_URL; {AGAIN}"
        )
    if "No space left" in complaints:
        raise SetupError(f"the disk is full. Make room, {AGAIN}")
    raise SetupError(f"pip failed, for the reason above. Correct it, {AGAIN}: what is installed is kept")


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a folder's name may have characters that the terminal lacks
    sys.exit(main())

"""Check that everybody can get the pinned versions. It asks the package index as a new machine, and installs nothing.

    python tests/resolve_requirements.py        # `make resolve`, about a minute

1. pip resolves all pins for this Python, in a new environment and without any configuration of this machine: no
   folder of wheels, no second index, no constraints. With those, a pin could pass here because of a file on this disk
   and fail everywhere else.
2. uv resolves them for all systems at once. Every Python and system that ``install.py`` accepts must find a wheel of
   each package, because a package that must be compiled fails where there is no compiler.
3. The size of the downloads is compared with the size that ``install.py`` announces.

If no index answers, it says so and skips all three checks.
"""

from __future__ import annotations

import itertools
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[1]
INSTALL = runpy.run_path(str(ROOT / "install.py"))
PYTHONS = list(range(INSTALL["OLDEST"][1], INSTALL["NEWEST"][1] + 1))  # 3.11, 3.12, …
# These are published only as source, but they are pure Python, so they build everywhere. lm_eval needs all of them.
SOURCE_ONLY = ("rouge-score", "sqlitedict", "word2number")
TOLERANCE = 0.35  # install.py announces one number for all systems


def main() -> int:
    """Run the three checks; 0 if everything resolves, or if there is no index to ask."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        pip = new_pip(folder / "environment")
        if run([*pip, "download", "--quiet", "--no-deps", "--retries=1", "--dest", name, "pip"]).returncode:
            print("skipped: no package index answers without the pip configuration of this machine")
            return 0
        here = pool.submit(run, [*pip, "install", "--dry-run", "--ignore-installed", "-r", INSTALL["FILES"]["test"]])
        files = [INSTALL["FILES"][part] for part in ("run", "test")]
        locks = list(pool.map(lambda requirements: resolve_for_all(requirements, folder), files))
        done = here.result()
    outcome = "fails" if done.returncode else f"{done.stdout.rpartition('Would install ')[2].count(' ') + 1} packages"
    print(f"Python {platform.python_version()} on this machine, by pip: {outcome}")
    problems = [f"pip: {done.stderr.strip()}"] if done.returncode else []
    problems += [lock for lock in locks if isinstance(lock, str)]
    for system, minor in itertools.product(sorted(INSTALL["SYSTEMS"]), PYTHONS) if not problems else ():
        run_part, everything = (files_to_fetch(lock, system, minor) for lock in locks)
        missing = [name for name, size in everything.items() if size is None]
        problems += [f"{name} has no wheel for Python 3.{minor} on {' '.join(system)}" for name in missing]
        small, large = (sum(size or 0 for size in part.values()) / 1e6 for part in (run_part, everything))
        print(
            f"Python 3.{minor} on {' '.join(system)}: {len(everything)} packages, {small:,.0f} MB, {large:,.0f} to test"
        )
        problems += wrong_sizes(system, small, large)
    print("\n".join(problems) if problems else "Everything resolves, and is as large as install.py announces.")
    return 1 if problems else 0


def new_pip(folder: Path) -> list[str]:
    """The start of a command with the newest pip, as ``install.py`` uses it, in a separate environment."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")), "-m", "pip"]
    run([*pip, "install", "--quiet", "--upgrade", "--retries=1", "pip"])
    return pip


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run without this machine's settings for pip and uv, except certificates and proxies."""
    kept = ("PIP_CERT", "PIP_PROXY")
    environment = {key: text for key, text in os.environ.items() if key in kept or not key.startswith(("PIP_", "UV_"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def resolve_for_all(requirements: str, folder: Path) -> list[dict[str, Any]] | str:
    """Every package that some system needs, with all its wheels; or uv's reason if there is no solution."""
    lock = folder / f"pylock.{Path(requirements).stem}.toml"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--format", "pylock.toml"]
    command += ["--python-version", f"3.{PYTHONS[0]}", "--output-file", str(lock), requirements]
    done = run(command)
    return done.stderr.strip() if done.returncode else tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]


def files_to_fetch(packages: list[dict[str, Any]], system: tuple[str, str], minor: int) -> dict[str, int | None]:
    """The bytes of each package that a Python on a system needs; None if the package has no wheel for it."""
    tags = wheel_tags(system, minor)
    sizes: dict[str, int | None] = {}
    for package in packages:
        name = package["name"]
        if "directory" in package or not Marker(package.get("marker", "python_version > '3'")).evaluate(
            marker_values(system, minor)
        ):
            continue  # the project itself, or not for this system
        wheels = [wheel for wheel in package.get("wheels", []) if tags & wheel_file_tags(wheel["url"])]
        source = [package["sdist"]] if name in SOURCE_ONLY else []
        sizes[name] = min((file["size"] for file in wheels or source), default=None)
    return sizes


def wheel_file_tags(url: str) -> frozenset[Tag]:
    """The Pythons and systems of a wheel, read from its name."""
    return parse_wheel_filename(url.rsplit("/", 1)[-1])[3]


def wheel_tags(system: tuple[str, str], minor: int) -> set[Tag]:
    """The wheels that a Python accepts on the oldest system that PyTorch supports: glibc 2.28, macOS 14."""
    platforms = {
        "linux": [f"manylinux_2_{libc}_{system[1]}" for libc in range(28, 4, -1)],
        "darwin": list(mac_platforms((14, 0), "arm64")),
        "win32": ["win_amd64"],
    }[system[0]]
    platforms += [f"manylinux{year}_{system[1]}" for year in (2014, 2010, 1)]
    interpreter = f"cp3{minor}"
    return {*cpython_tags((3, minor), platforms=platforms), *compatible_tags((3, minor), interpreter, platforms)}


def marker_values(system: tuple[str, str], minor: int) -> dict[str, str]:
    """The values that decide the conditions of requirements."""
    name = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system[0]]
    return {
        "sys_platform": system[0],
        "platform_system": name,
        "platform_machine": "AMD64" if system[0] == "win32" else system[1],
        "os_name": "nt" if system[0] == "win32" else "posix",
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def wrong_sizes(system: tuple[str, str], run_part: float, everything: float) -> list[str]:
    """The sizes that ``install.py`` announces and that are too far from the truth for a system."""
    sizes = {name: size[0] for name, size in INSTALL["SIZES"].items()}
    torch = {"linux": "the CUDA build of PyTorch", "darwin": "PyTorch for macOS", "win32": "PyTorch for Windows"}
    pairs = [
        ("to run", sizes[torch[system[0]]] + sizes["run"], run_part),
        ("to test", sizes["docs"] + sizes["test"], everything - run_part),
    ]
    return [
        f"install.py announces {announced} MB {what} on {' '.join(system)}, and it is {size:.0f}"
        for what, announced, size in pairs
        if abs(announced / size - 1) > TOLERANCE
    ]


if __name__ == "__main__":
    sys.exit(main())

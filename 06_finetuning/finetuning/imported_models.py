"""Other people's models as checkpoints of this project: what `import_weights.py` does, and what every program does by itself.

A program that takes a checkpoint takes a folder of Hugging Face weights, a GGUF file or a name on the hub as well. It is
imported once, into a folder beside the original, and again only if the original has changed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from finetuning.base_model import load_base
from finetuning.data.chat_format import chat_template
from finetuning.published_models import PUBLISHED, fetch
from finetuning.vocabulary_extension import teach_template
from training.checkpoints.checkpoint import find_checkpoint, list_checkpoints, read_settings
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.run.run_folder import RunFolder
from transformer.pretrained import find_folder

IMPORTED = "nullm_import"  # the folder beside the original
STAMP = "imported_from"  # in the settings: the original's files with their sizes and times


def import_model(source: str, run: Path, context_length: int | None = None, template: str | None = None) -> Path:
    """Write a checkpoint.

    Args:
        source: a folder of Hugging Face weights, a GGUF file, a name on the hub, or a key of `PUBLISHED`.
        run: folder of the new run.
        context_length: a shorter context than the model's, to save memory.
        template: name of a chat template, for a model that has none of its own.

    Returns:
        The checkpoint's folder.

    Raises:
        PretrainedError, TokenizerError, CheckpointError, UserError: it cannot be read or written; in one line.
    """
    path = str(fetch(source)) if source in PUBLISHED else source
    model, tokenizer = load_base(path, context_length)
    if template is not None:
        tokenizer = teach_template(model, tokenizer, chat_template(template))
    settings = {"base": source, "chat_template": template, "model": model.config.to_dict(), STAMP: _stamp(path)}
    with RunFolder(run):
        return save_checkpoint(run, 0, model_weights(model), tokenizer, settings)


def is_foreign(source: str | Path) -> bool:
    """Whether this names a model that has to be imported: not a run, not a checkpoint, not an unknown path."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix.lower() == ".gguf"
    if path.is_dir():
        return (path / "config.json").exists() and not list_checkpoints(path) and not (path / "manifest.json").exists()
    name = str(source)
    return name in PUBLISHED or (name.count("/") == 1 and not name.startswith((".", "/", "~", "checkpoints/")))


def checkpoint_of(source: str | Path) -> Path:
    """The checkpoint itself, or that of a model which is imported first.

    Args:
        source: a run, a checkpoint, or what `import_model` reads.

    Raises:
        CheckpointError: there is no such checkpoint.
        PretrainedError, TokenizerError, UserError: the model cannot be imported.
    """
    source = Path(source).expanduser() if str(source).startswith("~") else source
    if not is_foreign(source):
        return find_checkpoint(source)
    original = _original(str(source))
    run = _beside(original)
    if list_checkpoints(run):
        folder = find_checkpoint(run)
        if read_settings(folder).get(STAMP) == _stamp(str(original)):
            return folder
        shutil.rmtree(run)
    print(f"Importing {source} into {run}, once …", flush=True)
    return import_model(str(original), run)


def _original(source: str) -> Path:
    if source in PUBLISHED:
        return fetch(source)
    return Path(source) if Path(source).is_file() else find_folder(source)


def _beside(original: Path) -> Path:
    """Where the import goes: beside the original, or into `checkpoints` where that cannot be written."""
    parent = original.parent if original.is_file() else original
    name = f"{original.stem}.{IMPORTED}" if original.is_file() else IMPORTED
    return parent / name if os.access(parent, os.W_OK) else Path("checkpoints") / f"{original.stem}.{IMPORTED}"


def _stamp(source: str) -> list[list[object]]:
    """Names, sizes and times of the original's files."""
    path = Path(source)
    if not path.exists():
        return []
    patterns = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
    files = [path] if path.is_file() else sorted({file for pattern in patterns for file in path.glob(pattern)})
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]

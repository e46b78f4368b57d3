"""Other people's models as checkpoints of this project: what `import_weights.py` does, and what every program does by itself.

A program that takes a checkpoint takes a folder of Hugging Face weights, a GGUF file or a name on the hub as well. It is
imported once, into a folder beside the original, and again only if the original has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from finetuning.base_model import is_foreign, load_base, original_of
from finetuning.data.chat_format import chat_template
from finetuning.vocabulary_extension import teach_template
from groundwork.tensor_files import is_finite
from training.checkpoints.checkpoint import find_checkpoint, list_checkpoints, read_settings
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.run.run_folder import RunFolder
from transformer.pretrained_family import PretrainedError

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
    model, tokenizer = load_base(source, context_length)
    if template is not None:
        tokenizer = teach_template(model, tokenizer, chat_template(template))
    stamp = _stamp(original_of(source)) if is_foreign(source) else []
    settings = {"base": source, "chat_template": template, "model": model.config.to_dict(), STAMP: stamp}
    weights = {name: _narrowest(tensor) for name, tensor in model_weights(model).items()}
    if damaged := [name for name, tensor in weights.items() if not is_finite(tensor)]:
        raise PretrainedError(f"{source}: the numbers of {damaged[0]} are not all finite; the file is damaged")
    with RunFolder(run):
        return save_checkpoint(run, 0, weights, tokenizer, settings)


def _narrowest(weight: Tensor) -> Tensor:
    """The same numbers in the smallest type that loses nothing: that in which they were published, as a rule."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal((narrow := weight.to(dtype)).to(weight.dtype), weight):
            return narrow
    return weight


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
    original = original_of(source)
    run = _beside(original)
    if list_checkpoints(run):
        folder = find_checkpoint(run)
        if read_settings(folder).get(STAMP) == _stamp(original):
            return folder
        shutil.rmtree(run)
    print(f"Importing {source} into {run}, once …", flush=True)
    return import_model(str(source), run)


def is_import_of(folder: Path, source: str) -> bool:
    """Whether a checkpoint was imported from this source, as the source is now."""
    settings = read_settings(folder)
    return settings.get("base") == source and settings.get(STAMP) == _stamp(original_of(source))


def _beside(original: Path) -> Path:
    """Where the import goes: beside the original, or into `checkpoints` where that cannot be written."""
    parent = original.parent if original.is_file() else original
    name = f"{original.name}.{IMPORTED}" if original.is_file() else IMPORTED
    if os.access(parent, os.W_OK):
        return parent / name
    place = hashlib.sha256(str(original.resolve()).encode()).hexdigest()[:8]  # others may have the same name
    return Path("checkpoints") / f"{original.name}-{place}.{IMPORTED}"


def _stamp(original: Path) -> list[list[object]]:
    """Names, sizes and times of the original's files."""
    patterns = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
    whole_folder = {file for pattern in patterns for file in original.glob(pattern)}
    files = [original] if original.is_file() else sorted(whole_folder)
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]

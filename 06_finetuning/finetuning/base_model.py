"""What fine-tuning starts from: a checkpoint of this project, or Hugging Face weights."""

from __future__ import annotations

from pathlib import Path

from finetuning.data.chat_format import ChatTemplate, chat_template
from tokenizer.huggingface_files import load_huggingface
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.interop import load_gpt2_files
from training.checkpoints.checkpoint import (
    CheckpointError,
    load_model,
    read_checkpoint,
    read_settings,
    require_rows,
)
from transformer.gpt_model import GPTModel
from transformer.pretrained import find_folder, load_pretrained
from transformer.pretrained_family import PretrainedError


def load_base(source: str, context_length: int | None = None) -> tuple[GPTModel, Tokenizer]:
    """A model with its tokenizer, on the CPU in float32.

    Args:
        source: a run's folder, a checkpoint, a folder of Hugging Face weights, or a name on the hub.
        context_length: a shorter context than the model's, for Hugging Face weights with rotary positions.

    Raises:
        CheckpointError, PretrainedError, TokenizerError: missing, damaged or not supported, or the tokenizer has ids for
            which the model has no rows.
    """
    path = Path(source)
    looks_local = path.is_dir() and not (path / "config.json").exists()
    if looks_local or (source.startswith(("checkpoints", ".", "/")) and not path.is_dir()):
        loaded = load_model(source)
        return loaded.model, loaded.tokenizer
    folder = find_folder(source)
    tokenizer = load_hugging_face_tokenizer(folder)
    model = load_pretrained(folder, context_length=context_length)
    try:
        require_rows(tokenizer, model.config.vocab_size)
    except CheckpointError as error:
        raise PretrainedError(f"{folder}: {error}") from None
    return model, tokenizer


def load_hugging_face_tokenizer(folder: Path) -> Tokenizer:
    """The byte-level BPE tokenizer in a folder of Hugging Face weights.

    Raises:
        TokenizerError: there is no tokenizer of a kind that can be read.
    """
    if (folder / "tokenizer.json").exists():
        return load_huggingface(folder / "tokenizer.json")
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return load_gpt2_files(folder / "vocab.json", folder / "merges.txt")
    raise TokenizerError(f"{folder} has neither tokenizer.json nor vocab.json and merges.txt")


def template_of(checkpoint: Path | str) -> ChatTemplate | None:
    """The chat template that a checkpoint was fine-tuned with; None for a model that only continues text.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    name = read_checkpoint(checkpoint, read_settings).get("chat_template")
    return chat_template(name) if name else None

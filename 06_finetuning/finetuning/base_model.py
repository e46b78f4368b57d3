"""What fine-tuning starts from: a checkpoint of this project, or Hugging Face weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetuning.data.chat_format import TEMPLATES, ChatFormat, ConversationError, chat_template
from finetuning.data.jinja_template import JinjaTemplate
from finetuning.gguf_base import load_gguf_base
from finetuning.published_models import PUBLISHED, fetch
from finetuning.vocabulary_extension import teach_template
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.loading import load_tokenizer
from training.checkpoints.checkpoint import (
    CheckpointError,
    list_checkpoints,
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
        source: a run's folder, a checkpoint, a folder of Hugging Face weights, a GGUF file, a name on the hub, or a
            key of `PUBLISHED`.
        context_length: a shorter context than the model's, for Hugging Face weights with rotary positions.

    Raises:
        CheckpointError, PretrainedError, TokenizerError: missing, damaged or not supported, or the tokenizer has ids for
            which the model has no rows.
    """
    if not is_foreign(source):
        loaded = load_model(source)
        return loaded.model, loaded.tokenizer
    original = original_of(source)
    if original.is_dir():
        tokenizer = load_hugging_face_tokenizer(original)
        model = load_pretrained(original, context_length=context_length)
    else:
        model, tokenizer = load_gguf_base(original, context_length)
    if source in PUBLISHED:
        generation = {**tokenizer.files.generation_config, **PUBLISHED[source].sampling}
        tokenizer.files = replace(tokenizer.files, generation_config=generation)
    try:
        require_rows(tokenizer, model.config.vocab_size)
    except CheckpointError as error:
        raise PretrainedError(f"{original}: {error}") from None
    return model, tokenizer


def is_foreign(source: str | Path) -> bool:
    """Whether this names a model that has to be imported: not a run, not a checkpoint, not an unknown path."""
    path, name = Path(source).expanduser(), str(source)
    if path.is_dir():
        return (path / "config.json").exists() and not list_checkpoints(path) and not (path / "manifest.json").exists()
    if path.suffix.lower() == ".gguf" or name in PUBLISHED:
        return True
    if path.exists() or name.startswith((".", "/", "~", "checkpoints/")):
        return False
    return name.count("/") == 1 and not path.parent.exists()  # RUN/best is no folder, and RUN is one


def original_of(source: str | Path) -> Path:
    """The folder of Hugging Face weights or the GGUF file that a foreign name stands for; downloaded if need be.

    Raises:
        PretrainedError, UserError: there is no such model, or it cannot be downloaded.
    """
    if str(source) in PUBLISHED:
        return fetch(str(source))
    path = Path(source)
    return path if path.suffix.lower() == ".gguf" and not path.is_dir() else find_folder(source)


def load_hugging_face_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder of Hugging Face weights, with the files that say how the model is used.

    Raises:
        TokenizerError: there is no tokenizer of a kind that can be read.
    """
    if (folder / "tokenizer.json").exists() or all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
        return load_tokenizer(folder)
    raise TokenizerError(f"{folder} has neither tokenizer.json nor vocab.json and merges.txt")


def template_of(checkpoint: Path | str) -> ChatFormat | None:
    """The chat template of a checkpoint; None for a model that only continues text.

    It is the one that the model was fine-tuned with here, or else what `find_template` finds.

    Raises:
        CheckpointError: there is no such checkpoint.
        ConversationError: the model's own template cannot be read.
    """
    return read_checkpoint(checkpoint, _template_in)


def _template_in(folder: Path) -> ChatFormat | None:
    name = read_settings(folder).get("chat_template")
    return chat_template(name) if name in TEMPLATES else find_template(load_tokenizer(folder / "tokenizer.json"))


def find_template(tokenizer: Tokenizer, name: str | None = None) -> ChatFormat | None:
    """The chat template by name; or the model's own; or the one whose special tokens the tokenizer has.

    Raises:
        ConversationError: no template has that name, the tokenizer lacks its tokens, or the model's own cannot be read.
    """
    if name is not None:
        template = chat_template(name)
        if missing := [token for token in template.special_tokens if token not in tokenizer.special_tokens]:
            raise ConversationError(f"the tokenizer has no {', '.join(missing)}, which chat template {name!r} needs")
        return template
    if tokenizer.files.chat_template is not None:
        return JinjaTemplate(tokenizer.files.chat_template, tokenizer.files.named_tokens)
    for template in TEMPLATES.values():
        if all(token in tokenizer.special_tokens for token in template.special_tokens):
            return template
    return None


def choose_template(name: str, source: str, model: GPTModel, tokenizer: Tokenizer) -> tuple[ChatFormat, Tokenizer]:
    """The chat template of a fine-tuning run, and a tokenizer that has its marks; the model gets rows for new marks.

    Args:
        name: as in `FinetuningConfig.chat_template`.
        source: of the model, for errors.
        model: changed in place where marks are new.
        tokenizer: the model's.

    Raises:
        ConversationError: there is no such template.
    """
    own = find_template(tokenizer) if name in ("auto", "own") else None
    if own is not None:
        return own, tokenizer
    if name == "own":
        raise ConversationError(f"{source} has no chat template of its own; take one of {', '.join(TEMPLATES)}")
    template = chat_template("nullm" if name == "auto" else name)
    return template, teach_template(model, tokenizer, template)

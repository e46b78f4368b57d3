"""A model with its tokenizer and chat template out of one GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizer.gguf_vocabulary import GGUFVocabulary, build_tokenizer
from tokenizer.interface import Tokenizer, TokenizerError
from transformer.gguf_reader import GGUFFile, load_gguf
from transformer.gpt_model import GPTModel

_KEYS = "tokenizer.ggml."


def load_gguf_base(path: Path | str, context_length: int | None = None) -> tuple[GPTModel, Tokenizer]:
    """The model in float32, whatever the kind of the stored weights, and its tokenizer.

    Args:
        path: the file.
        context_length: a shorter context than the model's, to save memory.

    Raises:
        PretrainedError: the file is damaged, or its model is not supported.
        TokenizerError: its tokenizer is not supported.
    """
    file = GGUFFile(path)
    try:
        tokenizer = build_tokenizer(read_vocabulary(file.metadata))
    except KeyError as error:
        raise TokenizerError(f"{path} lacks {error}") from None
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    return load_gguf(file, context_length=context_length), tokenizer


def read_vocabulary(metadata: Mapping[str, Any]) -> GGUFVocabulary:
    """The tokenizer's part of a file's metadata.

    Raises:
        KeyError: a part is missing.
    """
    keys = {name.removeprefix(_KEYS): value for name, value in metadata.items() if name.startswith(_KEYS)}
    more_ends = [keys[name] for name in ("eot_token_id", "eom_token_id") if name in keys]
    return GGUFVocabulary(
        model=keys["model"],
        tokens=keys["tokens"],
        types=keys.get("token_type", [1] * len(keys["tokens"]) if isinstance(keys["tokens"], list) else ()),
        merges=keys.get("merges", ()),
        scores=keys.get("scores", ()),
        pre=keys.get("pre", "default"),
        begin=keys.get("bos_token_id"),
        end=keys.get("eos_token_id"),
        more_ends=more_ends,
        pad=keys.get("padding_token_id"),
        adds_begin=keys.get("add_bos_token"),
        adds_space=keys.get("add_space_prefix", True),
        chat_template=metadata.get("tokenizer.chat_template"),
    )

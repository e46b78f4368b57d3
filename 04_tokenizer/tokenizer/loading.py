"""Load any tokenizer from its files: ours, and those of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundwork.files import read_json
from groundwork.text_sources import TextError
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.huggingface_files import load_huggingface
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.interop import load_gpt2_files, load_tiktoken_ranks
from tokenizer.model_files import ModelFiles
from tokenizer.patterns import CL100K_PATTERN
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer
from tokenizer.wordpiece_tokenizer import WordPieceTokenizer

KINDS: dict[str, type[Tokenizer]] = {
    kind.type_name: kind
    for kind in (BPETokenizer, ByteTokenizer, CharacterTokenizer, PipelineTokenizer, WordPieceTokenizer)
}


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Load a tokenizer, whatever kind of file it is in, with the files beside it that say how its model is used.

    Args:
        path: the JSON file that `Tokenizer.save` wrote; a `tokenizer.json` of Hugging Face; a folder with either, or
            with GPT-2's `vocab.json` and `merges.txt`; or a `.tiktoken` file, which gets the pattern of cl100k.

    Raises:
        TokenizerError: the file is missing, damaged, or none of these.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / "vocab.json").exists() and not (path / "tokenizer.json").exists():
            tokenizer = load_gpt2_files(path / "vocab.json", path / "merges.txt")
            tokenizer.files = ModelFiles.read(path)
            return tokenizer
        path = path / "tokenizer.json"
    if not path.exists():
        raise TokenizerError(f"there is no tokenizer at {path}")
    if path.suffix == ".tiktoken":
        return load_tiktoken_ranks(path, CL100K_PATTERN, {})
    try:
        content = read_json(path)
    except TextError as error:
        raise TokenizerError(f"{path} is not a readable tokenizer file: {error}") from None
    return load_huggingface(path) if "model" in content else _load_ours(content, path)


def _load_ours(content: dict[str, Any], path: Path) -> Tokenizer:
    kind = KINDS.get(content.get("type", ""))
    if kind is None:
        raise TokenizerError(f'{path} is not a tokenizer of this project: its "type" should be one of {sorted(KINDS)}')
    try:
        tokenizer = kind.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{path} is damaged: {error}") from None
    if path.name == "tokenizer.json":
        tokenizer.files = ModelFiles.read(path.parent)
    return tokenizer

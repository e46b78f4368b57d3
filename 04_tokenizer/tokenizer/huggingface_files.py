"""Hugging Face's tokenizer.json and the files beside it, both ways.

`tokenizers.Tokenizer.from_file` and `transformers.AutoTokenizer.from_pretrained` load what is written here,
and give the same ids. What is read becomes a `BPETokenizer` where its steps can be written as one pattern over bytes, and
else a `PipelineTokenizer`, which follows them one by one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundwork.files import read_json, write_atomically
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.bpe_vocabulary import number_tokens
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.interop import BYTE_OF_CHARACTER, from_printable, printable_vocabulary
from tokenizer.model_files import ModelFiles
from tokenizer.patterns import DIGITS_PATTERN, GPT2_PATTERN
from tokenizer.pipeline.added_tokens import read_added_tokens
from tokenizer.pipeline.normalizers import build_normalizer
from tokenizer.pipeline.one_pattern import as_one_pattern
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer
from tokenizer.pipeline.post_processor import read_frame
from tokenizer.pipeline.pre_tokenizers import flatten
from tokenizer.text_frame import TextFrame

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def save_huggingface(
    tokenizer: BPETokenizer | PipelineTokenizer, folder: Path | str, context_length: int | None = None
) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json`, and the other files of the tokenizer's model as they came.

    Args:
        tokenizer: the one to write.
        folder: where to write; made if it does not exist.
        context_length: written as `model_max_length`, after which `transformers` warns.
    """
    folder = Path(folder)
    write_atomically(folder / "tokenizer.json", json.dumps(content_of(tokenizer), ensure_ascii=False, indent=1) + "\n")
    tokenizer.files.write(folder)
    if not tokenizer.files.tokenizer_config:
        configuration = _configuration(tokenizer, context_length)
        write_atomically(
            folder / "tokenizer_config.json", json.dumps(configuration, ensure_ascii=False, indent=1) + "\n"
        )


def content_of(tokenizer: BPETokenizer | PipelineTokenizer) -> dict[str, Any]:
    """The content of a tokenizer's `tokenizer.json`; `read_content` is the inverse."""
    if isinstance(tokenizer, PipelineTokenizer):
        return tokenizer.content
    names, vocabulary = printable_vocabulary(tokenizer)
    added = tokenizer.added_tokens
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json(added.ids[text]) for text, token in added.tokens.items()],
        "normalizer": {"type": "NFC"} if tokenizer.nfc else None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
        "post_processor": _post_processor(tokenizer),
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.ignore_merges,
            "vocab": vocabulary | added.ids,
            "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
        },
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    if pattern == GPT2_PATTERN:  # the one that ByteLevel has built in
        return {**_BYTE_LEVEL, "use_regex": True}
    if pattern == DIGITS_PATTERN:
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, {**_BYTE_LEVEL, "use_regex": True}]}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


def _post_processor(tokenizer: BPETokenizer) -> dict[str, Any] | None:
    frame = tokenizer.frame
    if frame == TextFrame():
        return None
    text_of_id = {
        index: text for text, index in (printable_vocabulary(tokenizer)[1] | tokenizer.added_tokens.ids).items()
    }

    def tokens(ids: tuple[int, ...], kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text_of_id[index], "type_id": kind}} for index in ids]

    def framed(name: str, kind: int) -> list[dict[str, Any]]:
        return [*tokens(frame.before, kind), {"Sequence": {"id": name, "type_id": kind}}, *tokens(frame.after, kind)]

    special = {text_of_id[index]: index for index in (*frame.before, *frame.after)}
    return {
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": [*framed("A", 0), *framed("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in special.items()},
    }


def _configuration(tokenizer: Tokenizer, context_length: int | None) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    if context_length is not None:
        configuration["model_max_length"] = context_length
    name_of_id = {index: text for text, index in tokenizer.special_tokens.items()}
    begin = tokenizer.end_of_text_id if tokenizer.end_of_text_id in name_of_id else next(iter(name_of_id), None)
    if begin is not None:
        configuration |= {"bos_token": name_of_id[begin], "eos_token": name_of_id[begin]}
    return configuration


def load_huggingface(path: Path | str) -> BPETokenizer | PipelineTokenizer:
    """Load a `tokenizer.json`, with the files beside it that say how its model is used.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        TextError: a file is missing or cannot be read.
        TokenizerError: it is damaged, or has a step that is not supported; the message names it.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    content = read_json(path)
    try:
        tokenizer = read_content(content)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TokenizerError(f"{path} is not a tokenizer.json, or a damaged one: {error!r}") from None
    if path.name == "tokenizer.json":
        tokenizer.files = ModelFiles.read(path.parent)
    return tokenizer


def read_content(content: dict[str, Any]) -> BPETokenizer | PipelineTokenizer:
    """A tokenizer from the content of a `tokenizer.json`.

    Raises:
        TokenizerError: it has a step that is not supported.
    """
    pattern = as_one_pattern(flatten(content.get("pre_tokenizer"))) if _is_byte_level(content) else None
    if pattern is None:
        return PipelineTokenizer(content)
    model = content["model"]
    added = read_added_tokens(content.get("added_tokens"), model["vocab"])
    texts = {token.text for token in added}
    vocab = {text: index for text, index in model["vocab"].items() if text not in texts}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if any(part not in vocab for pair in merges for part in (*pair, "".join(pair))):
        return PipelineTokenizer(content)  # a merge makes what is an added token as well, or the file is damaged
    ids = {from_printable(text): index for text, index in vocab.items()}
    numbered = number_tokens(ids, [(from_printable(left), from_printable(right)) for left, right in merges])
    ignore = bool(model.get("ignore_merges"))
    tokenizer = BPETokenizer.from_numbered(numbered, added, pattern, content.get("normalizer") is not None, ignore)
    tokenizer.frame = read_frame(content.get("post_processor"))
    return tokenizer


def _is_byte_level(content: dict[str, Any]) -> bool:
    """Whether all but the pre-tokenizer is as in a `BPETokenizer`."""
    model = content["model"]
    build_normalizer(content.get("normalizer"))  # refused by name, if it is
    options = ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
    never_unknown = not model.get("unk_token") or BYTE_OF_CHARACTER.keys() <= model["vocab"].keys()
    decoder = content.get("decoder") or {}
    return (
        model.get("type", "BPE") == "BPE"
        and not any(model.get(option) for option in options)
        and never_unknown
        and content.get("normalizer") in (None, {"type": "NFC"})
        and decoder.get("type", "ByteLevel") == "ByteLevel"
    )

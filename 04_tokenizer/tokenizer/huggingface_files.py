"""Hugging Face's tokenizer.json and tokenizer_config.json, both ways, for byte-level BPE.

`tokenizers.Tokenizer.from_file` and `transformers.AutoTokenizer.from_pretrained` load what is written here,
and give the same ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundwork.files import read_json, write_atomically
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import TokenizerError
from tokenizer.interop import (
    from_printable,
    ordinary_ids,
    to_printable,
)
from tokenizer.patterns import GPT2_PATTERN


def save_huggingface(tokenizer: BPETokenizer, folder: Path | str, context_length: int | None = None) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Args:
        tokenizer: the one to write.
        folder: where to write; made if it does not exist.
        context_length: written as `model_max_length`, after which `transformers` warns.
    """
    names = [to_printable(tokenizer.decode_bytes([index])) for index in ordinary_ids(tokenizer)]
    specials = [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for text, index in tokenizer.special_tokens.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if tokenizer.pattern == GPT2_PATTERN:  # the one that ByteLevel has built in
        pre_tokenizer: dict[str, Any] = {**byte_level, "use_regex": True}
    else:
        split = {
            "type": "Split",
            "pattern": {"Regex": tokenizer.pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": {"type": "NFC"} if tokenizer.nfc else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(zip(names, ordinary_ids(tokenizer), strict=True)) | tokenizer.special_tokens,
            "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
        },
    }
    configuration: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    if context_length is not None:
        configuration["model_max_length"] = context_length
    end_of_text = next(iter(tokenizer.special_tokens), None) if tokenizer.end_of_text_id is None else "<|endoftext|>"
    if end_of_text is not None:
        configuration |= {"bos_token": end_of_text, "eos_token": end_of_text}
    folder = Path(folder)
    write_atomically(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    write_atomically(folder / "tokenizer_config.json", json.dumps(configuration, ensure_ascii=False, indent=1) + "\n")


def load_huggingface(path: Path | str) -> BPETokenizer:
    """Load a byte-level BPE `tokenizer.json`, such as those of GPT-2, Llama 3 and Qwen.

    Args:
        path: the file, or the folder that it is in.

    Raises:
        TextError: the file is missing or cannot be read.
        TokenizerError: it is damaged, is not byte-level BPE, or changes text in another way than NFC.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    content = read_json(path)
    try:
        return _from_content(content)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{path} is not a tokenizer.json, or a damaged one: {error!r}") from None


def _from_content(content: dict[str, Any]) -> BPETokenizer:
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"its model is {model['type']}, only BPE can be read")
    normalizer = content.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise TokenizerError(f"its normalizer is {normalizer['type']}; only NFC, or none, can be read")
    if model.get("byte_fallback") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise TokenizerError("its BPE is not byte-level")
    special_ids = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    vocab = {index: from_printable(text) for text, index in model["vocab"].items() if text not in special_ids}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    pairs = [(from_printable(left), from_printable(right)) for left, right in merges]
    return BPETokenizer.from_vocabulary(
        vocab, pairs, special_ids, _find_pattern(content["pre_tokenizer"]), normalizer is not None
    )


def _find_pattern(pre_tokenizer: dict[str, Any]) -> str:
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise TokenizerError("its pre-tokenizer does not end in ByteLevel without a prefix space")
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return GPT2_PATTERN
    if [step["type"] for step in steps] == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        split = steps[0]
        if split["behavior"] == "Isolated" and not split.get("invert") and "Regex" in split["pattern"]:
            return split["pattern"]["Regex"]
    raise TokenizerError(f"its pre-tokenizer {[step['type'] for step in steps]} cannot be written as one pattern")

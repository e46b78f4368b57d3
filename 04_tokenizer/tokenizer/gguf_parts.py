"""The parts that a GGUF file keeps of a tokenizer: the inverse of `gguf_vocabulary`.

llama.cpp has two tokenizers for the models that are written here. `gpt2` is byte-level BPE with a pattern that it knows by
name. `llama` is SentencePiece's BPE, which merges by the score of what is made. A tokenizer that would get other ids there
is refused. One difference is accepted, as by llama.cpp's own converter: it does not normalize to NFC.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WHOLE_PRE_TOKENS,
    GGUFVocabulary,
    merges_by_score,
)
from tokenizer.huggingface_files import content_of
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.patterns import CL100K_PATTERN, PreTokenizer
from tokenizer.pipeline.added_tokens import AddedToken
from tokenizer.pipeline.decoders import BYTE_TOKEN
from tokenizer.pipeline.one_pattern import as_one_pattern
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer
from tokenizer.pipeline.pre_tokenizers import flatten

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}


# The name of each pattern; of several names with one pattern, the first. llama.cpp has no name for GPT-4's, which differs
# from Llama 3's in white space at the end of a text.
_NAMES = {
    as_one_pattern([*map(_isolated, patterns), _BYTE_LEVEL]): name
    for name, patterns in reversed(PRE_TOKENIZERS.items())
} | {CL100K_PATTERN: "llama-bpe"}
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_FIRST_SPACE = {"type": "Prepend", "prepend": "▁"}


def gguf_parts(tokenizer: Tokenizer, rows: int) -> GGUFVocabulary:
    """The tokens, their types, and merges or scores.

    Args:
        tokenizer: byte-level BPE, or SentencePiece's BPE as a `tokenizer.json` describes it.
        rows: how many the model has; those without a token are filled up.

    Raises:
        TokenizerError: llama.cpp has no tokenizer that gives the same ids; the message names the step it lacks.
    """
    if not isinstance(tokenizer, BPETokenizer | PipelineTokenizer):
        raise TokenizerError(f"GGUF needs a BPE tokenizer, and this model's is of type {tokenizer.type_name!r}")
    content = content_of(tokenizer)
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"its model is {model['type']}; GGUF is written with BPE alone")
    if not model["merges"]:
        raise TokenizerError("llama.cpp reads no tokenizer without merges, and this one has single bytes alone")
    added = {entry["id"]: AddedToken.from_json(entry) for entry in content["added_tokens"]}
    for token in added.values():
        if found := [name for name in ("lstrip", "rstrip", "single_word") if getattr(token, name)]:
            raise TokenizerError(f"its added token {token.text!r} has {found[0]}, which llama.cpp does not have")
    steps = flatten(content["pre_tokenizer"])
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    tokens, types = _tokens(model, added, rows, is_byte_level)
    if not is_byte_level:
        return _sentence_piece(content, steps, tokens, types)
    pre = _name_of(content, steps)
    if pre in WHOLE_PRE_TOKENS and not model.get("ignore_merges"):
        _require_whole(tokenizer, model["vocab"], steps)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return GGUFVocabulary("gpt2", tokens, types, merges, pre=pre)


def _tokens(
    model: dict[str, Any], added: dict[int, AddedToken], rows: int, is_byte_level: bool
) -> tuple[list[str], list[int]]:
    """The text and the type of each row of the model."""
    text_of_id = {index: text for text, index in model["vocab"].items()}
    tokens, types = list[str](), list[int]()
    for index in range(rows):
        token = added.get(index)
        text = token.text if token is not None else text_of_id.get(index)
        if text is None:
            kind = UNUSED
        elif not is_byte_level and text == model.get("unk_token"):
            kind = UNKNOWN
        elif token is not None:
            kind = CONTROL if token.special else USER_DEFINED
        else:
            kind = BYTE if not is_byte_level and BYTE_TOKEN.fullmatch(text) else NORMAL
        tokens.append(f"[UNUSED{index}]" if text is None else text)
        types.append(kind)
    return tokens, types


def _name_of(content: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer."""
    normalizer = content["normalizer"] or {"type": "Sequence", "normalizers": []}
    if normalizer not in ({"type": "NFC"}, {"type": "Sequence", "normalizers": []}):
        raise TokenizerError(f"its normalizer {normalizer['type']} is not in GGUF")
    pattern = as_one_pattern(steps)
    if pattern is None or pattern not in _NAMES:
        kinds = ", ".join(step["type"] for step in steps)
        raise TokenizerError(
            f"llama.cpp does not know the tokenizer's pattern ({kinds}); it knows those of GPT-2, GPT-4, GPT-4o, Llama 3, "
            "Qwen, SmolLM2, DeepSeek V3 and Tekken"
        )
    return _NAMES[pattern]


def _require_whole(tokenizer: Tokenizer, vocab: dict[str, int], steps: list[dict[str, Any]]) -> None:
    """Check that a piece which is a token becomes this token. With such a name, llama.cpp does not merge it."""
    pattern = as_one_pattern(steps)
    assert pattern is not None
    cut = PreTokenizer(pattern).split
    for index in vocab.values():
        data = tokenizer.decode_bytes([index])
        text = data.decode("utf-8", errors="ignore")
        if text.encode() == data and cut(text) == [text] and tokenizer.encode(text) != [index]:
            raise TokenizerError(
                f"its merges do not make its token {text!r}, and llama.cpp takes whole tokens first with this pattern"
            )


def _sentence_piece(
    content: dict[str, Any], steps: list[dict[str, Any]], tokens: list[str], types: list[int]
) -> GGUFVocabulary:
    model = content["model"]
    if not model.get("byte_fallback") or types.count(BYTE) != 256:
        raise TokenizerError("it has no token for some bytes, and llama.cpp's tokenizer needs all 256")
    if model.get("ignore_merges"):
        raise TokenizerError("it has ignore_merges, which llama.cpp has for byte-level BPE alone")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    scores = [-float(rank.get(token, len(rank))) for token in tokens]
    vocabulary = GGUFVocabulary("llama", tokens, types, scores=scores, adds_space=_adds_space(content, steps))
    if _by_result(merges) != _by_result([(left, right) for left, right in merges_by_score(vocabulary)]):
        raise TokenizerError(
            "its merges are not in the order of the tokens that they make, with all ways to make each; llama.cpp's "
            "tokenizer has nothing but a score of each token"
        )
    return vocabulary


def _by_result(merges: list[Any]) -> list[tuple[str, set[Any]]]:
    """The tokens that merges make, in order, each with its pairs."""
    return [(token, set(pairs)) for token, pairs in groupby(merges, key="".join)]


def _adds_space(content: dict[str, Any], steps: list[dict[str, Any]]) -> bool:
    """Whether a text gets a space before it; llama.cpp replaces all spaces by their sign."""
    normalizer = content["normalizer"] or {"type": "Sequence", "normalizers": []}
    normalizers = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    # Where no spaces are left, a cut at spaces changes nothing.
    cuts = [step for step in steps if step.get("pattern") != {"String": " "} or _SPACES not in normalizers]
    if not cuts and normalizers == [_FIRST_SPACE, _SPACES]:
        return True
    if not cuts and normalizers == [_SPACES]:
        return False
    if not normalizers and [step["type"] for step in cuts] == ["Metaspace"] and not cuts[0].get("split", True):
        scheme = cuts[0].get("prepend_scheme")
        if scheme == "never" and cuts[0]["replacement"] == "▁":
            return False
        raise TokenizerError(
            f"its Metaspace puts a space before a text by the scheme {scheme!r}, and not before one that has a space; "
            "llama.cpp puts it before every text"
        )
    found = ", ".join(step["type"] for step in (*normalizers, *cuts)) or "none"
    raise TokenizerError(f"its normalizers and pre-tokenizers ({found}) are not those of SentencePiece")

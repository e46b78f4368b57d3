"""A tokenizer from the parts that a GGUF file has of it.

GGUF keeps tokens, merges or scores, and the *name* of a pre-tokenizer, whose pattern llama.cpp has built in. The parts are
put together as a `tokenizer.json` would have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.huggingface_files import read_content
from tokenizer.interface import TokenizerError
from tokenizer.model_files import ModelFiles
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, LLAMA3_PATTERN, O200K_PATTERN, QWEN_PATTERN
from tokenizer.pipeline.added_tokens import AddedToken
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # gguf.TokenType
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The patterns of llama.cpp's pre-tokenizers, which cut one after the other.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "jais", "phi-2"), (GPT2_PATTERN,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), (r"\p{N}", GPT2_PATTERN)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe"), (LLAMA3_PATTERN,)),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), (QWEN_PATTERN,)),
    **dict.fromkeys(("gpt-4o", "llama4"), (O200K_PATTERN,)),
    "gpt-4": (CL100K_PATTERN,),
    "deepseek-v3": _DEEPSEEK3,
    "tekken": (_TEKKEN,),
}
WHOLE_PRE_TOKENS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")  # looked up before they are merged


@dataclass(frozen=True)
class GGUFVocabulary:
    """The `tokenizer.ggml` part of a GGUF file's metadata.

    Args:
        model: `gpt2` for byte-level BPE, `llama` for SentencePiece's BPE.
        tokens: the text of each id.
        types: the kind of each id, as `gguf.TokenType` numbers them.
        merges: two tokens with a space between them, in the order learned; for `gpt2`.
        scores: of each token, the higher the earlier it is merged; for `llama`.
        pre: name of the pre-tokenizer, for `gpt2`.
        begin: id of the begin token.
        end: id of the end token.
        more_ends: ids that end a turn or a message.
        pad: id of the padding token.
        adds_begin: whether a text begins with the begin token; None where the file does not say.
        adds_space: whether a text begins with a space, for `llama`.
        chat_template: Jinja template.
    """

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    pre: str = "default"
    begin: int | None = None
    end: int | None = None
    more_ends: Sequence[int] = ()
    pad: int | None = None
    adds_begin: bool | None = None
    adds_space: bool = True
    chat_template: str | None = None

    def __post_init__(self) -> None:
        lists = {"tokens": str, "types": int, "merges": str, "scores": int | float}
        for name, kind in {"model": str, "pre": str, **lists}.items():
            value = getattr(self, name)
            values = value if name in lists else [value]
            if isinstance(values, str | int | float) or not all(isinstance(item, kind) for item in values):
                raise TokenizerError(f"the file's {name} are not {'texts' if kind is str else 'numbers'}")
        if wrong := next((merge for merge in self.merges if " " not in merge[1:]), None):
            raise TokenizerError(f"the merge {wrong!r} does not name two tokens with a space between them")
        for name in ("begin", "end", "pad"):
            object.__setattr__(self, name, self._checked(getattr(self, name)))
        object.__setattr__(
            self, "more_ends", [index for index in map(self._checked, self.more_ends) if index is not None]
        )

    def _checked(self, index: int | None) -> int | None:
        """The id of a token; -1, in 32 bits, says that there is none."""
        if index is None or (index in (-1, 2**32 - 1) and not isinstance(index, bool)):
            return None
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(self.tokens):
            raise TokenizerError(f"{index!r} is not the id of one of the {len(self.tokens):,} tokens")
        return index


def build_tokenizer(vocabulary: GGUFVocabulary) -> BPETokenizer | PipelineTokenizer:
    """Put a tokenizer together.

    Raises:
        TokenizerError: its kind or its pre-tokenizer is not supported, or its parts do not fit each other.
    """
    if len(vocabulary.types) != len(vocabulary.tokens):
        raise TokenizerError(f"there are {len(vocabulary.tokens)} tokens and {len(vocabulary.types)} token types")
    if vocabulary.model == "gpt2":
        content = _byte_level(vocabulary)
    elif vocabulary.model == "llama":
        content = _sentence_piece(vocabulary)
    else:
        raise TokenizerError(f"the file's tokenizer is of the kind {vocabulary.model!r}; gpt2 and llama are supported")
    tokenizer = read_content(content)
    tokenizer.files = _files(vocabulary)
    return tokenizer


def _content(vocabulary: GGUFVocabulary, **parts: Any) -> dict[str, Any]:
    added = {
        index: AddedToken(text, special=kind != USER_DEFINED)
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json(index) for index, token in added.items()],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        **parts,
    }


def _vocab(vocabulary: GGUFVocabulary) -> dict[str, int]:
    kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return {text: index for index, (text, kind) in enumerate(kinds) if kind != UNUSED}


def _byte_level(vocabulary: GGUFVocabulary) -> dict[str, Any]:
    if vocabulary.pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise TokenizerError(f"the file's pre-tokenizer {vocabulary.pre!r} is not supported; those that are: {known}")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in PRE_TOKENIZERS[vocabulary.pre]
    ]
    model = {"type": "BPE", "vocab": _vocab(vocabulary), "merges": [merge.split(" ") for merge in vocabulary.merges]}
    return _content(
        vocabulary,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        decoder=byte_level,
        model={**model, "ignore_merges": vocabulary.pre in WHOLE_PRE_TOKENS},
    )


def _sentence_piece(vocabulary: GGUFVocabulary) -> dict[str, Any]:
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise TokenizerError(f"there are {len(vocabulary.tokens)} tokens and {len(vocabulary.scores)} scores")
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if vocabulary.adds_space else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.adds_space:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next(
        (text for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == UNKNOWN), None
    )
    return _content(
        vocabulary,
        normalizer={"type": "Sequence", "normalizers": steps},
        decoder={"type": "Sequence", "decoders": decoders},
        model={
            "type": "BPE",
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": BYTE in vocabulary.types,
            "vocab": _vocab(vocabulary),
            "merges": merges_by_score(vocabulary),
        },
    )


def merges_by_score(vocabulary: GGUFVocabulary) -> list[list[str]]:
    """All pairs of tokens that make a token, in the order of its score: SentencePiece keeps no merges."""
    score = {
        text: vocabulary.scores[index]
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (NORMAL, USER_DEFINED)
    }
    order = {text: index for index, text in enumerate(vocabulary.tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for text in score:
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in score and right in score:
                merges.append((-score[text], order[text], cut, left, right))
    return [[left, right] for *_, left, right in sorted(merges)]


def _files(vocabulary: GGUFVocabulary) -> ModelFiles:
    names = {"bos_token": vocabulary.begin, "eos_token": vocabulary.end, "pad_token": vocabulary.pad}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {name: vocabulary.tokens[index] for name, index in names.items() if index is not None}
    adds_begin = vocabulary.adds_begin
    if adds_begin is None:
        adds_begin = vocabulary.model == "llama" or vocabulary.pre in ("llama-bpe", "llama3", "llama-v3")
    config["add_bos_token"] = adds_begin and vocabulary.begin is not None
    ends = [index for index in (vocabulary.end, *vocabulary.more_ends) if index is not None]
    ids = {"bos_token_id": vocabulary.begin, "pad_token_id": vocabulary.pad}
    generation: dict[str, Any] = {name: index for name, index in ids.items() if index is not None}
    if ends:
        generation["eos_token_id"] = ends[0] if len(ends) == 1 else list(dict.fromkeys(ends))
    return ModelFiles(config, {}, generation, vocabulary.chat_template)

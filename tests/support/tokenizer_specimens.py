"""Small tokenizers with the structure of published ones, as their `tokenizer.json` describes it."""

from __future__ import annotations

from typing import Any

from tokenizer.interop import CHARACTER_OF_BYTE, to_printable
from tokenizer.patterns import LLAMA3_PATTERN as LLAMA3_SPLIT, QWEN_PATTERN

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_WORDS = ["the", "low", "lower", "lowest", "new", "newer", "cat", "end", "don", "naïve", "12", "é", "東京"]


def content_of(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A whole `tokenizer.json`."""
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **empty, **parts, "model": model}


def added(text: str, index: int, **options: bool) -> dict[str, Any]:
    """An added token; special, and without options unless said otherwise."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": text, **plain, **options}


def _splits(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """All beginnings of the words as tokens, and *every* pair that makes one of them, the shortest tokens first."""
    tokens = sorted(
        {word[:end] for word in words for end in range(2, len(word) + 1)}, key=lambda text: (len(text), text)
    )
    known = {*tokens, *(character for word in words for character in word)}
    merges = [
        [token[:cut], token[cut:]]
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    return tokens, merges


def byte_level_vocabulary(missing: int = 0) -> dict[str, Any]:
    """Bytes, words with and without a space before them, and several merges for most of them, not in order."""
    printable = [to_printable(text.encode()) for word in _WORDS for text in (word, " " + word)]
    tokens, merges = _splits([*printable, to_printable(b"    ")])
    alphabet = sorted(CHARACTER_OF_BYTE.values())
    vocab = {token: index for index, token in enumerate([*alphabet[: 256 - missing], *tokens, "unmade"])}
    usable = [pair for pair in merges if all(part in vocab for part in (*pair, "".join(pair)))]
    return {"vocab": vocab, "merges": [*usable[1::2], *usable[::2]]}


def character_vocabulary() -> dict[str, Any]:
    """Characters, words that begin with the sign for a space, bytes, as SentencePiece has them."""
    tokens, merges = _splits([text for word in _WORDS for text in (word, "▁" + word)] + ["▁▁▁▁"])
    characters = sorted({character for token in tokens for character in token} | set("ΣΑ!?.-x\n<>"))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *tokens]
    return {"vocab": {token: index for index, token in enumerate(names)}, "merges": merges}


def unigram_vocabulary() -> list[list[Any]]:
    """The same tokens with scores."""
    vocab = character_vocabulary()["vocab"]
    return [[token, 0.0 if index < 3 else -3.0 - (index % 7) / 2 + len(token) / 3] for token, index in vocab.items()]


def word_pieces() -> dict[str, int]:
    """Pieces of words, as BERT has them."""
    tokens, _ = _splits(_WORDS)
    characters = sorted({character for word in _WORDS for character in word} | set("!?.-x'"))
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters),
        *tokens,
        "##er",
        "##est",
    ]
    return {token: index for index, token in enumerate(names)}


def _template(name: str, index: int) -> dict[str, Any]:
    begin, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {name: {"id": name, "ids": [index], "tokens": [name]}}
    return {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text], "special_tokens": special}


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _in_order(vocabulary: dict[str, Any]) -> dict[str, Any]:
    """One merge for each token, in order, as `tokenizers` trains it."""
    seen: set[str] = set()
    merges = []
    for left, right in sorted(vocabulary["merges"], key=lambda pair: vocabulary["vocab"][pair[0] + pair[1]]):
        if left + right not in seen:
            seen.add(left + right)
            merges.append([left, right])
    alphabet = set(CHARACTER_OF_BYTE.values())
    vocab = {token: index for index, token in enumerate(t for t in vocabulary["vocab"] if t in alphabet or t in seen)}
    return {"vocab": vocab, "merges": merges}


def _families() -> dict[str, dict[str, Any]]:
    bytes_in_order, several = _in_order(byte_level_vocabulary()), byte_level_vocabulary()
    characters = character_vocabulary()
    plain, size = len(bytes_in_order["vocab"]), len(several["vocab"])
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    to_spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    sentence_piece = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **characters}
    marks = [added("<unk>", 0), added("<s>", 1), added("</s>", 2)]
    fallback = [to_spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    cjk = "[一-龥぀-ゟ゠-ヿ]+"
    words = (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    decoder = {**BYTE_LEVEL, "use_regex": True}
    return {
        "GPT-2": content_of(
            {"type": "BPE", **bytes_in_order},
            pre_tokenizer={**BYTE_LEVEL, "use_regex": True},
            decoder=decoder,
            added_tokens=[added("<|endoftext|>", plain)],
        ),
        "Llama 3": content_of(
            {"type": "BPE", "ignore_merges": True, **several},
            pre_tokenizer=_steps(_isolated(LLAMA3_SPLIT), BYTE_LEVEL),
            post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, _template("<|begin_of_text|>", size)]},
            decoder=decoder,
            added_tokens=[added("<|begin_of_text|>", size), added("<|end_of_text|>", size + 1)],
        ),
        "Qwen 3": content_of(
            {"type": "BPE", **bytes_in_order},
            normalizer={"type": "NFC"},
            pre_tokenizer=_steps(_isolated(QWEN_PATTERN), BYTE_LEVEL),
            post_processor=BYTE_LEVEL,
            decoder=decoder,
            added_tokens=[
                added("<|endoftext|>", plain),
                added("<|im_start|>", plain + 1),
                added("<|im_end|>", plain + 2),
                added("<think>", plain + 3, special=False),
                added("</think>", plain + 4, special=False),
            ],
        ),
        "SmolLM2": content_of(
            {"type": "BPE", **byte_level_vocabulary(missing=21)},
            pre_tokenizer=_steps({"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}),
            decoder=decoder,
            added_tokens=[added("<|im_end|>", len(byte_level_vocabulary(missing=21)["vocab"]))],
        ),
        "DeepSeek V3": content_of(
            {"type": "BPE", **bytes_in_order},
            normalizer={"type": "Sequence", "normalizers": []},
            pre_tokenizer=_steps(_isolated(r"\p{N}{1,3}"), _isolated(cjk), _isolated(words), BYTE_LEVEL),
            post_processor=_template("<｜begin▁of▁sentence｜>", plain),
            decoder=decoder,
            added_tokens=[
                added("<｜begin▁of▁sentence｜>", plain),
                added("<｜User｜>", plain + 1, special=False, normalized=True),
            ],
        ),
        "Falcon": content_of(
            {"type": "BPE", **bytes_in_order},
            pre_tokenizer=_steps(
                {"type": "Punctuation", "behavior": "Contiguous"},
                {**BYTE_LEVEL, "use_regex": True},
                {"type": "Digits", "individual_digits": False},
                _isolated("[0-9][0-9][0-9]"),
            ),
            decoder=decoder,
        ),
        "RoBERTa": content_of(
            {"type": "BPE", **bytes_in_order},
            pre_tokenizer={**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True},
            decoder=decoder,
            added_tokens=[added("<mask>", plain, lstrip=True)],
        ),
        "Llama 2": content_of(
            {"type": "BPE", **sentence_piece},
            normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
            post_processor=_template("<s>", 1),
            decoder={"type": "Sequence", "decoders": [*fallback, strip]},
            added_tokens=marks,
        ),
        "Mistral": content_of(
            {"type": "BPE", **sentence_piece},
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            post_processor=_template("<s>", 1),
            decoder={"type": "Sequence", "decoders": [*fallback, strip]},
            added_tokens=marks,
        ),
        "Gemma": content_of(
            {"type": "BPE", **sentence_piece},
            normalizer=spaces,
            pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            decoder={"type": "Sequence", "decoders": fallback},
            added_tokens=[*marks, added("▁▁", characters["vocab"]["▁▁"], special=False)],
        ),
        "BERT": content_of(
            {"type": "WordPiece", "vocab": word_pieces(), "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100},
            normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                        "lowercase": True},
            pre_tokenizer={"type": "BertPreTokenizer"},
            post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
            added_tokens=[added(text, index) for text, index in list(word_pieces().items())[:5]],
        ),
        "T5": content_of(
            {"type": "Unigram", "vocab": unigram_vocabulary(), "unk_id": 0, "byte_fallback": False},
            pre_tokenizer=_steps({"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁",
                                                                  "prepend_scheme": "always", "split": True}),
            decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            added_tokens=marks,
        ),
    }  # fmt: skip


FAMILIES = _families()

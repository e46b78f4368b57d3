"""Stage 4: tokenizer.json as it is in the world gives the ids that `tokenizers` gives."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings, strategies as st
from support.tokenizer_references import any_texts
from support.tokenizer_specimens import (
    BYTE_LEVEL,
    FAMILIES,
    LLAMA3_SPLIT,
    byte_level_vocabulary,
    character_vocabulary,
    content_of,
    unigram_vocabulary,
    word_pieces,
)

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.huggingface_files import load_huggingface, read_content, save_huggingface
from tokenizer.interface import Tokenizer, TokenizerError
from tokenizer.loading import load_tokenizer
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer
from tokenizer.streaming import StreamingDecoder

WORDS = ["the ", "The", " cat", "low", "lower", "  ", " ", "\n", "12", "3", "é", "e\u0301", "don't", "naïve", "東京", "🙂", "ﬁ", "Σ",
         "ΑΣ", "_", "▁", "<s>", "</s>", "<think>", "<|end|>", "end", "!", "?", "…", ".", "x", "\t", "½", "ǅ", "-", "--", "\x00"]  # fmt: skip


def known(text: str) -> str:
    """Only characters that every version of Unicode has: the tables of `tokenizers` are of several versions."""
    return "".join(c if c in "🙂👩👧𝒜𝟘" or unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs") else "x" for c in text)


texts = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map("".join), any_texts.map(known))


def reference(content: dict[str, Any]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(content))


@cache
def family_of(name: str) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    return read_content(FAMILIES[name]), reference(FAMILIES[name])


NORMALIZERS = [
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ByteLevel")),
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": r"\s{2,}"}, "content": r" \1"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
]
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
PRE_TOKENIZERS = [
    *(
        {**BYTE_LEVEL, "add_prefix_space": prefix, "use_regex": cut}
        for prefix in (False, True)
        for cut in (False, True)
    ),
    *({"type": "Digits", "individual_digits": each} for each in (False, True)),
    *({"type": "Punctuation", "behavior": behavior} for behavior in BEHAVIORS),
    *({"type": kind} for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")),
    {"type": "CharDelimiterSplit", "delimiter": "-"},
    *(
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
        for scheme in ("always", "never", "first")
        for cut in (False, True)
    ),
    *(
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
        for pattern in ({"Regex": r"\p{L}+"}, {"Regex": r"\s+(?!\S)|e"}, {"String": " "}, {"Regex": LLAMA3_SPLIT})
        for behavior in BEHAVIORS
        for invert in (False, True)
    ),
]


def sequence(kind: str, name: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    return None if not steps else steps[0] if len(steps) == 1 else {"type": "Sequence", name: steps}


MODELS = [
    {"type": "BPE", **byte_level_vocabulary()},
    {"type": "BPE", **byte_level_vocabulary(missing=60), "unk_token": None},
    {"type": "BPE", **byte_level_vocabulary(missing=60), "unk_token": "a", "fuse_unk": True},
    {"type": "BPE", **byte_level_vocabulary(), "ignore_merges": True},
    {"type": "BPE", **character_vocabulary(), "unk_token": "<unk>"},
    {"type": "BPE", **character_vocabulary(), "unk_token": "<unk>", "fuse_unk": True},
    {"type": "BPE", **character_vocabulary(), "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
    {"type": "BPE", **character_vocabulary(), "byte_fallback": True, "ignore_merges": True},
    {"type": "WordPiece", "vocab": word_pieces(), "unk_token": "[UNK]", "continuing_subword_prefix": "##",
     "max_input_chars_per_word": 20},
    {"type": "Unigram", "vocab": unigram_vocabulary(), "unk_id": 0, "byte_fallback": False},
    {"type": "Unigram", "vocab": unigram_vocabulary(), "unk_id": 0, "byte_fallback": True},
]  # fmt: skip


@st.composite
def added_tokens(draw, model: dict[str, Any]) -> list[dict[str, Any]]:
    vocab = (
        model["vocab"] if isinstance(model["vocab"], dict) else {text: i for i, (text, _) in enumerate(model["vocab"])}
    )
    chosen = draw(st.lists(st.sampled_from(["<s>", "</s>", "<think>", "<|end|>", "end", "  ", "é", "lower", "<", "e\u0301"]),
                           max_size=4, unique=True))  # fmt: skip
    free, entries = max(vocab.values()) + 1, []
    for text in chosen:
        index = vocab.get(text, free)
        free += index == free
        flags = {name: draw(st.booleans()) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        entries.append({"id": index, "content": text, **flags})
    return entries


@st.composite
def pipelines(draw) -> dict[str, Any]:
    model = draw(st.sampled_from(MODELS))
    normalizers = draw(st.lists(st.sampled_from(NORMALIZERS), max_size=2))
    pre_tokenizers = draw(st.lists(st.sampled_from(PRE_TOKENIZERS), max_size=3))
    return content_of(
        model,
        normalizer=sequence("Sequence", "normalizers", normalizers),
        pre_tokenizer=sequence("Sequence", "pretokenizers", pre_tokenizers),
        added_tokens=draw(added_tokens(model)),
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(content=pipelines(), text=texts)
def test_any_accepted_combination_gives_the_ids_of_tokenizers(content: dict[str, Any], text: str):
    try:
        ours = read_content(content)
    except TokenizerError as error:
        assert "prepend_scheme first" in str(error) or "removed by the normalizer" in str(error)  # all that is refused
        return
    expected = reference(content).encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allowed_special="all") == expected


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_every_family_gives_the_ids_and_the_text_of_tokenizers(family: str, text: str):
    ours, theirs = family_of(family)
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allowed_special="all") == expected
    assert ours.encode_to_array(text, allowed_special="all").tolist() == expected  # through the arrays
    ids = ours.encode(text)
    decoder = StreamingDecoder(ours)
    assert "".join(decoder.decode([index]) for index in ids) + decoder.finish() == ours.decode(ids)
    whole = theirs.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in whole:  # for a part of a character there may be one, or one for each byte
        assert ours.decode(ids) == whole


FAST = {"GPT-2", "Llama 3", "Qwen 3", "SmolLM2", "DeepSeek V3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_that_one_pattern_can_express_take_the_fast_path(family: str):
    content = FAMILIES[family]
    if family == "DeepSeek V3":
        content = {**content, "normalizer": None}
    tokenizer = read_content(content)
    assert isinstance(tokenizer, BPETokenizer if family in FAST else PipelineTokenizer)
    long = "The newest cat, 1969 and 12 lower naïve 東京 — don't\n\n  end\t " * 200  # through the arrays
    assert tokenizer.encode(long) == reference(content).encode(long, add_special_tokens=False).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_around_a_text_is_read_and_everything_survives_being_saved(family: str, tmp_path):
    content = FAMILIES[family]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}", "note": [1]}')
    ours = load_huggingface(tmp_path)
    text = "The lower naïve cat<think> 12</s><mask>"
    around = ours.encode(text, allowed_special="all")
    expected = reference(content).encode(text).ids
    assert [*ours.frame.before, *around, *ours.frame.after] == expected
    ours.save(tmp_path / "ours" / "tokenizer.json")  # as in a checkpoint
    again = load_tokenizer(tmp_path / "ours")
    assert (again.sha256(), again.frame, again.files) == (ours.sha256(), ours.frame, ours.files)
    save_huggingface(again, tmp_path / "exported")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json"))
    assert theirs.encode(text).ids == expected
    assert (tmp_path / "exported" / "tokenizer_config.json").read_text() == (
        tmp_path / "ours" / "tokenizer_config.json"
    ).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
            "normalizer Precompiled is not supported",
        ),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "pre-tokenizer UnicodeScripts is not supported"),
        ({"decoder": {"type": "CTC"}, "normalizer": {"type": "NFD"}}, "decoder CTC is not supported"),
        ({"post_processor": {"type": "Other"}}, "post-processor Other is not supported"),
        ({"model": {"type": "WordLevel", "vocab": {}}}, "model WordLevel is not supported"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<"}, "behavior": "Isolated"}}, r"has .\(\?<."),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a*"}, "behavior": "Isolated"}},
            "where there is nothing",
        ),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Doubled"}}, "behavior 'Doubled'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, Any], message: str, tmp_path):
    content = {**FAMILIES["GPT-2"], **change}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["GPT-2", "Llama 2", "BERT"])
def test_an_id_that_is_none_or_that_tokenizers_would_not_take_is_refused_by_name(family: str):
    content = FAMILIES[family]
    vocab, entry = content["model"]["vocab"], content["added_tokens"][0]
    first, free = next(iter(vocab)), len(vocab)
    for bad in ("7", None, -1, 3.5, 2**70, True):
        for change in (
            {"model": {**content["model"], "vocab": {**vocab, first: bad}}},
            {"added_tokens": [{**entry, "id": bad}]},
        ):
            with pytest.raises(TokenizerError, match="an id is a whole number"):
                read_content({**content, **change})
    for added_tokens, message in (
        ([{**entry, "content": "low", "id": vocab["low"] + 1}], "in the vocabulary"),
        ([{**entry, "content": "<new>", "id": free + 2}], f"the next that is free is {free}"),
        ([{**entry, "content": "<new>", "id": free}, {**entry, "content": "<old>", "id": free}], "that is free is"),
        ([{**entry, "content": "<new>", "id": free}] * 2, "that is free is"),
    ):
        assert any(reference({**content, "added_tokens": added_tokens}).token_to_id(e["content"]) != e["id"]
                   for e in added_tokens) or added_tokens[0] is added_tokens[-1]  # fmt: skip
        with pytest.raises(TokenizerError, match=message):
            read_content({**content, "added_tokens": added_tokens})


@pytest.mark.parametrize("option", ["dropout", "continuing_subword_prefix", "end_of_word_suffix"])
def test_options_of_bpe_that_change_the_ids_are_refused(option: str):
    content = FAMILIES["GPT-2"]
    with pytest.raises(TokenizerError, match=option):
        read_content({**content, "model": {**content["model"], option: "x"}})


def test_a_special_token_is_found_only_where_it_is_allowed_and_an_ordinary_one_always():
    ours = read_content(FAMILIES["Qwen 3"])
    names = {
        token.text: index
        for token, index in zip(ours.added_tokens.tokens.values(), ours.added_tokens.ids.values(), strict=True)
    }
    assert ours.encode("<think>")[-1:] == [names["<think>"]]
    assert names["<|im_end|>"] not in ours.encode("<|im_end|>")
    assert ours.encode("<|im_end|>", allowed_special="all") == [names["<|im_end|>"]]
    long = "a <think> b " * 1000
    assert ours.encode_to_array(long).tolist() == reference(FAMILIES["Qwen 3"]).encode(long).ids
    assert list(ours.encode_iterable([long[:5], long[5:]])) == ours.encode(long)


def test_bytes_that_the_vocabulary_lacks_are_left_out_as_tokenizers_does():
    content = FAMILIES["SmolLM2"]
    ours, theirs = read_content(content), reference(content)
    text = "the lower \u0410cat\u00a0" * 3  # D0 90, C2 A0: the vocabulary has neither 90 nor A0
    for sample in (text, text * 500):
        assert ours.encode(sample) == theirs.encode(sample).ids
    assert ours.decode_bytes(ours.encode(text)) == text.encode().replace(b"\x90", b"").replace(b"\xa0", b"")


def test_text_that_goes_on_keeps_its_first_space():
    ours = read_content(FAMILIES["Llama 2"])
    ids = ours.encode("lower cat")
    assert ours.decode(ids) == "lower cat" and ours.continue_bytes(ids) == b" lower cat"
    decoder = StreamingDecoder(ours, continues=True)
    assert [decoder.decode([index]) for index in ids] == [ours.continue_bytes([index]).decode() for index in ids]


def test_more_special_tokens_can_be_added_to_any_kind():
    for family, content in FAMILIES.items():
        ours = read_content(content)
        more = ours.with_special_tokens(["<|mine|>"])
        assert more.vocab_size == ours.vocab_size + 1, family
        assert more.encode("x<|mine|>", allowed_special="all")[-1] == ours.vocab_size == more.special_tokens["<|mine|>"]
        assert more.encode("The lower cat") == ours.encode("The lower cat") and more.frame == ours.frame

"""Stage 4: begin and end tokens come from a model's files; and a tokenizer from the parts in a GGUF file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from support.tokenizer_specimens import FAMILIES

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.gguf_parts import gguf_parts
from tokenizer.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GGUFVocabulary,
    build_tokenizer,
)
from tokenizer.huggingface_files import read_content
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.loading import load_tokenizer
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer


def folder_of(folder: Path, family: str, **files: Any):
    (folder / "tokenizer.json").write_text(json.dumps(FAMILIES[family]), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return load_tokenizer(folder)


def test_llama_3_begins_with_its_own_token_and_has_several_ends(tmp_path: Path):
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": None}
    ours = folder_of(tmp_path, "Llama 3", tokenizer_config=names, generation_config={"eos_token_id": [3, 7]})
    begin, end = ours.special_tokens["<|begin_of_text|>"], ours.special_tokens["<|end_of_text|>"]
    assert (ours.begin_ids, ours.end_ids, ours.pad_id) == ([begin], [end, 3, 7], None)
    assert ours.end_of_text_id == begin  # documents of a data set are divided by it
    assert ours.encode_documents(["a", "b"]).tolist() == [begin, *ours.encode("a"), begin, *ours.encode("b")]
    assert pickle.loads(pickle.dumps(ours)).end_ids == ours.end_ids


@pytest.mark.parametrize("says", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": False}])
def test_the_post_processor_decides_how_a_text_begins_as_for_transformers(says: dict[str, bool], tmp_path: Path):
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<unk>", **says}
    ours = folder_of(tmp_path, "Llama 2", tokenizer_config=config)
    assert (ours.begin_ids, ours.end_ids, ours.pad_id) == ([1], [2], 0)
    ours.save(tmp_path / "again" / "tokenizer.json")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()) == config


def test_add_bos_token_counts_where_no_post_processor_says_it(tmp_path: Path):
    for says, expected in (({"add_bos_token": True}, 1), ({"add_bos_token": False}, 0), ({"add_eos_token": False}, 0)):
        ours = folder_of(tmp_path, "Qwen 3", tokenizer_config={"bos_token": "<|im_start|>", **says})
        assert ours.begin_ids == [ours.special_tokens["<|im_start|>"]] * expected


def test_a_model_that_says_it_has_no_begin_token_gets_none(tmp_path: Path):
    ours = folder_of(tmp_path, "Qwen 3", tokenizer_config={"bos_token": None, "eos_token": "<|im_end|>"})
    assert ours.begin_ids == [] and ours.end_ids == [ours.special_tokens["<|im_end|>"]]
    assert ours.end_of_text_id == ours.special_tokens[END_OF_TEXT]


def test_ids_in_config_json_stand_for_a_missing_generation_config(tmp_path: Path):
    ours = folder_of(tmp_path, "Mistral", config={"eos_token_id": 2, "bos_token_id": 1, "hidden_size": 8})
    assert ours.end_ids == [2] and ours.begin_ids == [1] and dict(ours.files.generation_config).keys() == {
        "eos_token_id",
        "bos_token_id",
    }  # fmt: skip


def test_a_tokenizer_that_was_trained_here_begins_and_ends_with_end_of_text():
    ours = BPETokenizer([], [END_OF_TEXT])
    assert (ours.begin_ids, ours.end_ids, ours.pad_id) == ([256], [256], None)
    assert (BPETokenizer([]).begin_ids, BPETokenizer([]).end_ids) == ([], [])


def test_of_several_named_templates_the_default_is_taken(tmp_path: Path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    ours = folder_of(tmp_path, "GPT-2", tokenizer_config={"chat_template": named})
    assert ours.files.chat_template == "plain"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert load_tokenizer(tmp_path).files.chat_template == "own file"


# From GGUF


def parts_of(family: str) -> tuple[list[str], list[int], list[str]]:
    content = FAMILIES[family]
    added = {entry["id"]: entry for entry in content["added_tokens"]}
    texts = {index: text for text, index in content["model"]["vocab"].items()} | {
        i: e["content"] for i, e in added.items()
    }
    kinds = {index: CONTROL if entry["special"] else USER_DEFINED for index, entry in added.items()}
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    return [texts[i] for i in range(len(texts))], [kinds.get(i, NORMAL) for i in range(len(texts))], merges


@pytest.mark.parametrize(
    ("family", "pre"),
    [("SmolLM2", "smollm"), ("Llama 3", "llama-bpe"), ("Qwen 3", "qwen2"), ("DeepSeek V3", "deepseek-v3")],
)
def test_a_byte_level_tokenizer_is_built_from_the_parts_in_a_gguf_file(family: str, pre: str):
    tokens, types, merges = parts_of(family)
    begin = types.index(CONTROL)
    vocabulary = GGUFVocabulary("gpt2", tokens, types, merges, pre=pre, begin=begin, end=begin, more_ends=[5], pad=3)
    ours = build_tokenizer(vocabulary)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(FAMILIES[family]))
    text = "The newest cat: 1969, don't — 東京 naïve<think> lower"
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert isinstance(ours, BPETokenizer)
    assert (ours.begin_ids, ours.end_ids, ours.pad_id) == ([begin] if pre == "llama-bpe" else [], [begin, 5], 3)


def test_sentence_pieces_tokenizer_is_built_from_scores():
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁lower",
        "lo",
        "er",
        "low",
        "▁low",
        "▁lower",
    ]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-100.0 - index for index in range(6)] + [-1.0, -2.0, -3.0, -4.0, -5.0]
    vocabulary = GGUFVocabulary("llama", tokens, types, scores=scores, begin=1, end=2, chat_template="{{ 1 }}")
    ours = build_tokenizer(vocabulary)
    assert isinstance(ours, PipelineTokenizer)
    shown = [tokens[index] for index in ours.encode("lower low é</s>", allowed_special="all")]
    assert shown == ["▁lower", "▁low", "▁", "<0xC3>", "<0xA9>", "</s>"]
    assert ours.decode(ours.encode("lower low é")) == "lower low é"
    assert (ours.begin_ids, ours.end_ids, ours.files.chat_template) == ([1], [2], "{{ 1 }}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "t5"}, "of the kind 't5'; gpt2 and llama are supported"),
        ({"pre": "chameleon"}, "pre-tokenizer 'chameleon' is not supported"),
        ({"types": [1]}, "token types"),
        ({"model": "llama"}, "0 scores"),
    ],
)
def test_parts_that_are_not_supported_are_refused_by_name(change: dict[str, Any], message: str):
    tokens, types, merges = parts_of("SmolLM2")
    values = {"model": "gpt2", "tokens": tokens, "types": types, "merges": merges, "pre": "smollm", **change}
    with pytest.raises(TokenizerError, match=message):
        build_tokenizer(GGUFVocabulary(**values))


# To GGUF


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("GPT-2", "gpt-2"),
        ("Llama 3", "llama-bpe"),
        ("Qwen 3", "qwen2"),
        ("SmolLM2", "smollm"),
        ("DeepSeek V3", "deepseek-v3"),
        ("Llama 2", "llama"),
        ("Gemma", "llama"),
    ],
)
def test_the_parts_for_a_gguf_file_make_the_same_tokenizer_again(family: str, name: str):
    tokenizer = read_content(FAMILIES[family])
    parts = gguf_parts(tokenizer, tokenizer.vocab_size + 2)
    assert name in (parts.pre, parts.model)
    assert len(parts.tokens) == len(parts.types) == tokenizer.vocab_size + 2
    assert parts.types[-1] == UNUSED and parts.tokens[-1] == f"[UNUSED{tokenizer.vocab_size + 1}]"
    again = build_tokenizer(parts)
    assert again.special_tokens == tokenizer.special_tokens and again.always_found == tokenizer.always_found
    for text in ("The newest cat: 1969, don't — 東京 naïve<think> lower", "  low\n\n newer", "", "Ünïcode 🙂 low er"):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode(text + "<s></s>", "all") == tokenizer.encode(text + "<s></s>", "all")


_MERGES = FAMILIES["Llama 2"]["model"]["merges"]
SPLIT = _MERGES[1::2] + _MERGES[::2]  # the pairs that make one token are no longer together


def changed(family: str, **parts: Any) -> dict[str, Any]:
    content = FAMILIES[family]
    return {**content, **parts, "model": {**content["model"], **parts.get("model", {})}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FAMILIES["Falcon"], r"does not know the tokenizer's pattern \(Punctuation, ByteLevel, Digits, Split\)"),
        (FAMILIES["T5"], "its model is Unigram"),
        (FAMILIES["BERT"], "its model is WordPiece"),
        (FAMILIES["RoBERTa"], "its added token '<mask>' has lstrip"),
        (FAMILIES["Mistral"], "its Metaspace puts a space before a text by the scheme 'first'"),
        (changed("GPT-2", model={"merges": []}), "without merges"),
        (changed("GPT-2", normalizer={"type": "Lowercase"}), "its normalizer Lowercase is not in GGUF"),
        (changed("Llama 3", model={"ignore_merges": False}), "do not make its token 'unmade'"),
        (changed("Llama 2", model={"byte_fallback": False}), "no token for some bytes"),
        (changed("Llama 2", model={"ignore_merges": True}), "ignore_merges"),
        (changed("Llama 2", model={"merges": SPLIT}), "not in the order"),
        (changed("Llama 2", model={"merges": _MERGES[:-1]}), "not in the order"),
        (changed("Llama 2", normalizer={"type": "NFKC"}), r"\(NFKC\) are not those of SentencePiece"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused_by_name(content: dict[str, Any], message: str):
    tokenizer = read_content(content)
    with pytest.raises(TokenizerError, match=message):
        gguf_parts(tokenizer, tokenizer.vocab_size)

"""Stage 4: a pattern of tokenizer.json means what it means for `tokenizers`, or is refused by name."""

from __future__ import annotations

import json

import pytest
from support.tokenizer_specimens import BYTE_LEVEL, FAMILIES
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tokenizer import patterns
from tokenizer.huggingface_files import read_content, save_huggingface
from tokenizer.interface import TokenizerError
from tokenizer.pipeline.foreign_patterns import translate
from tokenizer.pipeline.pre_tokenizers import PreTokenizers

TEXTS = [
    "ab 12abcd\n", "\n\na\nb\r\nc\x0b\x0c\x85\u2028d", "x² + y² 10²m ①② Ⅳ", "क्\u200dष १२ ١٢", "it's IT'S don'T ſ K k İ ı I",
    "a{b}c]d-e_f|~&&||--[^a]", "ß SS st ﬆ ﬁ é É", "日本語 ひらがな\u3000全角", "\x08\x07\x1b\x1c\xa0", "12345678 ff Ⓐⓐ", " ’s e\u0301 🙂",
]  # fmt: skip
SAME = [
    # what a word has, what is at an edge, what a dot and a set take, what counts without regard to case
    r"\w+|[^\w\s]+", r"\W+", r"[\w-]+", r"[^\W\d]+", r"[[:word:]]+", r"\p{Word}+", r"[\p{Word}x]+", r"\b", r"\B.", r"\b\p{L}*?",
    r"^.", r".$", r"\A.", r".\z", r".\Z", r"(?m:.+)", r"(?m:a(?-m:.))|.", r"\h+", r"\H+", r"[\h_]+",
    r"[\p{L}[\p{N}]]+", r"[^[ab]]+", r"[a[^b]]+", r"[a-z&&[^aeiou]]+", r"[^\w&&[^a]]+", r"[]a]+", r"[^]a]+", r"[a-]+", r"[||]+",
    r"[[:^alpha:]]+", r"[[:alnum:]]+", r"[[:digit:]]+", r"[[:punct:]]+", r"[[:xdigit:]]+", r"[[:blank:][:cntrl:]]+", r"\p{^L}+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?i:[a-z]+)", r"(?i:[k-s]+)", r"(?i:i+)", r"(?i)it's|k+", r"(?i:[’']s)", r"(?i:a(?-i:b)c)",
    r"\p{N}{1,3}+", r"\p{N}{1,3}?", r"\p{N}{2,}", r"\p{L}++.?", r"a{b}", r"[a]{,2}b", r"\x41|\x{65e5}|\u672c|\v|\a|\e|[\b]",
    r"[\u4e00-\u9fff]+", r"(?<=a)b|(?<!\n)b", r"(?>a|ab)c?", r"[!-/:-@\[-`{-~]+", r"\p{Han}+|\p{Latin}+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SAME)
def test_a_pattern_cuts_as_tokenizers_does_and_can_be_written_again(pattern: str):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    ours = PreTokenizers([step])
    for theirs in (pattern, translate(pattern)):
        reference = pre_tokenizers.Split(Regex(theirs), "isolated")
        for text in TEXTS:
            assert ours.cut(text) == [piece for piece, _ in reference.pre_tokenize_str(text) if piece], (theirs, text)


@pytest.mark.parametrize(
    "part",
    [r"\R", r"\X", r"\N", r"\O", r"\K", r"\G", r"\y", r"\1", r"\0", r"\c", r"\p{Script=Han}", r"\p{Extended_Pictographic}",
     "(?<n", "(?x", "(?s", "(?~", "(?#", "(?(", "{2}?", "**", "a-c", "(?i) with st", "(?i) with é", "(?i) with [^a]",
     r"(?i) with \p{Lu}"],
)  # fmt: skip
def test_a_part_that_is_not_known_to_mean_the_same_is_refused_by_name(part: str):
    pattern = {
        "{2}?": "a{2}?", "**": "a**", "a-c": "[a-c-e]", "(?i) with st": "(?i:st)", "(?i) with é": "(?i:é)",
        "(?i) with [^a]": "(?i:[^a])", r"(?i) with \p{Lu}": r"(?i:\p{Lu})",
    }.get(part, part + "a)")  # fmt: skip
    with pytest.raises(TokenizerError) as caught:
        translate(pattern)
    assert part in str(caught.value).replace("\\\\", "\\") and "\n" not in str(caught.value)


def test_a_pattern_that_is_too_deep_or_never_ends_is_one_line():
    for pattern in ("(" * 10_000, "[" * 10_000, "(a", "[a", "a)", "[a&&]", "[z-a]", "+a"):
        with pytest.raises(TokenizerError, match="its pattern"):
            translate(pattern)


def test_the_patterns_of_this_project_mean_the_same_for_tokenizers():
    for name in ("GPT2", "CL100K", "O200K", "LLAMA3", "QWEN", "DIGITS"):
        pattern = getattr(patterns, f"{name}_PATTERN")
        assert translate(pattern) == pattern


def test_steps_that_became_one_pattern_are_written_as_tokenizers_reads_them(tmp_path):
    split = {"type": "Split", "pattern": {"Regex": r"\h+"}, "behavior": "Isolated", "invert": False}
    steps = [split, {**BYTE_LEVEL, "use_regex": True}]
    ours = read_content({**FAMILIES["GPT-2"], "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}})
    save_huggingface(ours, tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["pre_tokenizer"]["type"] == "Sequence"
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids

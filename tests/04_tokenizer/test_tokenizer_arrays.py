"""Stage 4: the array algorithms compared with the simple algorithms that they replace."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import regex
from hypothesis import given, settings, strategies as st
from support.tokenizer_references import TEXT, any_texts

from tokenizer.boundaries import LETTER, NUMBER, OTHER, SPACE, class_table, gpt2_boundaries
from tokenizer.key_table import KeyTable
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN, PreTokenizer, spell_out_classes
from tokenizer.pre_token_table import PreTokenTable

PATTERNS = [GPT2_PATTERN, CL100K_PATTERN, O200K_PATTERN]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(texts=st.lists(any_texts, min_size=1, max_size=5))
def test_boundaries_are_where_the_regular_expression_cuts_and_no_text_sees_the_next(texts):
    joined = "".join(text + "\n" for text in texts)
    codes = np.array([ord(character) for character in joined], dtype=np.uint32)
    barriers = np.cumsum([len(text) + 1 for text in texts]) - 1
    expected, offset = [], 0
    for text in texts:
        expected += [offset + match.start() for match in regex.finditer(GPT2_PATTERN, text)]
        offset += len(text) + 1
        expected.append(offset - 1)
    assert np.flatnonzero(gpt2_boundaries(codes, barriers)).tolist() == expected


@pytest.mark.parametrize("pattern", PATTERNS)
def test_classes_spelled_out_match_what_regex_matches(pattern: str):
    ours, theirs = re.compile(spell_out_classes(pattern)), regex.compile(pattern)
    characters = "".join(f" {chr(code)}a{chr(code)}1" for code in range(0x10000))
    assert ours.findall(characters) == theirs.findall(characters)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300, deadline=None)
@given(text=any_texts, size=st.integers(1, 20))
def test_pieces_have_the_pre_tokens_of_the_whole(pattern: str, text: str, size: int):
    pre_tokenizer = PreTokenizer(pattern)
    pieces = list(pre_tokenizer.pieces(text, size))
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in pre_tokenizer.split(piece)] == pre_tokenizer.split(text)


def test_pieces_are_of_the_length_asked_for_where_the_text_allows():
    lengths = [len(piece) for piece in PreTokenizer(GPT2_PATTERN).pieces(TEXT * 10, 500)]
    assert max(lengths) <= 500
    assert min(lengths[:-1]) > 400
    assert len(list(PreTokenizer(r"\w+|\W").pieces(TEXT, 500))) == 1  # nothing is known about this pattern


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2**63, 2**64 - 1])), max_size=60), max_size=6)
)
def test_a_key_table_gives_each_key_one_number(batches):
    table, numbers = KeyTable(), {}
    for batch in batches:
        low = np.array([key[0] for key in batch], dtype=np.uint64)
        high = np.array([key[1] for key in batch], dtype=np.uint64)
        before = table.find(low, high).tolist()
        assert before == [numbers.get(key, -1) for key in batch]
        for key, number in zip(batch, table.add(low, high).tolist(), strict=True):
            assert numbers.setdefault(key, number) == number
    assert sorted(numbers.values()) == list(range(len(table)))
    assert {(low, high) for low, high in zip(table.low.tolist(), table.high.tolist(), strict=True)} == set(numbers)


def test_a_key_table_grows():
    table = KeyTable()
    keys = np.random.default_rng(0).permutation(200_000).astype(np.uint64)
    for part in np.array_split(keys, 7):
        table.add(part, part ^ np.uint64(1))
    assert len(table) == 200_000
    numbers = table.find(keys, keys ^ np.uint64(1))
    assert np.array_equal(table.low[numbers], keys)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(any_texts, min_size=1, max_size=6))
def test_numbers_stand_for_the_pre_tokens_of_each_text(texts):
    pre_tokenizer = PreTokenizer(GPT2_PATTERN)
    table = PreTokenTable(pre_tokenizer)
    table.number(["something known already", "x" * 30])
    numbers, ends = table.number(texts)
    known = table.pre_tokens()
    assert len(set(known)) == len(known)
    parts = np.split(numbers, ends)[:-1]
    for text, part in zip(texts, parts, strict=True):
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert [known[number] for number in part] == [token.encode() for token in pre_tokenizer.split(clean)]


@pytest.mark.parametrize("length", [7, 8, 9, 14, 15, 16, 17])
def test_pre_tokens_that_differ_in_nul_bytes_or_length_only_are_told_apart(length: int):
    table = PreTokenTable(PreTokenizer(r"[^|]+|\|"))
    words = ["\0" * length, "\0" * (length - 1) + "a", "a" + "\0" * (length - 1), "a", "\0"]
    numbers, _ = table.number(["|".join(words)])
    assert len(set(numbers.tolist())) == len(words) + 1


def test_the_table_of_classes_takes_little_memory_to_make():
    class_table.cache_clear()
    tracemalloc.start()
    try:
        table = class_table(0x110000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(table) + 4_000_000
    for character, kind in (
        ("a", LETTER),
        ("é", LETTER),
        ("東", LETTER),
        ("٣", NUMBER),
        ("\u2028", SPACE),
        ("🙂", OTHER),
    ):
        assert table[ord(character)] == kind

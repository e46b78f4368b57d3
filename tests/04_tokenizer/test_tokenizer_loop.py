"""Stage 4: the compiled loops compared with the simple algorithms that they replace."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import regex
import tokenizers
from hypothesis import example, given, settings, strategies as st
from support.tokenizer_references import TEXT, any_texts, edge_texts

from tokenizer.bpe_tokenizer import SHORT, BPETokenizer
from tokenizer.cutting import (
    CODE_POINTS,
    KINDS,
    LINE_END,
    LOWER,
    MARK,
    NUMBER,
    OTHER_LETTER,
    PADDING,
    SPACE,
    SYMBOL,
    UPPER,
    class_table,
    next_end,
    windows_of,
)
from tokenizer.loop_encoder import count_by_loop
from tokenizer.patterns import GPT2_PATTERN, QWEN_PATTERN, PreTokenizer, to_utf8

# Words long enough for several windows of eight bytes, with everything that may end them.
words = st.text("abcXYZ", min_size=1, max_size=20)
separators = st.sampled_from(
    [" ", "  ", "'s", "'LL", "'ſ", "1", "é", "ǅ", "中", "́", "\n", "\r\n ", "/", "!\n/", "\u2028"]
)
word_texts = st.lists(st.one_of(words, separators), max_size=12).map("".join)


@lru_cache
def untrained(pattern: str) -> BPETokenizer:
    return BPETokenizer([], pattern=pattern)


def cut(pattern: str, text: str) -> list[str]:
    data = text.encode()
    windows, classes = windows_of(data + b"a" * PADDING), class_table(CODE_POINTS)  # what follows must not matter
    pre_tokens, at = [], 0
    while at < len(data):
        end = next_end(windows, at, len(data), classes, KINDS[pattern])
        pre_tokens.append(data[at:end].decode())
        at = end
    return pre_tokens


@pytest.mark.parametrize("pattern", KINDS)
@settings(max_examples=200, deadline=None)
@given(text=st.one_of(any_texts, edge_texts, word_texts))
@example(text="don't DON'T we'LL I'ſ x'")
@example(text="12345 6 ٣٣٣٣")
@example(text=" \t\r\n\r\n  a\n \u2028x  ")
@example(text="camelCase HTMLPage 中文ABC ́ʰA ́!")
def test_the_loop_cuts_where_the_regular_expression_does(pattern: str, text: str):
    clean = to_utf8(text).decode()
    assert cut(pattern, clean) == regex.findall(pattern, clean)


@pytest.mark.parametrize("pattern", KINDS)
def test_every_character_is_cut_as_by_the_regular_expression(pattern: str):
    characters = [chr(code) for code in range(CODE_POINTS) if not 0xD800 <= code < 0xE000]
    sample = characters[:0x3100] + characters[0x3100::97]
    text = "".join(f"a{character}b 1{character} {character}!\n {character}A{character}a" for character in sample)
    pieces = regex.findall(pattern, text)
    assert count_by_loop([text], PreTokenizer(pattern)) == Counter(piece.encode() for piece in pieces)


@pytest.mark.parametrize("pattern", [*KINDS, r"[^|]+|\|"])
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.one_of(any_texts, word_texts), max_size=5))
def test_no_text_sees_the_next(pattern: str, texts):
    tokenizer = untrained(pattern)
    together, ends = tokenizer.encode_batch_to_array(texts)
    apart = [tokenizer._encode_plainly(text) for text in texts]
    assert [part.tolist() for part in np.split(together, ends)[:-1]] == apart


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(any_texts, word_texts))
def test_qwens_ids_are_those_of_tokenizers(text: str, qwen):
    ours, theirs = qwen
    clean = to_utf8(text).decode()
    assert ours.encode_to_array(text).tolist() == theirs.encode(clean).ids


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> tuple[BPETokenizer, tokenizers.Tokenizer]:
    from tokenizer.huggingface_files import save_huggingface
    from tokenizer.tokenizer_trainer import train_bpe

    ours = train_bpe([TEXT], 600, pattern=QWEN_PATTERN)
    folder = tmp_path_factory.mktemp("qwen")
    save_huggingface(ours, folder)
    return ours, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("length", [7, 8, 9, 14, 15, 16, 17, 300])
def test_pre_tokens_that_differ_in_nul_bytes_or_length_only_are_told_apart(length: int):
    words = ["\0" * length, "\0" * (length - 1) + "!", "!" + "\0" * (length - 1), "!", "\0"]
    assert count_by_loop(["a".join(words)] * 2, PreTokenizer()) == {
        **{word.encode(): 2 for word in words},
        b"a": 8,
    }


def test_more_pre_tokens_than_the_table_has_room_for_are_counted_and_encoded():
    words = [f"{number} and{'a' * (number % 30)}" for number in range(100_000)] + ["b" * 3_000_000]
    text = " ".join(words)
    expected = Counter(piece.encode() for piece in regex.findall(GPT2_PATTERN, text))
    assert count_by_loop([text], PreTokenizer()) == expected
    assert (
        BPETokenizer([]).encode_to_array(text).tobytes()
        == np.frombuffer(text.encode(), np.uint8).astype("<u4").tobytes()
    )


def test_threads_that_encode_at_the_same_time_do_not_disturb_each_other():
    tokenizer = BPETokenizer([(104, 105), (32, 256)])
    texts = [" ".join(f"hi{number}" for number in range(start, start + 20_000)) for start in (0, 10_000, 90_000)]
    expected = [BPETokenizer(tokenizer.merges).encode(text) for text in texts]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda index=index: found.update({index: tokenizer.encode(texts[index])}))
        for index in range(len(texts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(texts))] == expected


def test_the_table_of_classes_takes_little_memory_to_make():
    class_table.cache_clear()
    tracemalloc.start()
    try:
        table = class_table(CODE_POINTS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(table) + 4_000_000
    kinds = {"a": LOWER, "É": UPPER, "ǅ": UPPER, "東": OTHER_LETTER, "ʰ": OTHER_LETTER, "́": MARK, "٣": NUMBER}
    kinds |= {"\u2028": SPACE, "\t": SPACE, "\r": LINE_END, "\x1c": SYMBOL, "🙂": SYMBOL}
    assert {character: int(table[ord(character)]) for character in kinds} == kinds


@pytest.mark.slow
def test_plain_kernels_give_the_same_ids_and_counts_and_a_short_text_needs_no_numba(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from tokenizer import BPETokenizer\n"
        "from tokenizer.pre_token_counts import count_pre_tokens\n"
        "tokenizer = BPETokenizer([(104, 105), (32, 256)], ['<e>'])\n"
        f"short = tokenizer.encode('hi hi!'[:{SHORT - 1}])\n"
        "assert 'numba' not in sys.modules\n"
        "text = 'hi é hi!' * 100\n"
        "print(short, tokenizer.encode(text), tokenizer.encode_batch([text, '', 'hi']), sep='\\n')\n"
        "print(tokenizer.encode_to_array('hi<e>', 'all').tolist(), count_pre_tokens([text])[b' hi'])\n"
    )
    kinds = [os.environ | {"NULLM_KERNELS": kind} for kind in ("plain", "")]
    plain, compiled = (
        subprocess.run([sys.executable, script], capture_output=True, text=True, env=env) for env in kinds
    )
    assert plain.stderr == "" and plain.stdout == compiled.stdout != ""

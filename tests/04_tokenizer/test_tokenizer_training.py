"""Stage 4: learned merges against the definition and against Hugging Face tokenizers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tokenizers
from hypothesis import given, settings, strategies as st
from support.tokenizer_references import TEXT, any_texts, replace_pair, slow_merges

from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.byte_models import byte_stream
from neural_networks.corpus import split_documents
from tokenizer import pre_token_counts
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.file_encoder import encode_files
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.interop import from_printable, to_printable
from tokenizer.merge_learner import learn_merges
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN, to_utf8
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.tokenizer_trainer import train_bpe
from tokenizer.vocab_builder import compression_by_size, vocabulary_statistics
from tokenizer.wordpiece_trainer import train_wordpiece


def test_merges_follow_the_definition_on_real_text():
    counts = count_pre_tokens([TEXT])
    assert learn_merges(counts, 250) == slow_merges(counts, 250)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=12).map(lambda b: bytes(x % 3 + 97 for x in b)), st.integers(1, 5))
)
def test_merges_follow_the_definition_where_pairs_overlap_and_tie(counts):
    assert learn_merges(counts, 30) == slow_merges(counts, 30)


def test_merges_are_those_of_hugging_face_where_no_count_is_tied():
    # Word i occurs 3^i times, so two pairs with different words never have equal counts.
    words = ["ab", "cd", "abcd", "efab", "ghij", "cdef", "ghab"]
    documents = [" ".join([word] * 3**index) for index, word in enumerate(words)]
    ours = train_bpe(documents, 256 + 12, special_tokens=())
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=ours.vocab_size,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    theirs.train_from_iterator(documents, trainer)
    printable = [to_printable(ours.decode_bytes([index])) for index in range(ours.vocab_size)]
    assert set(printable) == set(theirs.get_vocab())


def test_hugging_faces_merges_differ_from_ours_in_ties_only():
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=450, show_progress=False, initial_alphabet=alphabet)
    theirs.train_from_iterator([TEXT], trainer)
    pairs = [tuple(map(from_printable, pair)) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    words = Counter({tuple(bytes([b]) for b in word): n for word, n in count_pre_tokens([TEXT]).items()})
    ours = train_bpe([TEXT], 450, special_tokens=())
    names = [ours.decode_bytes([index]) for index in range(450)]
    same = 0
    for step, pair in enumerate(pairs):  # at each step theirs, like ours, is among the most frequent
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for left, right in pairwise(word):
                counts[left, right] += count
        assert counts[pair] == max(counts.values())
        if same == step:
            mine = tuple(names[token] for token in ours.merges[step])
            assert counts[mine] == counts[pair]
            same += mine == pair
        merged = Counter()
        for word, count in words.items():
            merged[tuple(replace_pair(word, pair, pair[0] + pair[1]))] += count
        words = merged


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K_PATTERN, O200K_PATTERN, r"\w+|\W"])
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(any_texts, max_size=4))
def test_counts_are_those_of_the_regular_expression(texts, pattern: str):
    expected: Counter[bytes] = Counter()
    for text in texts:
        clean = to_utf8(text).decode()
        expected.update(piece.encode() for piece in regex.findall(pattern, clean))
    assert count_pre_tokens(texts, pattern) == expected


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K_PATTERN])
def test_counting_in_parts_and_processes_changes_nothing(workers: int, pattern: str, monkeypatch):
    whole = count_pre_tokens([TEXT, TEXT[::-1]], pattern)
    monkeypatch.setattr(pre_token_counts, "CHUNK_LENGTH", 700)
    pieces = (TEXT[start : start + 37] for start in range(0, len(TEXT), 37))
    assert count_pre_tokens([pieces, TEXT[::-1]], pattern, workers=workers) == whole


def test_nothing_is_learned_from_a_special_token_nor_across_it(monkeypatch):
    monkeypatch.setattr(pre_token_counts, "CHUNK_LENGTH", 10)
    text = f"ab{END_OF_TEXT}ab\n{END_OF_TEXT}{END_OF_TEXT} ab"
    parts = [text[start : start + 3] for start in range(0, len(text), 3)]
    for documents in ([text], [iter(parts)]):
        assert count_pre_tokens(documents, special_tokens=[END_OF_TEXT]) == {b"ab": 2, b"\n": 1, b" ab": 1}


def test_the_rarest_pre_tokens_are_dropped_when_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(pre_token_counts, "CHUNK_LENGTH", 10)
    documents = ["often " * 30, *(f"word{chr(97 + i)}" for i in range(20))]
    counts = count_pre_tokens(documents, max_distinct=5)
    assert len(counts) <= 11
    assert counts[b" often"] == 29


def test_progress_is_told():
    merges, characters = [], []
    train_bpe([TEXT], 300, on_merge=lambda *call: merges.append(call), on_characters=characters.append)
    assert merges == [(done, 43) for done in range(1, 44)]
    assert sum(characters) == len(TEXT)


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(TokenizerError, match="at least 257: 256 bytes \\+ 1 special tokens, got 256"):
        train_bpe(["text"], 256)


def test_special_tokens_that_repeat_are_refused_before_training():
    with pytest.raises(TokenizerError, match="distinct"):
        train_bpe(iter(()), 300, ["<|a|>", "<|a|>"])


@pytest.mark.parametrize(("documents", "merges"), [(["aaaa"], 2), ([], 0), ([""], 0), (["a", "b"], 0)])
def test_a_text_with_few_pairs_gives_a_smaller_vocabulary(documents, merges: int):
    assert train_bpe(documents, 1000).vocab_size == 256 + merges + 1


def test_counting_works_where_processes_are_spawned(tmp_path: Path):
    # As on macOS and Windows: a new interpreter that imports the script again.
    count_pre_tokens(["compiled here, if it was not yet, so that the others say nothing about it"])
    script = tmp_path / "count.py"
    script.write_text(
        "import multiprocessing\n"
        "from tokenizer import pre_token_counts\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    pre_token_counts.CHUNK_LENGTH = 10\n"
        "    print(pre_token_counts.count_pre_tokens(['to be or not to be'] * 3, workers=2)[b' be'])\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr) == ("6\n", "")


@pytest.mark.parametrize(
    "call",
    [
        lambda text: train_bpe(text, 300),
        lambda text: train_wordpiece(text, 300),
        lambda text: CharacterTokenizer.train(text),
        lambda text: count_pre_tokens(text),
        lambda text: ByteTokenizer().encode_batch(text),
        lambda text: ByteTokenizer().encode_batch_to_array(text),
        lambda text: ByteTokenizer(["<s>"]).encode_documents(text),
        lambda text: BPETokenizer([]).encode_batch(text),
        lambda text: BPETokenizer([]).encode_batch_to_array(text),
        lambda text: vocabulary_statistics(ByteTokenizer(), text),
        lambda text: compression_by_size({b"a": 1}, text, [256]),
        lambda text: encode_files(ByteTokenizer(), text, "unused.bin"),
        lambda text: split_documents("x", text, 0.1),
        lambda text: xz_bits_per_byte(text),
        lambda text: xz_bits_per_byte(["a"], text),
        lambda text: gzip_bits_per_byte(text),
        lambda text: byte_stream(text),
    ],
)
def test_one_text_where_a_list_is_expected_is_refused(call):
    with pytest.raises(ValueError, match=r"must be a list of texts, got the single text 'one string'.*\[text\]"):
        call("one string")


def test_one_special_token_where_a_list_is_expected_is_refused():
    with pytest.raises(TokenizerError, match="got the single text '<s>'"):
        count_pre_tokens(["a<s>"], special_tokens="<s>")
    with pytest.raises(TokenizerError, match="got the single text '<s>'"):
        ByteTokenizer(["<s>"]).encode("a", allowed_special="<s>")

"""Stage 4: BPE against the definition, against tokenizers and against tiktoken."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.interface import END_OF_TEXT, TokenizerError, load_tokenizer
from tokenizer.patterns import GPT2_PATTERN
from tokenizer.merge_learner import learn_merges
from tokenizer.pre_token_counts import count_pre_tokens
from tokenizer.tokenizer_trainer import train_bpe

TEXT = Path(__file__).read_text(encoding="utf-8") * 2 + "naïve café — 東京 🙂👩‍👩‍👧 don't  stop\n\n\t end   "


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return train_bpe([TEXT], 600)


def slow_merges(counts: Counter[bytes], num_merges: int) -> list[tuple[int, int]]:
    """The definition of BPE: count everything, merge the best pair everywhere, repeat."""
    words = {tuple(word): count for word, count in counts.items()}
    names = [bytes([i]) for i in range(256)]
    merges = []
    for _ in range(num_merges):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], names[pair[0]], names[pair[1]]))
        merges.append(best)
        names.append(names[best[0]] + names[best[1]])
        replaced = {}
        for word, count in words.items():
            new, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    new.append(len(names) - 1)
                    i += 2
                else:
                    new.append(word[i])
                    i += 1
            replaced[tuple(new)] = replaced.get(tuple(new), 0) + count
        words = replaced
    return merges


def test_training_follows_the_definition_on_real_text():
    counts = count_pre_tokens([TEXT])
    assert learn_merges(counts, 200) == slow_merges(counts, 200)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=12).map(lambda b: bytes(x % 3 + 97 for x in b)), st.integers(1, 5))
)
def test_training_follows_the_definition_where_pairs_overlap_and_tie(counts):
    assert learn_merges(Counter(counts), 30) == slow_merges(Counter(counts), 30)


def test_encoding_equals_tokenizers_and_tiktoken_with_the_same_merges(bpe: BPETokenizer):
    names = [bpe.decode_bytes([i]) for i in range(256 + len(bpe.merges))]
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=GPT2_PATTERN,
        mergeable_ranks={name: i for i, name in enumerate(names)},
        special_tokens={END_OF_TEXT: bpe.end_of_text_id},
    )
    assert bpe.encode(TEXT) == theirs.encode_ordinary(TEXT)
    marked = f"{END_OF_TEXT}a{END_OF_TEXT}{END_OF_TEXT} b"
    assert bpe.encode(marked, allowed_special="all") == theirs.encode(marked, allowed_special="all")


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_survives_the_round_trip(text: str, bpe: BPETokenizer):
    assert bpe.decode(bpe.encode(text)) == text.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> tuple[BPETokenizer, tiktoken.Encoding, tokenizers.Tokenizer]:
    vocab = json.loads((shared_data / "gpt2_vocab.json").read_text(encoding="utf-8"))
    lines = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    # GPT-2's files write each byte as a printable character.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    to_byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}
    ranks = {bytes(to_byte[c] for c in name): i for name, i in vocab.items() if name != END_OF_TEXT}
    ids = {bytes([b]): b for b in range(256)}
    merges = []
    for line in lines:
        if line.startswith("#version"):
            continue
        left, right = (bytes(to_byte[c] for c in part) for part in line.split(" "))
        merges.append((ids[left], ids[right]))
        ids[left + right] = 255 + len(merges)
    ours = BPETokenizer(merges, [END_OF_TEXT])
    theirs = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256})
    rust = tokenizers.ByteLevelBPETokenizer(str(shared_data / "gpt2_vocab.json"), str(shared_data / "gpt2_merges.txt"))
    return ours, theirs, rust


def test_gpt2s_merges_give_gpt2s_tokens(gpt2, shared_data: Path):
    ours, theirs, rust = gpt2
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000] + TEXT
    pieces = [ours.decode_bytes([i]) for i in ours.encode(text)]
    assert pieces == [theirs.decode_single_token_bytes(i) for i in theirs.encode_ordinary(text)]
    assert len(pieces) == len(rust.encode(text).ids)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=100))
def test_gpt2s_merges_give_gpt2s_tokens_on_any_unicode(text: str, gpt2):
    ours, theirs, _ = gpt2
    pieces = [ours.decode_bytes([i]) for i in ours.encode(text)]
    assert pieces == [theirs.decode_single_token_bytes(i) for i in theirs.encode_ordinary(text)]


def test_user_text_never_becomes_a_special_token_unless_allowed(bpe: BPETokenizer):
    assert bpe.end_of_text_id not in bpe.encode(END_OF_TEXT)
    assert bpe.decode(bpe.encode(END_OF_TEXT)) == END_OF_TEXT
    assert bpe.encode(END_OF_TEXT, allowed_special="all") == [bpe.end_of_text_id]
    with pytest.raises(TokenizerError, match="unknown special tokens"):
        bpe.encode("x", allowed_special=["<|nope|>"])


def test_of_two_special_tokens_that_begin_alike_the_longer_is_found():
    tokenizer = BPETokenizer([], ["<|a|>", "<|a|>b"])
    assert tokenizer.encode("<|a|>b<|a|>", allowed_special="all") == [257, 256]


def test_lone_surrogates_are_encoded_as_the_replacement_character(bpe: BPETokenizer):
    assert bpe.decode(bpe.encode("a\ud800b")) == "a\ufffdb"


def test_incomplete_characters_decode_to_replacement_characters(bpe: BPETokenizer):
    assert bpe.decode([0xE6, 0x9D]) == "\ufffd"
    assert bpe.decode_bytes([0xE6, 0x9D]) == b"\xe6\x9d"
    with pytest.raises(TokenizerError, match="id 9999 is outside the vocabulary of 600"):
        bpe.decode([9999])


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(TokenizerError, match="at least 257: 256 bytes \\+ 1 special tokens, got 256"):
        train_bpe(["text"], 256)


def test_a_text_with_few_pairs_gives_a_smaller_vocabulary():
    assert train_bpe(["aaaa"], 1000).vocab_size == 256 + 2 + 1


@pytest.mark.parametrize("kind", ["bpe", "character"])
def test_a_saved_tokenizer_is_the_same_when_loaded(kind: str, bpe: BPETokenizer, tmp_path: Path):
    tokenizer = bpe if kind == "bpe" else CharacterTokenizer.train([TEXT], [END_OF_TEXT])
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.sha256() == tokenizer.sha256()
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.special_tokens == tokenizer.special_tokens
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"type": "wordpiece"}',
        '{"type": "bpe"}',
        '{"type": "bpe", "pattern": "x", "special_tokens": [], "merges": [[0, 999]]}',
        '{"type": "character", "characters": "aa", "special_tokens": []}',
    ],
)
def test_a_foreign_or_damaged_file_is_refused_in_one_line(content: str, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_characters_get_ids_in_order_and_unknown_ones_are_named():
    tokenizer = CharacterTokenizer.train(["hello"], [END_OF_TEXT])
    assert tokenizer.encode("hole") == [1, 3, 2, 0]
    assert tokenizer.end_of_text_id == 4
    with pytest.raises(TokenizerError, match=r"'z' \(U\+007A\)"):
        tokenizer.encode("z")

"""Stage 4: encoding against tiktoken, Hugging Face tokenizers and the definition."""

from __future__ import annotations

import pickle
import random

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings, strategies as st
from support.tokenizer_references import TEXT, any_texts, slow_encode, tiktoken_with
from tiktoken_ext import openai_public

from tokenizer import loop_encoder
from tokenizer.bpe_tokenizer import SHORT, BPETokenizer
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.interop import load_gpt2_files
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from tokenizer.pre_token_memory import new_memory
from tokenizer.tokenizer_trainer import train_bpe

PATTERNS = {"gpt2": GPT2_PATTERN, "cl100k_base": CL100K_PATTERN, "o200k_base": O200K_PATTERN}


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return train_bpe([TEXT], 600)


@pytest.fixture(scope="module", params=PATTERNS)
def with_peer(request) -> tuple[BPETokenizer, tiktoken.Encoding]:
    """Our tokenizer with each pattern, and tiktoken with its own spelling of the pattern."""
    with pytest.MonkeyPatch.context() as patch:  # the ranks would be downloaded; the pattern is in the code
        for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
            patch.setattr(openai_public, loader, lambda *_, **__: {})
        pattern = getattr(openai_public, request.param)()["pat_str"]
    tokenizer = train_bpe([TEXT], 600, pattern=PATTERNS[request.param])
    return tokenizer, tiktoken_with(tokenizer, pattern)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(text=any_texts)
def test_any_unicode_gives_tiktokens_ids_with_every_pattern(text: str, with_peer):
    ours, theirs = with_peer
    expected = theirs.encode_ordinary(text)
    assert ours.encode(text) == expected
    assert ours.encode_to_array(text).tolist() == expected  # by the compiled loop, which longer texts take


def test_every_character_beside_every_kind_of_character_gives_tiktokens_ids(with_peer):
    ours, theirs = with_peer
    characters = [chr(code) for code in range(0x3100)] + [chr(code) for code in range(0x1D400, 0x1D800)]
    for form in ("{}", "a{}b", " {} ", "1{}2", "!{}!", "\n{}\n", "'{}", "A{}a"):
        text = "\n-\n".join(form.format(character) for character in characters)
        assert ours.encode(text) == theirs.encode_ordinary(text)


def test_long_and_short_texts_take_different_ways_to_the_same_ids(with_peer):
    ours, theirs = with_peer
    text = TEXT * 20
    assert len(text) > SHORT
    assert ours.encode(text) == theirs.encode_ordinary(text)
    lines = text.splitlines(keepends=True)
    assert ours.encode_batch(lines) == [theirs.encode_ordinary(line) for line in lines]
    assert ours.encode_batch(lines) == [ours.encode(line) for line in lines]


def test_a_pattern_of_ones_own_is_used():
    ours = train_bpe([TEXT], 400, pattern=r"\w+|\W")
    assert ours.encode(TEXT * 5) == tiktoken_with(ours).encode_ordinary(TEXT * 5)


@pytest.mark.parametrize(("pattern", "message"), [("(", "not a regular expression"), (r"\w+", "leaves characters out")])
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, message: str):
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer([], pattern=pattern).encode("a b")


@settings(max_examples=200, deadline=None)
@given(
    # Merges of three letters and of their results, in any possible order, not only in a trained order.
    merges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25, unique=True),
    words=st.lists(st.text("abc", min_size=1, max_size=60), max_size=8),
)
def test_all_ways_of_merging_follow_the_definition(merges, words):
    usable = []
    for left, right in merges:
        pair = tuple(97 + index if index < 3 else 253 + index for index in (left, right))
        if max(pair) < 256 + len(usable) and pair not in usable:
            usable.append(pair)
    tokenizer = BPETokenizer(usable)
    expected = [slow_encode(usable, word.encode()) for word in words]
    assert [tokenizer.encode(word) for word in words] == expected
    assert tokenizer.encode_batch(words) == expected  # by the compiled loop


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["a", "ab", "etaoin", "é", "🙂", " ", "\n", "'"])
def test_a_megabyte_without_a_space_takes_linear_time(letters: str, bpe: BPETokenizer):
    # A quadratic encoder would take hours; the time itself is measured in benchmarks/.
    draw = random.Random(0)
    text = "".join(draw.choices(letters, k=1_000_000 // len(letters.encode()) * (1 if len(letters) == 1 else 3)))
    assert bpe.decode_bytes(bpe.encode_to_array(text).tolist()) == text.encode()
    start = text[:5000]
    assert bpe.encode(start) == tiktoken_with(bpe).encode_ordinary(start)


def test_a_full_cache_changes_nothing(bpe: BPETokenizer, monkeypatch):
    monkeypatch.setattr(loop_encoder, "new_memory", lambda *_: new_memory(5, 300))
    monkeypatch.setattr("tokenizer.bpe_tokenizer.CACHE_SIZE", 10)
    fresh = BPETokenizer(bpe.merges, bpe.special_tokens)
    assert fresh.encode(TEXT * 30) == bpe.encode(TEXT * 30)
    assert fresh.encode(TEXT[:1000]) == bpe.encode(TEXT[:1000])


def test_another_process_gets_the_same_tokenizer(bpe: BPETokenizer):
    assert pickle.loads(pickle.dumps(bpe)).sha256() == bpe.sha256()


# GPT-2 as published


@pytest.fixture(scope="module")
def gpt2(shared_data) -> tuple[BPETokenizer, tiktoken.Encoding, tokenizers.Tokenizer]:
    files = shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt"
    ours = load_gpt2_files(*files)
    return ours, tiktoken_with(ours), tokenizers.ByteLevelBPETokenizer(*map(str, files))


@pytest.mark.slow
def test_gpt2s_ids_are_those_of_tiktoken_and_tokenizers(gpt2, shared_data):
    ours, theirs, rust = gpt2
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8") + TEXT
    ids = ours.encode(text)
    assert ids == theirs.encode_ordinary(text)
    assert ids == rust.encode(text).ids
    assert ours.encode("Hello world") == [15496, 995]  # as published
    assert ours.vocab_size == 50257 and ours.end_of_text_id == 50256
    assert ours.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(text=any_texts)
def test_gpt2s_ids_are_tiktokens_on_any_unicode(text: str, gpt2):
    ours, theirs, _ = gpt2
    assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.slow
def test_gpt2s_ids_are_those_of_tiktoken_and_tokenizers_on_all_of_python_docs(gpt2, documentation):
    ours, theirs, rust = gpt2
    documents = [*documentation.train, *documentation.validation]
    ids = ours.encode_batch(documents)
    assert ids == theirs.encode_ordinary_batch(documents, num_threads=2)
    sample = range(0, len(documents), 20)  # only a sample, because ours has a tenth of tiktoken's speed
    assert [ids[i] for i in sample] == [e.ids for e in rust.encode_batch([documents[i] for i in sample])]


# Special tokens


def test_user_text_never_becomes_a_special_token_unless_allowed(bpe: BPETokenizer):
    assert bpe.end_of_text_id not in bpe.encode(END_OF_TEXT)
    assert bpe.end_of_text_id not in bpe.encode(END_OF_TEXT * 1000)
    assert bpe.decode(bpe.encode(END_OF_TEXT)) == END_OF_TEXT
    assert bpe.encode(END_OF_TEXT, allowed_special="all") == [bpe.end_of_text_id]
    with pytest.raises(TokenizerError, match="unknown special tokens"):
        bpe.encode("x", allowed_special=["<|nope|>"])


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from([END_OF_TEXT, "<|a|>", "<|a", "|>", "a", " b", "\n", "<", "🙂"]), max_size=30),
    allowed=st.sets(st.sampled_from([END_OF_TEXT, "<|a|>"])),
)
def test_adjacent_and_half_special_tokens_are_cut_as_in_tiktoken(parts, allowed):
    ours = BPETokenizer([(60, 124)], [END_OF_TEXT, "<|a|>"])
    text = "".join(parts)
    expected = tiktoken_with(ours).encode(text, allowed_special=allowed, disallowed_special=())
    assert ours.encode(text, allowed_special=allowed) == expected
    assert ours.encode_to_array(text, allowed_special=allowed).tolist() == expected


def test_of_two_special_tokens_that_begin_alike_the_longer_is_found():
    tokenizer = BPETokenizer([], ["<|a|>", "<|a|>b"])
    assert tokenizer.encode("<|a|>b<|a|>", allowed_special="all") == [257, 256]


def test_of_two_special_tokens_that_overlap_the_first_is_found():
    tokenizer = BPETokenizer([], ["<x>", "x><"])
    assert tokenizer.encode("<x><x>", allowed_special="all") == [256, 256]


@pytest.mark.parametrize("specials", [["a", "a"], [""], "<|endoftext|>"])
def test_special_tokens_that_repeat_or_are_empty_are_refused(specials):
    with pytest.raises(TokenizerError, match="special tokens"):
        BPETokenizer([], specials)


# Decoding


@settings(max_examples=300, deadline=None)
@given(text=any_texts)
def test_any_text_survives_the_round_trip(text: str, bpe: BPETokenizer):
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert bpe.decode(bpe.encode(text)) == clean
    assert bpe.decode_bytes(bpe.encode(text)) == clean.encode()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 599), max_size=50))
def test_any_ids_decode(ids, bpe: BPETokenizer):
    assert bpe.decode(ids) == bpe.decode_bytes(ids).decode("utf-8", "replace") == tiktoken_with(bpe).decode(ids)


def test_lone_surrogates_are_encoded_as_the_replacement_character(bpe: BPETokenizer):
    assert bpe.decode(bpe.encode("a\ud800b")) == "a\ufffdb"
    assert bpe.encode("\ud83d\ude42") == bpe.encode("🙂")  # a surrogate pair is the same as its character


@pytest.mark.parametrize("wrong", [600, 9999, -1])
def test_an_id_outside_the_vocabulary_is_named(wrong: int, bpe: BPETokenizer):
    assert bpe.decode([0xE6, 0x9D]) == "\ufffd"
    with pytest.raises(TokenizerError, match=f"id {wrong} is outside the vocabulary of 600"):
        bpe.decode([5, wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(0, 999)],), "merge 0 joins \\(0, 999\\)"),
        (([(97, 98), (97, 98)],), "listed twice"),
        (([], [], GPT2_PATTERN, [1, 2]), "as many ids"),
        (([], [], GPT2_PATTERN, [0] * 256), "all different"),
        (([], [], GPT2_PATTERN, [*range(255), 1 << 32]), "below 2³²"),
    ],
)
def test_impossible_merges_and_ids_are_refused(arguments, message: str):
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer(*arguments)

"""Stage 4: saved tokenizers, and other programs' files both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from support.tokenizer_references import TEXT
from tiktoken.load import load_tiktoken_bpe

from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.byte_tokenizer import ByteTokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.huggingface_files import load_huggingface, save_huggingface
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.interop import (
    from_printable,
    load_gpt2_files,
    load_tiktoken_ranks,
    save_gpt2_files,
    save_tiktoken_ranks,
    to_printable,
)
from tokenizer.loading import load_tokenizer
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from tokenizer.tokenizer_trainer import train_bpe
from tokenizer.wordpiece_trainer import train_wordpiece

PATTERNS = {"gpt2": GPT2_PATTERN, "cl100k": CL100K_PATTERN, "o200k": O200K_PATTERN}
CHAT = [END_OF_TEXT, "<|user|>", "<|assistant|>"]


@pytest.fixture(scope="module", params=PATTERNS)
def bpe(request) -> BPETokenizer:
    return train_bpe([TEXT], 600, CHAT, PATTERNS[request.param])


# Our own file


@pytest.mark.parametrize("kind", ["bpe", "bpe with ids", "character", "byte", "wordpiece"])
def test_a_saved_tokenizer_is_the_same_when_loaded(kind: str, tmp_path: Path):
    trained = train_bpe([TEXT], 600)
    tokenizer = {
        "bpe": lambda: trained,
        "bpe with ids": lambda: BPETokenizer(trained.merges, [END_OF_TEXT], ids=range(1000, 1600)),
        "character": lambda: CharacterTokenizer.train([TEXT], [END_OF_TEXT]),
        "byte": lambda: ByteTokenizer([END_OF_TEXT]),
        "wordpiece": lambda: train_wordpiece([TEXT], 500),
    }[kind]()
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "new" / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.sha256() == tokenizer.sha256()
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.special_tokens == tokenizer.special_tokens
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_a_file_of_the_first_version_loads(tmp_path: Path):
    # As in checkpoints that were written before tokens could have their own ids.
    path = tmp_path / "tokenizer.json"
    path.write_text(
        '{"type": "bpe", "pattern": "\\\\w+|\\\\W", "special_tokens": ["<|endoftext|>"], "merges": [[104, 105]]}'
    )
    assert load_tokenizer(path).encode("hi there<|endoftext|>", allowed_special="all") == [256, 32, *b"there", 257]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"type": "sentencepiece"}',
        b'{"type": "bpe"}',
        b'{"type": "bpe", "pattern": "x", "special_tokens": [], "merges": [[0, 999]]}',
        b'{"type": "bpe", "pattern": "(", "special_tokens": [], "merges": []}',
        b'{"type": "bpe", "pattern": "x", "special_tokens": ["a", "a"], "merges": []}',
        b'{"type": "bpe", "pattern": "x", "special_tokens": [], "merges": [], "ids": [1]}',
        b'{"type": "character", "characters": "aa", "special_tokens": []}',
        b'{"type": "byte"}',
        b'{"type": "wordpiece", "vocabulary": ["a"], "special_tokens": []}',
        b'{"model": {"type": "BPE"}}',
    ],
)
def test_a_foreign_or_damaged_file_is_refused_in_one_line(content: bytes, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TokenizerError, match=r"there is no tokenizer at .*nothing"):
        load_tokenizer(tmp_path / "nothing")


# Hugging Face


@pytest.mark.slow
def test_tokenizers_and_autotokenizer_load_what_is_written_and_agree(bpe: BPETokenizer, tmp_path: Path):
    from transformers import AutoTokenizer

    save_huggingface(bpe, tmp_path, context_length=256)
    text = f"{END_OF_TEXT}<|user|>{TEXT}<|assistant|>  {TEXT}"
    expected = bpe.encode(text, allowed_special="all")
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert rust.encode(text).ids == expected
    assert rust.get_vocab_size() == bpe.vocab_size
    auto = AutoTokenizer.from_pretrained(str(tmp_path))
    assert auto(text)["input_ids"] == expected
    assert auto.decode(expected) == text
    assert auto.eos_token_id == bpe.end_of_text_id
    assert auto.model_max_length == 256
    assert auto.decode(bpe.encode(TEXT)) == TEXT


def test_what_hugging_face_writes_loads_and_agrees(bpe: BPETokenizer, tmp_path: Path):
    save_huggingface(bpe, tmp_path / "ours")
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    rust.save(str(tmp_path / "tokenizer.json"))
    loaded = load_huggingface(tmp_path)
    assert loaded.sha256() == bpe.sha256()


def test_a_tokenizer_trained_by_hugging_face_loads_and_agrees(tmp_path: Path):
    rust = tokenizers.ByteLevelBPETokenizer()
    rust.train_from_iterator([TEXT], vocab_size=500, special_tokens=["<s>", "</s>"], show_progress=False)
    rust.save(str(tmp_path / "tokenizer.json"))
    ours = load_huggingface(tmp_path / "tokenizer.json")
    assert ours.special_tokens == {"<s>": 0, "</s>": 1}  # ids that come before the bytes'
    text = TEXT * 20
    assert ours.encode(f"<s>{text}</s>", allowed_special="all") == rust.encode(f"<s>{text}</s>").ids
    assert ours.decode(ours.encode(text)) == text


def test_characters_are_composed_first_as_qwens_tokenizer_does(tmp_path: Path):
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    trained = train_bpe([TEXT + " café naïve Ångström" * 20], 600, ["<|im_end|>"])
    ours = BPETokenizer(trained.merges, ["<|im_end|>"], pattern, nfc=True)
    save_huggingface(ours, tmp_path)
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "cafe\u0301<|im_end|>nai\u0308ve A\u030angstro\u0308m \u212b \u1100\u1161 "  # decomposed
    for sample in (text, text * 300):  # a short text and one that is encoded in bulk
        assert ours.encode(sample, allowed_special="all") == rust.encode(sample).ids
    assert ours.decode(ours.encode("cafe\u0301")) == "café"
    assert ours.encode("cafe\u0301") == ours.encode("café") != BPETokenizer(trained.merges).encode("cafe\u0301")
    chunks = list(ours.encode_iterable(["cafe", "\u0301 and on"]))  # cut between a letter and its accent
    assert chunks == ours.encode("café and on")
    loaded = load_huggingface(tmp_path)
    assert (
        loaded.nfc
        and loaded.sha256() == ours.sha256() != BPETokenizer(trained.merges, ["<|im_end|>"], pattern).sha256()
    )
    with pytest.raises(TokenizerError, match="NFC"):
        save_tiktoken_ranks(ours, tmp_path / "x.tiktoken")
    with pytest.raises(TokenizerError, match="NFC"):
        save_gpt2_files(ours, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordLevel", "vocab": {}}}, "its model WordLevel is not supported"),
        ({"normalizer": {"type": "Nmt"}}, "its normalizer Nmt is not supported"),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "its pre-tokenizer UnicodeScripts is not supported"),
        ({"pre_tokenizer": []}, "damaged"),
        ({"model": {}}, "damaged"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "lacks 255 of the 256 bytes"),
    ],
)
def test_a_tokenizer_json_that_is_something_else_is_refused(change, message: str, tmp_path: Path):
    save_huggingface(BPETokenizer([(97, 98)]), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        load_huggingface(tmp_path)


# GPT-2's files


def test_gpt2s_files_written_are_the_ones_read(shared_data: Path, tmp_path: Path):
    ours = load_gpt2_files(shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt")
    save_gpt2_files(ours, tmp_path)
    published = json.loads((shared_data / "gpt2_vocab.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) == published
    version, *merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert version == "#version: 0.2"
    assert merges == (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8").split("\n")


def test_gpt2s_files_of_ours_load_in_hugging_face_and_back(tmp_path: Path):
    ours = train_bpe([TEXT], 600)
    save_gpt2_files(ours, tmp_path)
    rust = tokenizers.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert rust.encode(TEXT).ids == ours.encode(TEXT)
    assert load_gpt2_files(tmp_path / "vocab.json", tmp_path / "merges.txt").sha256() == ours.sha256()


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        ("[]", "", "should hold a JSON object"),
        ('{"a": "b"}', "", "its values should be ids"),
        ('{"a": 0}', "", "lacks 255 of the 256 bytes"),
        (None, "a b c\n", "line 1: expected two tokens"),
        (None, "a b\n", "merge 0 joins b'a' and b'b', which the vocabulary lacks"),
        (None, "a 東\n", "not in GPT-2's byte alphabet"),
    ],
)
def test_gpt2_files_that_do_not_fit_are_refused(vocabulary, merges: str, message: str, tmp_path: Path):
    save_gpt2_files(BPETokenizer([]), tmp_path)
    if vocabulary is not None:
        (tmp_path / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_gpt2_files(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_every_byte_has_its_printable_character():
    everything = bytes(range(256))
    assert from_printable(to_printable(everything)) == everything
    assert to_printable(everything).isprintable()
    assert len(set(to_printable(everything))) == 256


# tiktoken


def test_tiktoken_loads_the_ranks_and_agrees_and_they_load_back(bpe: BPETokenizer, tmp_path: Path):
    path = tmp_path / "ours.tiktoken"
    save_tiktoken_ranks(bpe, path)
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=bpe.pattern,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens=bpe.special_tokens,
    )
    assert theirs.encode(TEXT, allowed_special="all") == bpe.encode(TEXT, allowed_special="all")
    assert load_tiktoken_ranks(path, bpe.pattern, bpe.special_tokens).sha256() == bpe.sha256()


@pytest.mark.slow
def test_merges_are_found_in_gpt2s_ranks(shared_data: Path, tmp_path: Path):
    gpt2 = load_gpt2_files(shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt")
    save_tiktoken_ranks(gpt2, tmp_path / "gpt2.tiktoken")
    assert load_tiktoken_ranks(tmp_path / "gpt2.tiktoken", GPT2_PATTERN, {END_OF_TEXT: 50256}).merges == gpt2.merges


@pytest.mark.parametrize(("line", "message"), [("YQ==", "line 1"), ("*** 3", "line 1"), ("YQ== x", "line 1")])
def test_a_damaged_file_of_ranks_is_refused(line: str, message: str, tmp_path: Path):
    (tmp_path / "a.tiktoken").write_text(line)
    with pytest.raises(TokenizerError, match=message):
        load_tiktoken_ranks(tmp_path / "a.tiktoken", GPT2_PATTERN, {})


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_of_others_may_have_either_line_end_and_a_byte_order_mark(line_end: str, tmp_path: Path):
    ours = train_bpe([TEXT], 400)
    save_gpt2_files(ours, tmp_path)
    save_tiktoken_ranks(ours, tmp_path / "a.tiktoken")
    for name in ("merges.txt", "a.tiktoken"):
        content = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_bytes(("\ufeff" + content.replace("\n", line_end)).encode())
    assert load_gpt2_files(tmp_path / "vocab.json", tmp_path / "merges.txt").sha256() == ours.sha256()
    assert load_tiktoken_ranks(tmp_path / "a.tiktoken", GPT2_PATTERN, ours.special_tokens).sha256() == ours.sha256()


# --- a vocabulary and merges ------------------------------------------------------------------

BYTES = {byte: bytes([byte]) for byte in range(256)}


def test_a_tokenizer_is_built_again_from_its_vocabulary_and_merges():
    ours = train_bpe([TEXT], 400, ["<|a|>", END_OF_TEXT])
    vocab = ours.vocab
    assert list(vocab) == list(range(400)) and b"".join(vocab[i] for i in ours.encode(TEXT)) == TEXT.encode()
    assert vocab[399] == END_OF_TEXT.encode()
    merges = [(vocab[left], vocab[right]) for left, right in ours.merges]
    assert BPETokenizer.from_vocabulary(vocab, merges, ["<|a|>", END_OF_TEXT]).sha256() == ours.sha256()
    vocab.clear()  # a copy
    assert ours.decode(ours.encode("text")) == "text"


def test_special_tokens_have_their_place_in_the_vocabulary_or_the_next_free_id():
    vocab = BYTES | {300: b"hi", 256: b"<|b|>"}
    built = BPETokenizer.from_vocabulary(vocab, [(b"h", b"i")], ["<|a|>", "<|b|>", "<|c|>"])
    assert built.special_tokens == {"<|b|>": 256, "<|a|>": 301, "<|c|>": 302}
    assert built.encode("hi<|b|>", allowed_special="all") == [300, 256]
    assert built.vocab == vocab | {301: b"<|a|>", 302: b"<|c|>"}
    given = BPETokenizer.from_vocabulary(BYTES | {256: b"  "}, [(b" ", b" ")], {"  ": 7000})  # the text of a token
    assert given.encode("  ") == [256] and given.encode("  ", ["  "]) == [7000]


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ({0: b"a"}, [], "lacks 256 of the 256 bytes|lacks 255 of the 256 bytes, such as 0x00"),
        (BYTES | {256: b"hi"}, [], "1 tokens are made by no merge, such as b'hi'"),
        (BYTES, [(b"h", b"i")], "merge 0 joins b'h' and b'i', which the vocabulary lacks"),
        (BYTES | {256: b"hi", 257: b"hi"}, [(b"h", b"i")], "two ids of the vocabulary have the same bytes"),
        (BYTES | {256: b"hi"}, [(b"h", b"i")] * 2, "listed twice"),
        (BYTES | {-1: b"hi"}, [(b"h", b"i")], "none below 0"),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_merges_is_refused(vocab, merges, message: str):
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer.from_vocabulary(vocab, merges)


def test_every_kind_shows_the_bytes_of_its_ids():
    assert CharacterTokenizer("aé", ["<s>"]).vocab == {0: b"a", 1: "é".encode(), 2: b"<s>"}
    assert ByteTokenizer(["<s>"]).vocab == BYTES | {256: b"<s>"}
    pieces = train_wordpiece(["low low lower"], 16)
    assert [pieces.vocab[index].decode() for index in range(len(pieces.vocabulary))] == pieces.vocabulary

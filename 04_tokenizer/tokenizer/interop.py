"""Other programs' files: GPT-2's vocab.json and merges.txt, and tiktoken's ranks, both ways.

Hugging Face's tokenizer.json is in `huggingface_files`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from groundwork.files import read_json, write_atomically
from groundwork.text_sources import read_lines
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.bpe_vocabulary import NO_ID
from tokenizer.interface import END_OF_TEXT, TokenizerError
from tokenizer.patterns import GPT2_PATTERN


def _printable_bytes() -> dict[int, str]:
    """Each byte as GPT-2 writes it: its own character where that is printable, else one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


CHARACTER_OF_BYTE = _printable_bytes()
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_printable(data: bytes) -> str:
    """Bytes in GPT-2's printable form.

    >>> to_printable(" é".encode())
    'ĠÃ©'
    """
    return data.decode("latin-1").translate(CHARACTER_OF_BYTE)


def from_printable(text: str) -> bytes:
    """Inverse of `to_printable`.

    Raises:
        TokenizerError: a character that stands for no byte.
    """
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in text)
    except KeyError as error:
        raise TokenizerError(f"{text!r} is not in GPT-2's byte alphabet: it has {error.args[0]!r}") from None


def load_gpt2_files(
    vocab_path: Path | str,
    merges_path: Path | str,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
) -> BPETokenizer:
    """Load GPT-2's two files, as OpenAI published them and Hugging Face still writes them.

    Args:
        vocab_path: `vocab.json`, from token to id.
        merges_path: `merges.txt`, two tokens a line.
        special_tokens: the tokens of the vocabulary that are special.
        pattern: cuts text into pre-tokens; the files do not say which.

    Raises:
        TextError: a file is missing or cannot be read.
        TokenizerError: a file is damaged, or the two do not belong together.
    """
    vocabulary = read_json(vocab_path)
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise TokenizerError(f"{vocab_path} is not a vocabulary: its values should be ids")
    special_ids = {text: vocabulary.pop(text) for text in special_tokens if text in vocabulary}
    merges = []
    for number, line in read_lines(merges_path):
        if line.startswith("#version"):
            continue
        parts = line.split()
        if len(parts) != 2:
            raise TokenizerError(f"{merges_path}, line {number}: expected two tokens, got {line!r}")
        merges.append((from_printable(parts[0]), from_printable(parts[1])))
    vocab = {index: from_printable(token) for token, index in vocabulary.items()}
    return BPETokenizer.from_vocabulary(vocab, merges, special_ids, pattern)


def save_gpt2_files(tokenizer: BPETokenizer, folder: Path | str) -> None:
    """Write `vocab.json` and `merges.txt`.

    Raises:
        TokenizerError: the tokenizer composes characters first, which the files cannot say.
    """
    _refuse_nfc(tokenizer, "GPT-2's files")
    printable, vocabulary = printable_vocabulary(tokenizer)
    vocabulary |= tokenizer.special_tokens
    lines = ["#version: 0.2", *(f"{printable[left]} {printable[right]}" for left, right in tokenizer.merges)]
    by_id = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    write_atomically(Path(folder) / "vocab.json", json.dumps(by_id, ensure_ascii=False))
    write_atomically(Path(folder) / "merges.txt", "\n".join(lines) + "\n")


def printable_vocabulary(tokenizer: BPETokenizer) -> tuple[list[str], dict[str, int]]:
    """Tokens in printable form, by number, and the id of each that has one; added tokens left out."""
    printable = [to_printable(token) for token in tokenizer.tokens]
    ids = {text: index for text, index in zip(printable, tokenizer.ordinary_ids, strict=True) if index != NO_ID}
    return printable, ids


def load_tiktoken_ranks(path: Path | str, pattern: str, special_tokens: dict[str, int]) -> BPETokenizer:
    """Load a `.tiktoken` file: a token in base 64 and its rank on each line.

    The file holds no merges, but each can be found. The merges before a token's own are applied to its bytes until
    two parts are left. The token's merge joins these two.

    Args:
        path: of the file.
        pattern: cuts text into pre-tokens; the file does not say which.
        special_tokens: text and id of each; the file has none.

    Raises:
        TextError: the file is missing or cannot be read.
        TokenizerError: it is damaged.
    """
    ranks: dict[bytes, int] = {}
    for number, line in read_lines(path):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise TokenizerError(f"{path}, line {number}: expected a token in base 64 and its rank") from None
    in_order = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    merges = [_last_merge(token, ranks) for token in in_order]
    vocab = {rank: token for token, rank in ranks.items()}
    return BPETokenizer.from_vocabulary(vocab, merges, special_tokens, pattern)


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts, limit = [bytes([byte]) for byte in token], ranks[token]
    while len(parts) > 2:
        found = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        at = found.index(min(found))
        if found[at] >= limit:
            raise TokenizerError(f"the token {token!r} cannot be made from the tokens before it")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def save_tiktoken_ranks(tokenizer: BPETokenizer, path: Path | str) -> None:
    """Write a `.tiktoken` file, for `tiktoken.load.load_tiktoken_bpe`; special tokens are not in it.

    Raises:
        TokenizerError: the tokenizer composes characters first, or its merges have an order of their own; the file
            cannot say either.
    """
    _refuse_nfc(tokenizer, "a .tiktoken file")
    if not tokenizer.is_plain:
        raise TokenizerError("a .tiktoken file cannot say in which order merges are made; tokenizer.json can")
    lines = []
    for index in sorted(index for index in tokenizer.ordinary_ids if index != NO_ID):
        lines.append(f"{base64.b64encode(tokenizer.decode_bytes([index])).decode()} {index}")
    write_atomically(Path(path), "\n".join(lines) + "\n")


def _refuse_nfc(tokenizer: BPETokenizer, what: str) -> None:
    if tokenizer.nfc:
        raise TokenizerError(f"{what} cannot say that characters are composed first (NFC); tokenizer.json can")

"""Train a WordPiece vocabulary.

Google never published BERT's trainer. This one does what Hugging Face `tokenizers` does: it learns BPE
merges on the characters of words, and keeps the pieces that the merges make. (The paper of 2012 joins the
pair with the largest count(ab) / (count(a) · count(b)), not the most frequent one.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from groundwork.user_errors import require_texts
from tokenizer.interface import TokenizerError, check_special_tokens
from tokenizer.merge_learner import MergeLearner
from tokenizer.wordpiece_tokenizer import CONTINUATION, SPECIAL_TOKENS, WordPieceTokenizer, split_words


def train_wordpiece(
    documents: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str] = SPECIAL_TOKENS,
    on_merge: Callable[[int, int], None] | None = None,
) -> WordPieceTokenizer:
    """Train a WordPiece tokenizer.

    >>> train_wordpiece(["low low lower"], 16).vocabulary
    ['##e', '##o', '##r', '##w', 'e', 'l', 'o', 'r', 'w', 'lo', 'low']

    Args:
        documents: training texts.
        vocab_size: number of ids wanted: characters (at the beginning of words and within words), pieces and special
            tokens; fewer where the text has no more pairs.
        special_tokens: texts that get ids of their own, after the pieces.
        on_merge: called with (merges done, merges wanted).

    Raises:
        TokenizerError: `vocab_size` has no room for the characters of the text, or there is no text.
    """
    require_texts(documents)
    specials = check_special_tokens(special_tokens)
    words: Counter[str] = Counter()
    for document in documents:
        words.update(split_words(document))
    spelled = [[word[0], *(CONTINUATION + character for character in word[1:])] for word in words]
    # Each character is also a piece by itself, so that a word may begin with one that was seen within words only.
    pieces = sorted({symbol for word in spelled for symbol in word}.union(*words))
    if not pieces:
        raise TokenizerError("there is no word in the documents: a WordPiece vocabulary needs text")
    room = vocab_size - len(pieces) - len(specials)
    if room < 0:
        raise TokenizerError(
            f"the vocabulary size must be at least {vocab_size - room}: {len(pieces)} characters (## apart) + "
            f"{len(specials)} special tokens, got {vocab_size}"
        )
    number = {piece: index for index, piece in enumerate(pieces)}
    learner = MergeLearner(
        np.array([number[symbol] for word in spelled for symbol in word]),
        np.array([len(word) for word in spelled]),
        np.array(list(words.values())),
        [tuple(map(ord, piece)) for piece in pieces],
    )
    tokens, known = list(pieces), set(pieces)  # tokens as the learner numbers them; two may spell one piece
    while missing := vocab_size - len(specials) - len(known):
        merges = learner.learn(missing, on_merge)
        if not merges:
            break
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right].removeprefix(CONTINUATION))
            known.add(tokens[-1])
    return WordPieceTokenizer(dict.fromkeys(tokens), specials)

"""Replay: plain text among the conversations, so that a model does not forget how to continue it.

Fine-tuning asks only for answers, and what is no longer asked for gets worse. The oldest remedy is to keep asking for it:
to mix a share of the earlier kind of text into the new data (Robins, 1995). A piece of a document is here a conversation
that is learned from its first word to its last, so it is packed, masked and shuffled as conversations are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from finetuning.data.chat_format import EncodedConversation
from groundwork.user_errors import UserError
from tokenizer.interface import Tokenizer

CHARACTERS_PER_TOKEN = 4  # about; only says where a long document is cut before it is encoded


def replay_pieces(
    documents: Sequence[str],
    share: float,
    conversations: Sequence[EncodedConversation],
    tokenizer: Tokenizer,
    context_length: int,
    seed: int,
) -> list[EncodedConversation]:
    """Pieces of plain text to mix with conversations.

    Args:
        documents: the text.
        share: of all learned tokens, the share that is plain text; above 0 and below 1.
        conversations: what the text is mixed with.
        tokenizer: the model's.
        context_length: the most tokens of a piece.
        seed: decides which pieces are taken.

    Returns:
        The pieces, each after the token that begins a text, if there is one.

    Raises:
        UserError: there is too little text.
    """
    begin = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    wanted = max(1, round(sum(sum(c.learned) for c in conversations) * share / (1 - share)))
    size = CHARACTERS_PER_TOKEN * context_length
    places = [(document, start) for document in documents for start in range(0, len(document), size)]
    random.Random(seed).shuffle(places)
    pieces: list[EncodedConversation] = []
    missing = wanted
    for document, start in places:
        ids = tokenizer.encode(document[start : start + size])
        while ids and missing:
            room = min(context_length - len(begin), missing + 1 - len(begin))
            piece, ids = [*begin, *ids[:room]], ids[room:]
            if len(piece) > 1:
                learned = [False] + [True] * (len(piece) - 1)  # the first is never predicted
                pieces.append(EncodedConversation(piece, learned))
                missing -= len(piece) - 1
        if not missing:
            return pieces
    raise UserError(
        f"data.replay has {wanted - missing:,} tokens, and data.replay_share {share:g} needs {wanted:,}: give more text, "
        "or lower the share"
    )

"""From bytes to ids in one loop, for texts of any length.

    bytes → classes of characters → end of the pre-token → its key → its row in a table → its ids

If the table has no row for a pre-token yet, its bytes are merged, and the row is filled in. So what costs time is one pass
over the text, in which every byte is looked at about twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from groundwork.compiled import compiled
from tokenizer.cutting import next_end
from tokenizer.pair_merging import merge_tokens
from tokenizer.pre_token_memory import LONG, claim_row, find_row, key_of

LONGEST_REMEMBERED = 256  # bytes; longer pre-tokens rarely occur twice
_LOW_HALF = 0xFFFFFFFF


@compiled(allocates=False)
def encode_pieces(
    windows: Any, stops: Any, kind: int, classes: Any, specials: Any,
    rows: Any, texts: Any, far_ids: Any, used: Any, factors: Any,
    pairs: Any, first_tokens: Any, id_of_token: Any,
    ids: Any, ends: Any, progress: Any,
) -> bool:  # fmt: skip
    """Encode pieces of text, each independently of the others.

    Args:
        windows: the bytes of all pieces; see `cutting.windows_of`.
        stops: where each piece ends, `(pieces,)`.
        kind: how pieces are cut; see `cutting.next_end`.
        classes: see `cutting.class_table`.
        specials: the id that follows each piece, -1 for none.
        rows, texts, far_ids, used, factors: the `Memory` where known pre-tokens are found, and new ones are noted.
        pairs: see `pair_merging.make_pair_table`.
        first_tokens: the token of each byte, `(256,)`; -1 where the byte is left out.
        id_of_token: `(tokens,)`.
        ids: the result; as long as the bytes and the pieces together, and 3 more.
        ends: the number of ids before the first piece, 0, and up to the end of each, `(pieces + 1,)`.
        progress: what has been done: pieces, bytes, ids. In the beginning nothing.

    Returns:
        Whether everything has been done. If not, the memory is full; with a new one, the next call goes on.
    """
    piece, at, made = progress[0], progress[1], progress[2]
    while piece < len(stops):
        stop = stops[piece]
        while 0 <= at < stop:
            end = next_end(windows, at, stop, classes, kind)
            size = end - at
            low, high = key_of(factors, windows, at, size)
            slot = find_row(rows, texts, factors, low, high, windows, at)
            first, others = rows[slot, 2], rows[slot, 3]
            if not rows[slot, 1]:
                is_short = size <= LONGEST_REMEMBERED
                if is_short and not claim_row(rows, texts, far_ids, used, slot, low, high, windows, at, size):
                    progress[0], progress[1], progress[2] = piece, at, made
                    return False
                count = _merge_bytes(windows, at, size, pairs, first_tokens, id_of_token, ids, made)
                if is_short:
                    _remember_ids(rows, far_ids, used, slot, ids, made, count)
                made += count
            elif first >= 0:  # writing three ids is faster than asking how many there are
                ids[made], ids[made + 1], ids[made + 2] = first, others, others >> 32
                made += first >> 32
            else:
                place, count = first & _LOW_HALF, ~first >> 32
                for index in range(count):
                    ids[made + index] = far_ids[place + index]
                made += count
            at = end
        if specials[piece] >= 0:
            ids[made] = specials[piece]
            made += 1
        piece += 1
        ends[piece] = made
    return True


@compiled()
def _merge_bytes(
    windows: Any, at: int, size: int, pairs: Any, first_tokens: Any, id_of_token: Any, ids: Any, start: int
) -> int:
    """Write the ids of a pre-token from `ids[start]` on, and return how many there are."""
    tokens, count = np.empty(size, np.int64), 0
    for place in range(at, at + size):
        tokens[count] = first_tokens[windows[place] & 0xFF]
        count += tokens[count] >= 0
    count = merge_tokens(tokens[:count], pairs)
    for index in range(count):
        ids[start + index] = id_of_token[tokens[index]]
    return count


@compiled(allocates=False)
def _remember_ids(rows: Any, far_ids: Any, used: Any, slot: int, ids: Any, start: int, count: int) -> None:
    """Fill in the row of a pre-token: its ids are the `count` from `ids[start]` on.

    The upper half of the first number is `count`, and the other three halves are the ids. Where this is not enough, or
    where the pre-token is long, the upper half is `~count`, and the lower half is the place of the ids in `far_ids`.
    """
    if rows[slot, 1] < LONG and count <= 3:
        rows[slot, 2], rows[slot, 3] = count << 32, 0
        for index in range(count):
            rows[slot, 2 + (index + 1) // 2] |= np.int64(ids[start + index]) << (32 if index == 2 else 0)
        return
    rows[slot, 2] = ~count << 32 | used[2]
    for index in range(count):
        far_ids[used[2] + index] = ids[start + index]
    used[2] += count


@compiled(allocates=False)
def remember_whole(
    windows: Any, stops: Any, ids: Any, rows: Any, texts: Any, far_ids: Any, used: Any, factors: Any
) -> None:
    """Note texts that become one id each without merging; the memory must have room for them."""
    at = 0
    for index in range(len(stops)):
        low, high = key_of(factors, windows, at, stops[index] - at)
        slot = find_row(rows, texts, factors, low, high, windows, at)
        claim_row(rows, texts, far_ids, used, slot, low, high, windows, at, stops[index] - at)
        _remember_ids(rows, far_ids, used, slot, ids, index, 1)
        at = stops[index]


@compiled(allocates=False)
def count_pieces(
    windows: Any, stops: Any, kind: int, classes: Any,
    rows: Any, texts: Any, far_ids: Any, used: Any, factors: Any,
    progress: Any,
) -> int:  # fmt: skip
    """Count the pre-tokens of pieces of text, in the third number of their rows. See `encode_pieces`.

    Returns:
        0 if everything has been done; else the bytes of the next pre-token, for which the memory has no room.
    """
    piece, at = progress[0], progress[1]
    while piece < len(stops):
        stop = stops[piece]
        while 0 <= at < stop:
            size = next_end(windows, at, stop, classes, kind) - at
            low, high = key_of(factors, windows, at, size)
            slot = find_row(rows, texts, factors, low, high, windows, at)
            if not rows[slot, 1] and not claim_row(rows, texts, far_ids, used, slot, low, high, windows, at, size):
                progress[0], progress[1] = piece, at
                return size
            rows[slot, 2] += 1
            at += size
        piece += 1
    return 0

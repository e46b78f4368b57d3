"""Exercise 7.3: From a token to its place, through a block table."""

from __future__ import annotations

from optimization.engine.block_pool import BlockTable


def slots(self: BlockTable, start: int, stop: int) -> list[int]:
    """Where the tokens from `start` to `stop` (not included) lie.

    The cache is a row of slots, cut into blocks of `block_size`: block b begins at slot b · block_size. A sequence owns
    blocks anywhere in the cache. Its token at position p is in its block number p div block_size (counted from 0), at the
    place p mod block_size.

    Args:
        self: `self.blocks` are the numbers of the blocks in the order of the tokens; `self.pool.block_size` is a number.
        start: the first position.
        stop: the position after the last.
    """
    raise NotImplementedError("Exercise 7.3: pages of memory")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake
from optimization.engine.block_pool import BlockPool


def _slots_and_blocks(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    return {"slots": result, "blocks afterwards": arguments[0].blocks}


def cases() -> Iterator[Case]:
    """One block; a border; scattered; nothing; one token a block; a part of a block."""

    def question(what: str, blocks: list[int], start: int, stop: int, block_size: int = 4) -> Case:
        table = BlockTable(BlockPool(20, block_size))
        table.blocks = list(blocks)
        return Case(
            f"blocks {blocks}, block_size {block_size}: {what}", [table, start, stop], observe=_slots_and_blocks
        )

    yield question("the first three tokens", [0], 0, 3)
    yield question("the first three tokens", [7], 0, 3)
    yield question("positions 2 to 5", [7, 3], 2, 6)
    yield question("one new token, position 8, in the third block", [5, 2, 9], 8, 9)
    yield question("positions 1 to 8", [1, 0, 4], 1, 9, 3)
    yield question("nothing", [1], 2, 2)
    yield question("the end of the first block and nothing of the second", [3, 6], 2, 4)
    yield question("one token a block", [4, 2, 9], 0, 3, 1)


def _contiguous(self: BlockTable, start: int, stop: int) -> list[int]:
    first = (self.blocks[0] or 0) * self.pool.block_size
    return list(range(first + start, first + stop))


def _by_block(self: BlockTable, start: int, stop: int) -> list[int]:
    size = self.pool.block_size
    return [(self.blocks[p // size] or 0) + p % size for p in range(start, stop)]


def _position_in_text(self: BlockTable, start: int, stop: int) -> list[int]:
    size = self.pool.block_size
    return [(self.blocks[p // size] or 0) * size + p for p in range(start, stop)]


def _whole_blocks(self: BlockTable, start: int, stop: int) -> list[int]:
    size = self.pool.block_size
    touched = self.blocks[start // size : -(-stop // size)]
    return [(block or 0) * size + place for block in touched for place in range(size)]


def _consumed(self: BlockTable, start: int, stop: int) -> list[int]:
    size, found = self.pool.block_size, []
    del self.blocks[: start // size]
    for p in range(start % size, start % size + stop - start):
        found.append((self.blocks[p // size] or 0) * size + p % size)
    return found


def _inclusive(self: BlockTable, start: int, stop: int) -> list[int]:
    size = self.pool.block_size
    stop = min(stop + 1, len(self.blocks) * size)
    return [(self.blocks[p // size] or 0) * size + p % size for p in range(start, stop)]


EXERCISE = Exercise(
    stub=slots,
    reference="optimization.engine.block_pool:BlockTable.slots",
    cases=cases,
    in_place=True,
    hints=(
        "Take one position at a time: which block of the sequence is it in, and at which place in the block?",
        "p // block_size is the index into self.blocks, and p % block_size is the place in the block.",
        "[self.blocks[p // size] * size + p % size for p in range(start, stop)].",
    ),
    mistakes=(
        Mistake(_by_block, "a block's first slot is its number times block_size"),
        Mistake(_contiguous, "the blocks of a sequence may lie anywhere: look up each block"),
        Mistake(_position_in_text, "within the block the place is p mod block_size, not p"),
        Mistake(_inclusive, "`stop` is not included"),
        Mistake(_whole_blocks, "only the tokens from start to stop are asked for, not all of their blocks"),
        Mistake(_consumed, "self.blocks must stay as it is: the sequence still has all its blocks"),
    ),
)

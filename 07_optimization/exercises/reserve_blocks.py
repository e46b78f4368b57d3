"""Exercise 7.4: Paged allocation: all the blocks or none."""

from __future__ import annotations

from optimization.engine.block_pool import BlockTable, OutOfBlocksError


def reserve(self: BlockTable, length: int) -> None:
    """Make room for `length` tokens.

    A sequence of n tokens needs enough blocks to hold them; the last may be only partly full. Take the missing blocks from
    the pool, one at a time, and append them. If the pool does not have enough, take none at all: a table that took a part
    and then failed would hold memory that nobody can use.

    Args:
        self: `self.blocks` are the blocks that the sequence has. `self.pool.block_size` is the number of tokens in one,
            `self.pool.num_free` is how many are free, and `self.pool.allocate(after)` takes one and returns its number.
            `after` is the sequence's last block (None if it has none); the pool prefers its neighbour.
        length: how many tokens.

    Raises:
        OutOfBlocksError: there are not enough blocks; the table and the pool are unchanged.
    """
    raise NotImplementedError("Exercise 7.4: take what is missing, or nothing")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake
from optimization.engine.block_pool import BlockPool


class _Table(BlockTable):
    """A table whose pool remembers the requests to it."""

    def __init__(self, num_blocks: int, used: int, length: int):
        super().__init__(BlockPool(num_blocks, 4))
        BlockTable(self.pool).reserve(4 * used)
        BlockTable.reserve(self, length)
        self.asked: list[int | None] = []
        allocate = self.pool.allocate

        def remembered(after: int | None = None) -> int:
            self.asked.append(after)
            return allocate(after)

        self.pool.allocate = remembered  # type: ignore[method-assign]


def _state(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    table: _Table = arguments[0]
    return {"blocks": list(table.blocks), "free blocks": table.pool.num_free, "asked for a neighbour of": table.asked}


def cases() -> Iterator[Case]:
    """One block; a border; nothing missing; several; all free blocks; none; block 0."""

    def question(what: str, table: _Table, length: int, raises: type[Exception] | None = None) -> Case:
        what = f"blocks {table.blocks} of 4 tokens, {table.pool.num_free} free: {what}"
        return Case(what, [table, length], observe=_state, raises=raises)

    yield question("5 tokens into an empty table", _Table(10, 0, 0), 5)
    yield question("4 tokens, exactly one block", _Table(10, 0, 0), 4)
    yield question("room for 6 when there is room for 8", _Table(10, 0, 8), 6)
    yield question("room for 20 when there is room for 8", _Table(10, 2, 8), 20)
    yield question("no token at all", _Table(10, 0, 0), 0)
    yield question("one token more than there is room for", _Table(10, 0, 4), 5)
    # This raises nothing. It is asked like a refusal, so that an error is recognised with any message.
    yield question("all the blocks of the pool", _Table(5, 2, 0), 12, OutOfBlocksError)
    yield question(
        "20 tokens: both of the free blocks, beside the three that it has", _Table(5, 0, 12), 20, OutOfBlocksError
    )
    yield question("more than the pool has: refused, and nothing taken", _Table(5, 2, 4), 20, OutOfBlocksError)


def _reserve(self: BlockTable, length: int, **wrong: bool) -> None:
    size = self.pool.block_size
    needed = (
        length // size
        if wrong.get("rounded_down")
        else length // size + 1
        if wrong.get("one_more")
        else -(-length // size)
    )
    needed = max(1, needed) if wrong.get("at_least_one") else needed
    missing = needed if wrong.get("from_nothing") else max(0, needed - len(self.blocks))
    free = self.pool.num_free - 1 if wrong.get("keeps_one") else self.pool.num_free
    late = wrong.get("a_part") or wrong.get("counted_late")
    if (needed if wrong.get("all_compared") else missing) > free and not late:
        raise OutOfBlocksError(f"{missing} blocks are needed and {free} are free")
    for _ in range(missing):
        if wrong.get("counted_late") and not self.pool.num_free:
            raise OutOfBlocksError("no block is left")
        after = self.blocks[-1] if self.blocks and not wrong.get("no_neighbour") else None
        if wrong.get("zero_is_none"):
            after = after or None
        if wrong.get("first_block"):
            after = self.blocks[0] if self.blocks else None
        self.blocks.append(self.pool.allocate(after))


def _mistaken(name: str) -> Callable[..., Any]:
    def reserve(self: BlockTable, length: int) -> None:
        _reserve(self, length, **{name: True})

    return reserve


EXERCISE = Exercise(
    stub=reserve,
    reference="optimization.engine.block_pool:BlockTable.reserve",
    cases=cases,
    in_place=True,
    hints=(
        "How many blocks hold `length` tokens, and how many of them does the sequence have already?",
        "Rounding up is -(-length // block_size). Compare what is missing with num_free before taking anything.",
        "missing = max(0, -(-length // size) - len(self.blocks)); if missing > self.pool.num_free: raise OutOfBlocksError(…); "
        "for _ in range(missing): self.blocks.append(self.pool.allocate(self.blocks[-1] if self.blocks else None)).",
    ),
    mistakes=(
        Mistake(_mistaken("rounded_down"), "the last block may be partly filled, but it is needed: round up"),
        Mistake(_mistaken("one_more"), "a length that is a multiple of the block size fills its blocks exactly"),
        Mistake(_mistaken("no_neighbour"), "pass the last block to the pool, so that the pool can give its neighbour"),
        Mistake(
            _mistaken("a_part"),
            "some blocks were taken before it was known that the rest is missing: compare first, then take",
        ),
        Mistake(_mistaken("counted_late"), "count first, then take: a table that fails must be unchanged"),
        Mistake(_mistaken("from_nothing"), "the blocks that the sequence already has count"),
        Mistake(_mistaken("keeps_one"), "all free blocks may be taken"),
        Mistake(_mistaken("all_compared"), "only the missing blocks must be free, not all that the sequence needs"),
        Mistake(_mistaken("at_least_one"), "no token needs no block"),
        Mistake(_mistaken("zero_is_none"), "0 is the number of a block: `or None` takes it for none"),
        Mistake(_mistaken("first_block"), "`after` is the *last* block of the sequence, whose neighbour comes next"),
    ),
)

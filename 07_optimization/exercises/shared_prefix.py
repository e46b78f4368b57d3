"""Exercise 7.5: Find what another request has computed already."""

from __future__ import annotations

from optimization.engine.block_pool import BlockTable, Prefix


def shared_prefix(self: BlockTable, tokens: list[int]) -> list[Prefix]:
    """The stored blocks that these tokens begin with.

    The keys and values of a token depend only on the token and those before it. So if a full block of the pool holds the
    first block_size of these tokens, it can be used as it is. Then comes the block with the next block_size tokens, and so
    on until a block is missing.

    At least one token must be left to compute: the model needs it to predict the next token.

    Args:
        self: `self.pool.find(parent, block_of_tokens)` gives the `Prefix` that holds a tuple of tokens after another
            prefix (None for the first block), or None if there is no such block. `self.pool.block_size` is the length of a
            block. If `self.share` is False, prefixes are not shared and nothing is found.
        tokens: the tokens of the prompt.
    """
    raise NotImplementedError("Exercise 7.5: block by block, as far as they are known")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake
from optimization.engine.block_pool import BlockPool


def _blocks(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    table: BlockTable = arguments[0]
    return {
        "found": [prefix.block for prefix in result],
        "blocks of the table afterwards": table.blocks,
        "free blocks of the pool afterwards": table.pool.num_free,
        "tokens afterwards": arguments[1],
    }


def cases() -> Iterator[Case]:
    """Known; a part; the last token; a block in another place; too short; not sharing; another size."""

    def question(what: str, tokens: list[int], share: bool = True) -> Case:
        pool = BlockPool(10, 2)
        taken = {pool.allocate() for _ in range(10)}
        first = pool.register(None, (1, 2), 4)
        second = pool.register(first, (3, 4), 7)
        pool.register(second, (5, 6), 5)
        pool.register(None, (3, 4), 8)
        for block in taken:
            pool.release(block)
        what = (
            "block_size 2; block 4 has (1, 2) and comes first, 7 has (3, 4) and comes after 4, 5 has (5, 6) and comes "
            f"after 7, 8 has (3, 4) and comes first; {what}"
        )
        return Case(what, [BlockTable(pool, share), tokens], observe=_blocks)

    yield question("two known blocks and one new token", [1, 2, 3, 4, 9])
    yield question("the second block differs", [1, 2, 9, 4, 5, 6, 7])
    yield question("all known, but one token must be left", [1, 2, 3, 4])
    yield question("a block that is not full", [1, 2, 3])
    yield question("(3, 4) first, which is another block", [3, 4, 5, 6, 7])
    yield question("a first block that nobody has", [9, 2, 3, 4, 5])
    yield question("one block, of which one token must be left", [1, 2])
    yield question("fewer tokens than a block has", [1])
    yield question("no token", [])
    yield question("not shared (self.share is False)", [1, 2, 3, 4, 9], share=False)
    pool = BlockPool(10, 3)
    pool.register(pool.register(None, (1, 2, 3), 6), (4, 5, 6), 2)
    what = "block_size 3; block 6 has (1, 2, 3), block 2 has (4, 5, 6) after it: both, and one new token"
    yield Case(what, [BlockTable(pool), [1, 2, 3, 4, 5, 6, 7]], observe=_blocks)


def _find(self: BlockTable, tokens: list[int], **wrong: bool) -> list[Prefix]:
    found: list[Prefix] = []
    size, parent = 2 if wrong.get("two") else self.pool.block_size, None
    if not self.share and not wrong.get("always"):
        return found
    last = len(tokens) - size + 1 if wrong.get("nothing_left") else len(tokens) - size
    for start in range(0, last, size):
        prefix = self.pool.find(None if wrong.get("no_parent") else parent, tuple(tokens[start : start + size]))
        if prefix is None:
            if wrong.get("goes_on"):
                continue
            break
        found.append(prefix)
        parent = prefix
    if wrong.get("adopted"):
        self.adopt(found)
    return found[:1] if wrong.get("first_only") else found


def _mistaken(name: str) -> Callable[..., Any]:
    def shared_prefix(self: BlockTable, tokens: list[int]) -> list[Prefix]:
        return _find(self, tokens, **{name: True})

    return shared_prefix


def _consumed(self: BlockTable, tokens: list[int]) -> list[Prefix]:
    found: list[Prefix] = []
    size = self.pool.block_size
    while len(tokens) > size:
        prefix = self.pool.find(found[-1] if found else None, tuple(tokens[:size]))
        if prefix is None:
            break
        found.append(prefix)
        del tokens[:size]
    return found


def _skipping(self: BlockTable, tokens: list[int]) -> list[Prefix]:
    found: list[Prefix] = []
    parent = None
    size = self.pool.block_size
    for start in range(0, len(tokens) - size, size) if self.share else ():
        for known in (parent, *found, *(p for p in self.pool._index.values())):
            prefix = self.pool.find(known, tuple(tokens[start : start + size]))
            if prefix is not None:
                found.append(prefix)
                parent = prefix
                break
    return found


EXERCISE = Exercise(
    stub=shared_prefix,
    reference="optimization.engine.block_pool:BlockTable.shared_prefix",
    cases=cases,
    in_place=True,
    hints=(
        "Go from no parent to the first block, then from the first to the second, until find returns None.",
        "Blocks start at 0, block_size, 2 · block_size, … below len(tokens) - block_size, so at least one token is left.",
        "for start in range(0, len(tokens) - size, size): prefix = self.pool.find(parent, tuple(tokens[start:start + size])); "
        "break on None; append; parent = prefix.",
    ),
    mistakes=(
        Mistake(
            _mistaken("no_parent"),
            "a block is known by its tokens *and* by what stands before it: pass the prefix found last",
        ),
        Mistake(_mistaken("first_only"), "go on with the next block as long as one is found"),
        Mistake(_skipping, "nothing after the first unknown block can be used"),
        Mistake(_mistaken("nothing_left"), "at least one token must be left to compute"),
        Mistake(_mistaken("always"), "if self.share is False, look for nothing"),
        Mistake(_mistaken("two"), "the length of a block is self.pool.block_size"),
        Mistake(_mistaken("adopted"), "only find the blocks: `adopt` is called later, when the request can begin"),
        Mistake(_consumed, "`tokens` belongs to the caller: step over it, do not cut pieces off"),
    ),
)

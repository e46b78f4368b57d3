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


def _blocks(result: Any, arguments: Sequence[Any]) -> list[int]:
    return [prefix.block for prefix in result]


def cases() -> Iterator[Case]:
    """Known; a part; the last token; a block in another place; not sharing."""

    def question(what: str, tokens: list[int], share: bool = True) -> Case:
        pool = BlockPool(10, 2)
        first = pool.register(None, (1, 2), 4)
        second = pool.register(first, (3, 4), 7)
        pool.register(second, (5, 6), 5)
        pool.register(None, (3, 4), 8)
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
    yield question("not shared (self.share is False)", [1, 2, 3, 4, 9], share=False)


def _find(self: BlockTable, tokens: list[int], **wrong: bool) -> list[Prefix]:
    found: list[Prefix] = []
    size, parent = self.pool.block_size, None
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
    return found[:1] if wrong.get("first_only") else found


def _mistaken(name: str) -> Callable[..., Any]:
    def shared_prefix(self: BlockTable, tokens: list[int]) -> list[Prefix]:
        return _find(self, tokens, **{name: True})

    return shared_prefix


def _skipping(self: BlockTable, tokens: list[int]) -> list[Prefix]:
    found: list[Prefix] = []
    parent = None
    for start in range(0, len(tokens) - 2, 2):
        for known in (parent, *found, *(p for p in self.pool._index.values())):
            prefix = self.pool.find(known, tuple(tokens[start : start + 2]))
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
    ),
)

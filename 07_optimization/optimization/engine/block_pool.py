"""Memory for keys and values in blocks, which are given out and taken back like the pages of an operating system.

A contiguous cache reserves a whole context for every sequence, and most of it stays empty. With blocks of
16 tokens, a sequence takes only what it uses, and wastes less than one block (Kwon et al., 2023: "Efficient
Memory Management for Large Language Model Serving with PagedAttention").

Two sequences that begin with the same tokens can share the blocks of those tokens, because the keys of a token
depend only on that token and those before it. A block counts its users. If it has none left but its content is
known, it is kept for the next sequence that needs it, until the memory is needed for something else.

Whoever learns how many tokens of a prompt were known learns something about the prompts of others. So prompts can have
a salt, such as the name of the client: only prompts with the same salt share blocks.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass


class OutOfBlocksError(RuntimeError):
    """Every block is in use. The scheduler then preempts a request."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The tokens of one full block and, through its parent, all tokens before them.

    Two prefixes are equal only if they are the same object. So a dictionary keyed by (parent, tokens) finds
    a block by its hash and compares the tokens, back to the beginning. A collision of hashes can therefore never
    return the keys of another text. The parent of a text's first block is its salt, or None.
    """

    parent: Prefix | str | None
    tokens: tuple[int, ...]
    block: int


class BlockPool:
    """Which blocks are empty, in use, or kept for their content. It holds numbers; the tensors are elsewhere.

    Args:
        num_blocks: how many blocks there are.
        block_size: how many tokens a block holds.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, num_blocks: int, block_size: int):
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a cache needs blocks with room for tokens, got {num_blocks} blocks of {block_size}")
        self.num_blocks, self.block_size = num_blocks, block_size
        self.clear()

    def clear(self) -> None:
        """Make all blocks empty, whoever uses them. The tables that had some must not be used any more."""
        self._users = [0] * self.num_blocks
        self._empty = bytearray(b"\1" * self.num_blocks)
        self._num_empty = self.num_blocks
        self._prefix_of: dict[int, Prefix] = {}
        self._index: dict[tuple[Prefix | str | None, tuple[int, ...]], Prefix] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused, content known; least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: the empty ones, and those that are kept but not in use."""
        return self._num_empty + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks that are in use."""
        return self.num_blocks - self.num_free

    def is_idle(self, prefix: Prefix) -> bool:
        """Whether the block of a prefix has no user at the moment."""
        return self._users[prefix.block] == 0

    def allocate(self, after: int | None = None) -> int:
        """Take one block.

        Neighbouring blocks can be read as one tensor without copying. So a sequence takes the block after its last one
        if that is empty. A new sequence starts in the middle of the largest gap, so that both it and the sequence
        before the gap have room to grow.

        Args:
            after: the last block of the sequence; None for a new sequence.

        Raises:
            OutOfBlocksError: all blocks are in use.
        """
        if after is not None and after + 1 < self.num_blocks and self._empty[after + 1]:
            block = after + 1
        elif self._num_empty:
            gaps = re.finditer(b"\1+", self._empty)
            start, stop = max((gap.span() for gap in gaps), key=lambda span: span[1] - span[0])
            block = start if start == 0 else (start + stop) // 2
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        else:
            raise OutOfBlocksError(f"all {self.num_blocks} blocks of the cache are in use")
        if self._empty[block]:
            self._empty[block] = 0
            self._num_empty -= 1
        self._users[block] = 1
        return block

    def retain(self, prefix: Prefix) -> None:
        """Use the block of a known prefix, together with its other users."""
        if self._users[prefix.block] == 0:
            del self._idle[prefix.block]
        self._users[prefix.block] += 1

    def release(self, block: int) -> None:
        """Stop using a block."""
        if self._users[block] < 1:
            raise AssertionError(f"block {block} was released more often than taken")
        self._users[block] -= 1
        if self._users[block] == 0:
            if block in self._prefix_of:
                self._idle[block] = None
            else:
                self._empty[block] = 1
                self._num_empty += 1

    def find(self, parent: Prefix | str | None, tokens: tuple[int, ...]) -> Prefix | None:
        """The block that holds these tokens after this prefix, if there is one."""
        return self._index.get((parent, tokens))

    def register(self, parent: Prefix | str | None, tokens: tuple[int, ...], block: int) -> Prefix:
        """Let later sequences find a full block.

        Returns:
            Its prefix, or if another block already holds the same tokens, the prefix of that block.
        """
        known = self._index.get((parent, tokens))
        if known is not None:
            return known
        prefix = Prefix(parent, tokens, block)
        self._index[(parent, tokens)] = self._prefix_of[block] = prefix
        return prefix

    def forget_idle(self) -> None:
        """Empty the blocks that are kept only for their content."""
        for block in list(self._idle):
            self._forget(block)
            self._empty[block] = 1
            self._num_empty += 1
        self._idle.clear()

    def _forget(self, block: int) -> None:
        prefix = self._prefix_of.pop(block)
        del self._index[(prefix.parent, prefix.tokens)]


class BlockTable:
    """The blocks of one sequence, in the order of its tokens.

    Args:
        pool: where blocks come from.
        share: whether to look for shared prefixes and to offer its own blocks to others.
        salt: only tables with the same salt share blocks.
    """

    def __init__(self, pool: BlockPool, share: bool = True, salt: str | None = None):
        self.pool, self.share, self.salt = pool, share, salt
        self.blocks: list[int | None] = []  # None: given back, because no later token sees it
        self.length = 0  # tokens whose keys and values are stored
        self._prefix: Prefix | str | None = salt
        self._registered = 0  # how many full blocks were offered
        self._let_go = 0  # blocks before this one were looked at by `evict`

    def num_missing(self, length: int) -> int:
        """How many blocks must be allocated to have room for `length` tokens."""
        return max(0, -(-length // self.pool.block_size) - len(self.blocks))

    def shared_prefix(self, tokens: list[int]) -> list[Prefix]:
        """The stored blocks that these tokens begin with. At least one token is left to compute."""
        found: list[Prefix] = []
        size = self.pool.block_size
        parent: Prefix | str | None = self.salt
        if self.share:
            for start in range(0, len(tokens) - size, size):
                prefix = self.pool.find(parent, tuple(tokens[start : start + size]))
                if prefix is None:
                    break
                found.append(prefix)
                parent = prefix
        return found

    def adopt(self, prefixes: list[Prefix]) -> None:
        """Make shared blocks the beginning of an empty table."""
        assert not self.blocks
        for prefix in prefixes:
            self.pool.retain(prefix)
            self.blocks.append(prefix.block)
        self.length = len(prefixes) * self.pool.block_size
        self._registered = len(prefixes)
        self._prefix = prefixes[-1] if prefixes else self.salt

    def reserve(self, length: int) -> None:
        """Allocate blocks until there is room for `length` tokens.

        Raises:
            OutOfBlocksError: there are not enough blocks; the table is unchanged.
        """
        missing = self.num_missing(length)
        if missing > self.pool.num_free:
            raise OutOfBlocksError(f"{missing} blocks are needed and {self.pool.num_free} are free")
        for _ in range(missing):
            self.blocks.append(self.pool.allocate(self.blocks[-1] if self.blocks else None))

    def commit(self, tokens: list[int], length: int) -> None:
        """Note that keys and values of the first `length` tokens are stored and will stay; offer the full blocks."""
        self.length = length
        size = self.pool.block_size
        while self.share and (self._registered + 1) * size <= self.length:
            start = self._registered * size
            block = self.blocks[self._registered]
            if block is None:  # given back before it was offered: later blocks have no complete prefix
                self.share = False
                break
            self._prefix = self.pool.register(self._prefix, tuple(tokens[start : start + size]), block)
            self._registered += 1

    def evict(self, window: int, sinks: int) -> None:
        """Give back the blocks that no token from `length` on can see through a sliding window with sinks."""
        size = self.pool.block_size
        first_kept = max(0, self.length + 1 - window) // size
        for index in range(max(self._let_go, -(-sinks // size)), first_kept):
            block = self.blocks[index]
            if block is not None:
                self.pool.release(block)
                self.blocks[index] = None
        self._let_go = max(self._let_go, first_kept)

    def release(self) -> None:
        """Give all blocks back, the last one first, so that beginnings are kept longest for other sequences."""
        for block in reversed(self.blocks):
            if block is not None:
                self.pool.release(block)
        self.blocks, self.length = [], 0
        self._prefix, self._registered, self._let_go = self.salt, 0, 0

    def slots(self, start: int, stop: int) -> list[int]:
        """The slots of the tokens from `start` to `stop`. A slot is a token's place in the whole cache."""
        size = self.pool.block_size
        return [self._block(position // size) * size + position % size for position in range(start, stop)]

    def runs(self, stop: int) -> list[tuple[int, int, int]]:
        """The stored tokens before `stop` as stretches of neighbouring slots: (position, first slot, length)."""
        size, runs = self.pool.block_size, list[tuple[int, int, int]]()
        for index in range(-(-stop // size)):
            block = self.blocks[index]
            if block is None:
                continue
            position, slot = index * size, block * size
            length = min(size, stop - position)
            if runs:
                last_position, last_slot, last_length = runs[-1]
                if last_slot + last_length == slot and last_position + last_length == position:
                    runs[-1] = (last_position, last_slot, last_length + length)
                    continue
            runs.append((position, slot, length))
        return runs

    def _block(self, index: int) -> int:
        block = self.blocks[index]
        assert block is not None, "a block that was given back is never written again"
        return block

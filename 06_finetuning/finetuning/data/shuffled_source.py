"""Going through a list again and again, each time in a new order that follows from the seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from training.data.batches import Batch


class ShuffledSource(ABC):
    """Draws items, each once an epoch. A `training.data.batches.BatchSource` whose state is one integer.

    Args:
        count: how many items there are.
        seed: decides the order.

    Raises:
        ValueError: there are none.
    """

    what = "item"  # as errors call it

    def __init__(self, count: int, seed: int):
        if count < 1:
            raise ValueError(f"there is no {self.what} to learn from")
        self.count, self.seed = count, seed
        self.drawn = 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @abstractmethod
    def make_batch(self, chosen: list[int]) -> Batch:
        """The batch of the items with these indices."""

    def next_batch(self, batch_size: int) -> Batch:
        """The batch of the next items."""
        first = self.drawn
        self.drawn += batch_size
        return self.make_batch([self._item(number) for number in range(first, self.drawn)])

    def state_dict(self) -> dict[str, Any]:
        """One integer."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the exact item."""
        self.drawn = int(state["drawn"])

    def _item(self, number: int) -> int:
        """The n-th item over all epochs."""
        epoch, index = divmod(number, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return int(self._order[index])

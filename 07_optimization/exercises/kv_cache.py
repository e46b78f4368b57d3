"""Exercise 7.1: A key-value cache."""

from __future__ import annotations

from torch import Tensor

from optimization.kv_cache import CacheFullError, ContiguousKVCache


def update(self: ContiguousKVCache, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Write new keys and values after the stored ones; return all of them.

    `self.length` is how many tokens are stored in every layer. It does not change here: each layer of one forward pass
    calls `update` once, and the model calls `advance` at the end.

    Args:
        self: the cache. `self._keys` and `self._values` are (layers, batch, kv_heads, capacity, head_size) tensors, filled
            from the front; `self.capacity` is a number.
        layer: index of the layer.
        keys: (batch, kv_heads, time, head_size).
        values: the shape of `keys`.

    Returns:
        Keys and values of this layer up to the newest, (batch, kv_heads, length + time, head_size). They are views of the
        memory, not copies.

    Raises:
        CacheFullError: the new tokens do not fit.
    """
    raise NotImplementedError("Exercise 7.1: write after the stored ones")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake
from transformer.config import GPTConfig

_CONFIG = GPTConfig(vocab_size=10, context_length=6, num_layers=2, num_heads=2, d_model=8)


def _seen(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    cache: ContiguousKVCache = arguments[0]
    stored = {
        "stored keys of all layers": cache._keys.clone(),
        "stored values of all layers": cache._values.clone(),
        "length": cache.length,
    }
    if result is None:
        return stored
    memories = zip(result, (cache._keys, cache._values), strict=True)
    views = all(a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for a, b in memories)
    return {
        "keys": result[0].clone(),
        "values": result[1].clone(),
        **stored,
        "views of the memory": views,
        "new keys afterwards": arguments[2],
        "new values afterwards": arguments[3],
    }


def cases() -> Iterator[Case]:
    """A prompt; one more token; another layer; the last place; two sequences; too many."""

    def question(
        what: str, layer: int, time: int, stored: int, raises: type[Exception] | None = None, batch: int = 1
    ) -> Case:
        cache = ContiguousKVCache(_CONFIG, batch)
        generator = torch.Generator().manual_seed(0)
        for memory in (cache._keys, cache._values):
            memory.copy_(torch.randn(memory.shape, generator=generator))
        cache.length = stored
        keys, values = torch.randn(2, batch, 2, time, 4, generator=generator)
        what = f"length {stored}, capacity {cache.capacity}: {what}"
        return Case(what, [cache, layer, keys, values], observe=_seen, raises=raises)

    yield question("a prompt of three tokens", 0, 3, 0)
    yield question("one token", 0, 1, 3)
    yield question("two tokens in the second layer", 1, 2, 3)
    # This raises nothing. It is asked like a refusal, so that an error is recognised with any message.
    yield question("one token into the last place is not refused", 0, 1, 5, CacheFullError)
    yield question("one token into the last place", 0, 1, 5)
    yield question("two tokens with room for only one: refused, and nothing written", 0, 2, 5, CacheFullError)
    yield question("a prompt of seven tokens: refused", 0, 7, 0, CacheFullError)
    yield question("one token of each of two sequences", 1, 1, 3, batch=2)


def _update(self: ContiguousKVCache, layer: int, keys: Tensor, values: Tensor, **wrong: bool) -> tuple[Tensor, Tensor]:
    start = 0 if wrong.get("from_the_front") else self.length
    stop = start + keys.shape[-2]
    if wrong.get("cut_off"):
        keys, values = keys[:, :, : self.capacity - start], values[:, :, : self.capacity - start]
        stop = min(stop, self.capacity)
    if wrong.get("written_first"):
        self._keys[layer, :, :, start : self.capacity] = keys[:, :, : self.capacity - start]
    if stop > self.capacity or (wrong.get("one_less") and stop >= self.capacity):
        raise CacheFullError(f"{stop} tokens do not fit a cache of {self.capacity}")
    if wrong.get("first_sequence"):
        self._keys[layer, 0, :, start:stop] = keys[0]
        self._values[layer, 0, :, start:stop] = values[0]
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]
    self._keys[layer, :, :, start:stop] = keys
    self._values[layer, :, :, start:stop] = keys if wrong.get("keys_twice") else values
    if wrong.get("counted"):
        self.length = stop
    if wrong.get("only_new"):
        return keys, values
    if wrong.get("everything"):
        return self._keys[layer], self._values[layer]
    if wrong.get("copied"):
        return self._keys[layer, :, :, :stop].clone(), self._values[layer, :, :, :stop].clone()
    if wrong.get("values_copied"):
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop].contiguous()
    return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]


def _mistaken(name: str) -> Callable[..., Any]:
    def update(self: ContiguousKVCache, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return _update(self, layer, keys, values, **{name: True})

    return update


EXERCISE = Exercise(
    stub=update,
    reference="optimization.kv_cache:ContiguousKVCache.update",
    cases=cases,
    in_place=True,
    hints=(
        "Where do the new tokens begin, and where do they stop?",
        "stop = self.length + keys.shape[-2]. Write into the slice self.length : stop of the layer, and return the slice up "
        "to stop. A slice is a view.",
        "self._keys[layer, :, :, self.length:stop] = keys, the same for values; return self._keys[layer, :, :, :stop], "
        "self._values[layer, :, :, :stop]. Before that, raise CacheFullError if stop > self.capacity.",
    ),
    mistakes=(
        Mistake(
            _mistaken("counted"), "the length must stay: the other layers of this forward pass store at the same place"
        ),
        Mistake(_mistaken("everything"), "only what is stored is returned, not the empty rest of the memory"),
        Mistake(_mistaken("keys_twice"), "store keys and values; this stores the keys twice"),
        Mistake(_mistaken("copied"), "a cache should avoid a copy of everything at each token: return views"),
        Mistake(_mistaken("only_new"), "attention needs the stored ones as well as the new ones"),
        Mistake(_mistaken("from_the_front"), "the new tokens go after the stored ones, at self.length"),
        Mistake(
            _mistaken("cut_off"),
            "tokens that do not fit are an error: otherwise the model would go on without them",
        ),
        Mistake(_mistaken("written_first"), "compare before you write: a cache that refuses must stay as it was"),
        Mistake(
            _mistaken("first_sequence"), "the memory has an axis for the sequences of the batch: write all of them"
        ),
        Mistake(
            _mistaken("values_copied"), "contiguous() copies a slice: return views of the memory, the values as well"
        ),
        Mistake(_mistaken("one_less"), "a cache may be exactly full: it holds `capacity` tokens"),
    ),
)

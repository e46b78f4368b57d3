"""Stage 7: keys and values are kept, in one piece or in blocks, and never lost or mixed up."""

from __future__ import annotations

import time

import psutil
import pytest
import torch

from optimization.engine.block_pool import BlockPool, BlockTable, OutOfBlocksError
from optimization.engine.paged_kv_cache import RaggedBatch, RaggedRow, build_storage
from optimization.kv_cache import CacheFullError, ContiguousKVCache, bytes_per_token
from optimization.settings import EngineSettings
from training import placement
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

STYLES = {
    "gpt2": {"norm": "layernorm", "feed_forward": "gelu", "positions": "learned", "bias": True},
    "llama": {"num_kv_heads": 2},
    "own": {"feed_forward": "relu2", "qk_norm": True},
    "alibi": {"positions": "alibi"},
    "window": {"sliding_window": 5, "attention_sinks": 1},
}
CPU = torch.device("cpu")


def small_model(style: str) -> GPTModel:
    return GPTModel(
        GPTConfig(vocab_size=50, context_length=24, num_layers=2, num_heads=4, d_model=32, **STYLES[style])
    ).eval()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("split", [(1, 1, 10), (5, 4, 3), (12,), (11, 1)])
def test_a_prefix_in_any_chunks_through_the_contiguous_cache_gives_the_plain_logits(style, split):
    model = small_model(style)
    ids = torch.randint(50, (2, 12))
    cache = ContiguousKVCache(model.config, batch_size=2)
    with torch.no_grad():
        plain = model(ids)
        chunks = [model(chunk, cache) for chunk in ids.split(split, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), plain, atol=1e-5, rtol=1e-4)
    assert cache.length == 12


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.int8, 0.03)], ids=str
)
def test_sequences_of_unequal_length_side_by_side_in_blocks_give_the_plain_logits(style, dtype, tolerance):
    model = small_model(style)
    pool = BlockPool(num_blocks=24, block_size=3)
    storage = build_storage(model.config, 24 * 3, dtype, CPU)
    lengths, tables = [20, 7, 13], [BlockTable(pool) for _ in range(3)]
    texts = [torch.randint(50, (length,)) for length in lengths]
    outputs = [list[torch.Tensor]() for _ in texts]
    with torch.no_grad():
        for counts in [(4, 1, 13), (1, 6, 0), (15, 0, 0)]:  # prompts in pieces and single tokens, all mixed
            used = [i for i, count in enumerate(counts) if count]
            rows = [RaggedRow(tables[i], tables[i].length, counts[i]) for i in used]
            for row in rows:
                row.table.reserve(row.start + row.count)
            ids = torch.cat([texts[i][row.start : row.start + row.count] for i, row in zip(used, rows, strict=True)])
            batch = RaggedBatch(storage, rows, model.config, torch.float32, CPU)
            logits = model(ids[None], batch, positions=torch.tensor([batch.positions()]))[0]
            for i, row, part in zip(used, rows, logits.split([row.count for row in rows]), strict=True):
                outputs[i].append(part)
                row.table.commit(texts[i].tolist(), row.start + row.count)
        for text, parts in zip(texts, outputs, strict=True):
            torch.testing.assert_close(torch.cat(parts), model(text[None])[0], atol=tolerance, rtol=tolerance)


def test_the_contiguous_cache_is_bounded():
    config = GPTConfig(vocab_size=10, context_length=8, num_layers=2, num_heads=4, num_kv_heads=2, d_model=16)
    cache = ContiguousKVCache(config)
    with pytest.raises(CacheFullError, match="9 tokens do not fit a cache of 8"):
        cache.update(0, torch.zeros(1, 2, 9, 4), torch.zeros(1, 2, 9, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_memory_of_blocks_is_what_is_announced(dtype):
    config = GPTConfig(vocab_size=10, context_length=64, num_layers=2, num_heads=4, num_kv_heads=2, d_model=64)
    storage = build_storage(config, 48, dtype, CPU)
    held = [tensor.nbytes for tensor in vars(storage).values() if isinstance(tensor, torch.Tensor)]
    assert sum(held) == 48 * bytes_per_token(config, dtype)
    settings = EngineSettings(cache_mib=1, max_running=1000, block_size=16)
    assert settings.num_blocks(config, dtype, 2**40) * 16 * bytes_per_token(config, dtype) <= 2**20


LONG = GPTConfig(vocab_size=10, context_length=131_072, num_layers=16, num_heads=8, d_model=512)


def test_the_memory_of_a_long_context_is_taken_when_it_is_used():
    process, numbers = psutil.Process(), 131_072 * bytes_per_token(LONG, torch.float32)
    assert numbers == 8 * 2**30
    before, started = process.memory_info().rss, time.perf_counter()
    for dtype in (torch.float32, torch.int8):
        storage = build_storage(LONG, 4096 if psutil.virtual_memory().total < 2**34 else 131_072, dtype, CPU)
        keys = torch.randn(3, 8, 64)
        for layer in (0, 15):
            storage.write(layer, torch.tensor([0, 1, 4000]), keys, 2 * keys)
            read = storage.read(layer, [(0, 0, 2), (2, 4000, 1)], torch.float32)
            torch.testing.assert_close(read[0][0].transpose(0, 1), keys, atol=0.02, rtol=0.02)
            assert not storage.read(layer, [(0, 2, 3998)], torch.float32)[1].any()  # nothing is left of anything else
    assert time.perf_counter() - started < 5  # with all of it written it took half a minute
    assert process.memory_info().rss - before < 2**29


def test_the_cache_is_planned_within_the_free_memory():
    per_token = bytes_per_token(LONG, torch.float32)
    default = EngineSettings()
    assert default.num_blocks(LONG, torch.float32, 2**40) * 16 == LONG.context_length  # although cache_mib is less
    assert default.num_blocks(LONG, torch.float32, 2**32) * 16 * per_token <= 0.9 * 2**32  # shorter texts are served
    few = EngineSettings(cache_tokens=1024, block_size=16)
    assert few.num_blocks(LONG, torch.float32, 2**40) == 64
    with pytest.raises(ValueError, match=r"1,024 tokens takes 0\.06 GiB, and 0\.02 GiB are free: lower cache_tokens"):
        few.num_blocks(LONG, torch.float32, 2**24)
    with pytest.raises(ValueError, match="a cache of 16 tokens takes"):
        default.num_blocks(LONG, torch.float32, 2**18)


def test_a_container_has_the_memory_that_it_may_use(tmp_path, monkeypatch):
    here = Placement(CPU, torch.float32)
    without = here.free_memory()
    assert 0 < without <= psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(placement, "CONTAINER_LIMIT", limit)
    limit.write_text("max\n")
    assert here.free_memory() > 0
    limit.write_text(f"{here.memory_in_use() + 2**20}\n")
    assert here.free_memory() <= 2**21
    limit.write_text("1\n")
    assert here.free_memory() == 0


def test_prefixes_are_found_under_their_own_salt_only():
    pool, tokens = BlockPool(12, 2), [1, 2, 3, 4, 5]
    for salt in ("alice", None):
        table = BlockTable(pool, salt=salt)
        table.reserve(5)
        table.commit(tokens, 5)
        table.release()
        assert len(BlockTable(pool, salt=salt).shared_prefix(tokens)) == 2
        assert BlockTable(pool, salt="bob").shared_prefix(tokens) == []
    again = BlockTable(pool, salt="alice")
    again.adopt(again.shared_prefix(tokens))
    again.release()
    assert len(again.shared_prefix(tokens)) == 2  # a table that is used again keeps its salt
    first, second = (BlockTable(pool, salt=salt).shared_prefix(tokens)[0] for salt in ("alice", None))
    assert first.block != second.block


def test_a_pool_that_is_cleared_is_as_new():
    pool = BlockPool(3, 2)
    table = BlockTable(pool)
    table.reserve(6)
    table.commit([1, 2, 3, 4, 5, 6], 6)
    pool.clear()
    assert (pool.num_free, pool.num_used) == (3, 0)
    assert BlockTable(pool).shared_prefix([1, 2, 3]) == []
    BlockTable(pool).reserve(6)


def test_a_collision_of_hashes_does_not_hand_out_another_texts_keys():
    class Colliding(tuple):
        def __hash__(self):
            return 1

    pool = BlockPool(4, 2)
    first = pool.register(None, Colliding((1, 2)), pool.allocate())
    assert pool.find(None, Colliding((3, 4))) is None
    assert pool.find(None, Colliding((1, 2))) is first
    # The same two tokens after another prefix are another block.
    pool.register(first, Colliding((5, 6)), pool.allocate())
    assert pool.find(None, Colliding((5, 6))) is None


def test_blocks_are_shared_counted_and_kept_until_their_memory_is_wanted():
    pool = BlockPool(num_blocks=6, block_size=2)
    tokens = [1, 2, 3, 4, 5]
    one, two = BlockTable(pool), BlockTable(pool)
    one.reserve(5)
    one.commit(tokens, 5)
    two.adopt(two.shared_prefix(tokens))
    assert two.blocks == one.blocks[:2]
    assert two.length == 4
    assert pool.num_used == 3
    one.release()
    assert pool.num_used == 2  # still in use by two
    two.release()
    assert (pool.num_used, pool.num_free) == (0, 6)
    three = BlockTable(pool)
    assert len(three.shared_prefix(tokens)) == 2  # no request uses it, but it is still known
    three.reserve(10)  # five of six blocks: the end of the kept prefix goes first
    assert len(BlockTable(pool).shared_prefix(tokens)) == 1
    three.release()
    pool.forget_idle()
    assert BlockTable(pool).shared_prefix(tokens) == []
    assert pool.num_free == 6


def test_when_all_is_used_a_table_is_left_as_it_was():
    pool = BlockPool(3, 2)
    table = BlockTable(pool)
    table.reserve(4)
    with pytest.raises(OutOfBlocksError, match="2 blocks are needed and 1 are free"):
        table.reserve(8)
    assert len(table.blocks) == 2
    assert pool.num_free == 1


def test_a_sequence_grows_into_neighbouring_blocks_and_is_read_without_copying():
    pool = BlockPool(32, 2)
    tables = [BlockTable(pool) for _ in range(4)]
    for length in range(1, 9):
        for table in tables:
            table.reserve(length)
    assert [len(table.runs(8)) for table in tables] == [1, 1, 1, 1]
    config = GPTConfig(vocab_size=10, context_length=64, num_layers=1, num_heads=1, d_model=4)
    storage = build_storage(config, 64, torch.float32, CPU)
    keys, _ = storage.read(0, tables[1].runs(8), torch.float32)
    storage.write(0, torch.tensor(tables[1].slots(0, 8)), torch.ones(8, 1, 4), torch.ones(8, 1, 4))
    assert keys.sum() == 32  # the earlier result shows the later write, because both use the same memory


def test_a_sliding_window_holds_on_to_its_blocks_and_the_sinks_only():
    pool = BlockPool(40, 2)
    table = BlockTable(pool)
    for length in range(1, 61):
        table.reserve(length)
        table.commit(list(range(length)), length)
        table.evict(window=8, sinks=1)
        assert pool.num_used <= 1 + 8 // 2 + 1  # the sink's block, the window's blocks, and one that is partly outside
    kept = [position for first, _, length in table.runs(60) for position in range(first, first + length)]
    assert set(range(53, 60)) | {0} <= set(kept)  # the positions that the next token, at 60, sees besides itself
    table.release()
    assert pool.num_used == 0


def test_a_ragged_store_cannot_be_mistaken_for_a_plain_one():
    config = GPTConfig(vocab_size=10, context_length=8, num_layers=1, num_heads=2, d_model=8)
    pool = BlockPool(4, 2)
    table = BlockTable(pool)
    table.reserve(2)
    batch = RaggedBatch(
        build_storage(config, 8, torch.float32, CPU), [RaggedRow(table, 0, 2)], config, torch.float32, CPU
    )
    with pytest.raises(TypeError, match="call attend"):
        batch.update(0, torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_running": 0}, "max_running must be at least 1, got 0"),
        ({"chunk_size": 64, "max_batch_tokens": 32}, r"max_batch_tokens \(32\) must be at least chunk_size \(64\)"),
        ({"cache_tokens": 3}, r"cache_tokens \(3\) must be at least one block of 16"),
    ],
)
def test_impossible_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        EngineSettings(**values)

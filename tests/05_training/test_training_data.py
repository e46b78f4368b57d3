"""Stage 5: where batches come from: mixtures, shards, streams, and a thread that prepares them early."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from neural_networks.corpus import Corpus, CorpusError
from training.checkpoints.checkpoint import load_model
from training.data.batches import PrefetchingSource
from training.data.data_loader import Mixture, WindowLoader
from training.data.document_sources import LoadedSource, StreamedSource, never_trained_on
from training.data.document_stream import is_held_out, stream_documents
from training.data.token_files import DataError, TokenShards, find_token_files
from training.train_command import main


def test_ranks_see_disjoint_parts_of_what_one_process_sees():
    tokens = {"a": np.arange(997, dtype=np.uint16)}
    whole = WindowLoader(tokens, 8, seed=1)
    ranks = [WindowLoader(tokens, 8, seed=1, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(50):
        expected = whole.next_batch(6).tensors["inputs"]
        parts = torch.cat([loader.next_batch(2).tensors["inputs"] for loader in ranks])
        assert torch.equal(parts, expected)


def test_a_mixture_has_its_shares_exactly_and_resumes_at_the_sample():
    corpora = {
        "a": np.zeros(2000, np.uint16),
        "b": np.arange(3000, dtype=np.uint16) % 90 + 1,
        "c": np.full(99, 100, np.uint16),
    }
    weights = {"a": 2.0, "b": 1.0, "c": 1.0}

    def loader() -> WindowLoader:
        return WindowLoader(corpora, 8, seed=4, weights=weights)

    straight = loader()
    rows = torch.cat([straight.next_batch(4).tensors["inputs"] for _ in range(512)])
    owner = Counter(["a" if row[0] == 0 else "c" if row[0] == 100 else "b" for row in rows])
    assert owner == {"a": 1024, "b": 512, "c": 512}
    resumed = loader()
    resumed.load_state_dict({"sequences_drawn": 4 * 300})
    assert torch.equal(resumed.next_batch(4).tensors["inputs"], rows[1200:1204])
    starts = [straight.mixture.draw(sample) for sample in range(2048)]
    of_b = [index for owner, index in starts if owner == 1]
    assert of_b == list(range(512)), "each corpus is gone through in its own order, none left out"


def test_a_weight_too_small_to_be_drawn_is_refused():
    with pytest.raises(DataError, match="the weight of b is below"):
        Mixture({"a": 1.0, "b": 1e-9}, seed=0)


def test_shards_read_like_one_array():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 1000, 200).astype(np.uint16)
    shards = TokenShards([whole[:7], whole[7:90], whole[90:91], whole[91:]])
    for start, stop in [(0, 200), (3, 9), (5, 95), (90, 91), (150, 170), (199, 500), (20, 20)]:
        assert shards[start:stop].tolist() == whole[start:stop].tolist()
    a, b = (WindowLoader({"x": tokens}, 8, seed=2) for tokens in (whole, shards))
    assert torch.equal(a.next_batch(20).tensors["inputs"], b.next_batch(20).tensors["inputs"])


def test_document_masks_keep_documents_apart():
    tokens = np.array([0, 1, 2, 3, 0, 4, 5, 0, 6] * 20, dtype=np.uint16)
    batch = WindowLoader({"a": tokens}, 9, seed=0, document_separator=0).next_batch(5)
    inputs, targets, allowed = batch.tensors["inputs"], batch.tensors["targets"], batch.tensors["allowed"]
    assert not (targets == 0).any(), "where the next document begins cannot be known"
    assert batch.weight == float((targets >= 0).sum())
    documents = (inputs == 0).cumsum(-1)
    same = documents[:, :, None] == documents[:, None, :]
    assert torch.equal(allowed[:, 0], same & torch.ones(9, 9, dtype=torch.bool).tril())


def test_prefetching_gives_the_same_batches_and_the_state_of_those_handed_out():
    def source() -> WindowLoader:
        return WindowLoader({"a": np.arange(500, dtype=np.uint16)}, 8, seed=0)

    plain, ahead = source(), PrefetchingSource(source(), 4, pin=False)
    for _ in range(20):
        assert torch.equal(plain.next_batch(4).tensors["inputs"], ahead.next_batch(4).tensors["inputs"])
        assert plain.state_dict() == ahead.state_dict()
    ahead.load_state_dict({"sequences_drawn": 8})
    plain.load_state_dict({"sequences_drawn": 8})
    assert torch.equal(plain.next_batch(4).tensors["inputs"], ahead.next_batch(4).tensors["inputs"])


def test_prefetching_raises_what_went_wrong_in_its_thread():
    class Broken(WindowLoader):
        def next_batch(self, batch_size):
            raise DataError("the disk has gone")

    ahead = PrefetchingSource(Broken({"a": np.arange(99, dtype=np.uint16)}, 8, seed=0), 4, pin=False)
    with pytest.raises(DataError, match="the disk has gone"):
        ahead.next_batch(4)


def _write_documents(folder: Path, kind: str) -> tuple[Path, list[str]]:
    documents = [f"document {i}: " + "words and more words. " * (3 + i % 5) for i in range(200)]
    path = folder / f"corpus.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": documents, "id": list(range(200))}), path, row_group_size=50)
    return path, documents


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_stream_is_prepared_in_shards_and_trained_on(kind, tmp_path: Path, tiny_settings, write_config, monkeypatch):
    path, documents = _write_documents(tmp_path, kind)
    assert list(stream_documents(str(path))) == documents
    monkeypatch.setattr("training.data.data_preparation.SHARD_TOKENS", 2000)
    tiny_settings["data"] |= {"corpus": str(path), "stream": True}
    tiny_settings["training"]["max_steps"] = 4
    assert main(["--config", write_config(tiny_settings)]) == 0
    (folder,) = (tmp_path / "datasets").iterdir()
    meta = json.loads((folder / "meta.json").read_text())
    held_out = [d for d in documents if is_held_out(d, 0.1)]
    assert (meta["train_documents"], meta["validation_documents"]) == (200 - len(held_out), len(held_out))
    shards = find_token_files(folder, "train")
    assert len(shards) > 2
    ids = np.concatenate([np.fromfile(shard, dtype=meta["dtype"]) for shard in shards])
    assert len(ids) == meta["train_tokens"]
    text = load_model(tiny_settings["output_dir"]).tokenizer.decode(ids.tolist())
    assert text == "".join("<|endoftext|>" + d for d in documents if not is_held_out(d, 0.1))


def test_several_corpora_are_mixed_with_one_tokenizer(tmp_path: Path, tiny_settings, write_config, text_file: Path):
    other, _ = _write_documents(tmp_path, "jsonl")
    tiny_settings["data"] |= {"mixture": {str(text_file): 3.0, str(other): 1.0}}
    tiny_settings["training"]["max_steps"] = 4
    assert main(["--config", write_config(tiny_settings)]) == 0
    (folder,) = (tmp_path / "datasets").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"train-0.bin", "train-1.bin", "val-0.bin", "val-1.bin"}
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["corpora"] == [str(text_file), str(other)]
    assert meta["xz_bits_per_byte"] is None


def test_a_long_record_stays_one_document_of_a_stream(tmp_path: Path):
    long = "a line of a long record\n" * 6000  # longer than the pieces that a text file is cut into
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": long}) + "\n", encoding="utf-8")
    assert list(stream_documents(str(tmp_path / "long.jsonl"))) == [long]
    (tmp_path / "long.txt").write_text(long, encoding="utf-8", newline="")
    pieces = list(stream_documents(str(tmp_path / "long.txt")))
    assert len(pieces) > 1 and "".join(pieces) == long


def test_a_mixture_holds_out_nothing_that_another_corpus_trains_on():
    first = LoadedSource(Corpus("first", ("a", "b"), ("c", "d")))
    second = LoadedSource(Corpus("second", ("c", "e"), ("a", "f")))
    kept = [source.corpus for source in never_trained_on([first, second]) if isinstance(source, LoadedSource)]
    assert [corpus.train for corpus in kept] == [("a", "b"), ("c", "e")]
    assert [corpus.validation for corpus in kept] == [("d",), ("f",)]
    cut_in_two = LoadedSource(Corpus("cut", ("g", "begins and "), ("ends", "h")))
    (kept_cut, _) = never_trained_on([cut_in_two, LoadedSource(Corpus("whole", ("begins and ends",), ("i",)))])
    assert [document for document, held_out in kept_cut.documents() if held_out] == ["h"]
    with pytest.raises(CorpusError, match="all held-out documents of third are trained on in another corpus"):
        never_trained_on([first, LoadedSource(Corpus("third", ("g",), ("a", "b")))])


def test_a_stream_has_no_document_that_is_in_the_other_part_of_a_corpus_in_memory(tmp_path: Path, capsys):
    documents = [f"document {i}" for i in range(40)]
    held_out = {document for document in documents if is_held_out(document, 0.3)}
    one, other = sorted(held_out)[0], sorted(set(documents) - held_out)[0]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    stream = StreamedSource(str(tmp_path / "many.jsonl"), 0.3, None)
    half, rest = documents[20][:4], documents[20][4:]  # the corpus in memory was cut within this document
    same_part = sorted(held_out)[1]
    memory = LoadedSource(Corpus("memory", (one, half), (rest, other, same_part)))
    kept = never_trained_on([memory, stream])
    assert list(kept[0].documents()) == list(memory.documents())
    assert dict(kept[1].documents()) == {
        text: text in held_out for text in documents if text not in (one, other, documents[20])
    }
    assert other not in list(kept[1].tokenizer_documents())
    assert "3 documents of" in capsys.readouterr().err

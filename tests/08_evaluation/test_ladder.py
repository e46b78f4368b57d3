"""Stage 8: the ladder, the scaling law, and the tables that are written from results."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.ladder.chat_rung import questions_about, tuned
from evaluation.ladder.rungs import Ladder
from evaluation.ladder.text import TIERS, LadderTier, ladder_text, text_sha256
from evaluation.ladder_command import main
from evaluation.scaling.law import TrainedPoint, compute_frontier, fit_scaling_law, power_law
from evaluation.scaling.small_training import train_small
from evaluation.scaling_command import draw_scaling
from evaluation.sliding_window import score_documents, score_stream
from finetuning.data.chat_format import Message, chat_template
from finetuning.data.record_shapes import Example
from groundwork.user_errors import UserError
from neural_networks.corpora import load_corpus
from neural_networks.corpus import Corpus
from neural_networks.python_docs import DocumentedSymbol
from tokenizer.bpe_tokenizer import BPETokenizer
from training.checkpoints.checkpoint import load_model
from training.optimizers.schedule import ScheduleConfig
from training.placement import Placement
from training.recipe import Recipe, TrainingConfig
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)
TINY = LadderTier("tiny", 20_000, 2_000, 3, 40, 300, 16, 64, 2, 8, 4)


@pytest.fixture
def text(text_file: Path) -> Corpus:
    return ladder_text(load_corpus(str(text_file), 0.1), TINY)


def test_documents_are_taken_evenly_and_within_the_size():
    documents = tuple(f"{i:04}" * 25 for i in range(1000))  # 100 bytes each
    chosen = ladder_text(Corpus("x", documents, documents[:10]), TINY)
    assert chosen.train_bytes == 20_000
    assert [int(d[:4]) for d in chosen.train[:3]] == [4, 9, 14]
    assert chosen.validation == documents[:10]
    assert ladder_text(Corpus("x", ("é" * 30_000,), ("z",)), TINY).train_bytes == 20_000


def test_results_stay_valid_as_long_as_the_text_is_the_same():
    text = Corpus("x", ("one", "two"), ("three",))
    assert text_sha256(text) == hashlib.sha256(b"one\0two\0\0\0three\0").hexdigest()


@pytest.mark.slow
def test_every_rung_is_measured_once_and_remembered(text: Corpus, tmp_path: Path):
    file = tmp_path / "ladder.json"
    ladder = Ladder(text, TINY, CPU, file)
    names = list(ladder.measurements())
    measured = {name: ladder.climb(name, lambda line: None) for name in names}
    assert len(names) == 13
    assert measured["bigram"].bits_per_byte < measured["unigram"].bits_per_byte < 8
    assert measured["3-gram, Kneser-Ney"].bits_per_byte < measured["bigram"].bits_per_byte
    assert all(math.isfinite(rung.bits_per_byte) and rung.bits_per_byte > 0 for rung in measured.values())
    assert measured["best recipe, int8"].bits_per_byte == pytest.approx(measured["best recipe"].bits_per_byte, abs=0.02)
    assert measured["best recipe, int8"].parameters == measured["best recipe"].parameters
    again = Ladder(text, TINY, CPU, file)
    assert again.rungs == measured
    with pytest.raises(UserError, match="there is no rung 'trigram'; there are unigram"):
        again.climb("trigram", lambda line: None)
    with pytest.raises(UserError, match="another text or tier"):
        Ladder(text, TIERS["quick"], CPU, file)


@pytest.mark.parametrize(
    "rungs",
    [
        None,
        [3],
        [{"name": "a"}],
        [{**dict.fromkeys(("stage", "seconds", "parameters"), 1), "name": "a", "bits_per_byte": None}],
    ],
)
def test_a_file_whose_rungs_are_not_measurements_is_refused(rungs: object, text: Corpus, tmp_path: Path):
    (tmp_path / "ladder.json").write_text(json.dumps({"rungs": rungs}))
    with pytest.raises(UserError, match="not a file of the ladder"):
        Ladder(text, TINY, CPU, tmp_path / "ladder.json")


def test_the_command_adds_a_checkpoint_of_the_users(trained_run: Path, text_file: Path, tmp_path: Path, capsys):
    arguments = ["--corpus", str(text_file), "--quick", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*arguments, "--only", "unigram", "--only", "gzip -9", "--also", f"mine={trained_run}"]) == 0
    printed = capsys.readouterr().out
    assert "unigram" in printed and "mine" in printed
    assert (tmp_path / "ladder.svg").read_text().startswith("<?xml")
    rungs = {rung["name"]: rung for rung in json.loads((tmp_path / "ladder.json").read_text())["rungs"]}
    loaded = load_model(trained_run)
    held_out = ladder_text(load_corpus(str(text_file), 0.05), TIERS["quick"]).validation
    expected = score_stream(loaded.model, loaded.tokenizer, held_out, CPU).bits_per_byte
    assert rungs["mine"]["bits_per_byte"] == pytest.approx(expected, rel=0.01)  # the command may compute in bfloat16
    assert main([*arguments, "--also", "nonsense"]) == 1
    assert "takes NAME=CHECKPOINT" in capsys.readouterr().err


def test_instruction_tuning_for_the_ladder_leaves_the_base_as_it_was():
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    config = GPTConfig(vocab_size=257, context_length=64, num_layers=1, num_heads=2, d_model=16)
    model = GPTModel(config).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    questions = [Example((Message("user", "What does len do?"), Message("assistant", "Count items.")))] * 8
    losses: list[float] = []
    chat, extended, seconds = tuned(model, tokenizer, questions, 30, 4, CPU, lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0] and seconds > 0
    assert set(chat_template("nullm").special_tokens) <= set(extended.special_tokens)
    assert chat.token_embedding.num_embeddings == extended.vocab_size > model.token_embedding.num_embeddings
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    with pytest.raises(UserError, match="none of the 1 questions fits 64 tokens"):
        tuned(model, tokenizer, [Example((Message("user", "x"), Message("assistant", "y" * 99)))], 1, 1, CPU, print)


def test_questions_for_the_ladder_are_about_its_training_text_alone(monkeypatch):
    names = [f"box.method_{number}" for number in range(40)]
    symbols = [
        DocumentedSymbol("box", name, "(self, item)", f"Put the item number {name[11:]} into the box.")
        for name in names
    ]
    monkeypatch.setattr("evaluation.ladder.chat_rung.gather_symbols", lambda: symbols)
    read, held_out = tuple(s.text for s in symbols[:30]), tuple(s.text for s in symbols[30:])
    asked = questions_about(Corpus("python_docs", read, held_out))
    said = " ".join(message.content for example in asked for message in example.messages)
    assert "method_3" in said and not any(f"method_{number}" in said for number in range(30, 40))
    assert questions_about(Corpus("a file", read, held_out)) == ()


def test_a_stream_pays_for_where_documents_end(trained_run: Path):
    loaded = load_model(trained_run)
    documents = ["Return the number.", "Raise ValueError."]
    alone = score_documents(loaded.model, loaded.tokenizer, documents, CPU)
    stream = score_stream(loaded.model, loaded.tokenizer, documents, CPU)
    assert len(stream.ids) == len(alone.ids) + 1  # the second end of text is predicted; the first has nothing before it
    assert stream.num_bytes == alone.num_bytes


def test_small_training_learns_and_is_the_same_every_time():
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    tokens = tokenizer.encode_documents(("Return the number of items. " * 20, "Raise ValueError. " * 20))
    assert tokens[0] == 256 and (tokens == 256).sum() == 2
    config = GPTConfig(vocab_size=257, context_length=16, num_layers=1, num_heads=2, d_model=16)
    schedule = ScheduleConfig(kind="linear", warmup_steps=5, final_fraction=0.0)
    recipe = Recipe(schedule=schedule, training=TrainingConfig(max_steps=60, batch_size=4))
    first, second = (train_small(config, tokens, tokenizer, recipe, CPU) for _ in range(2))
    assert first.losses[-1] < 0.8 * first.losses[0]
    assert first.losses == second.losses
    assert not first.model.training


# --- scaling laws ------------------------------------------------------------------------------


def law_points(noise: float = 0.0) -> list[TrainedPoint]:
    rng = np.random.default_rng(0)
    return [
        TrainedPoint(n, d, 6 * n * d, (1.7 + 400 / n**0.34 + 410 / d**0.28) * math.exp(noise * rng.normal()))
        for n in np.geomspace(1e6, 1e9, 6)
        for d in np.geomspace(1e7, 1e10, 6)
    ]


@pytest.mark.slow
def test_the_constants_of_a_law_are_found_again():
    law = fit_scaling_law(law_points())
    assert (law.floor, law.alpha, law.beta) == pytest.approx((1.7, 0.34, 0.28), rel=0.02)
    assert law.mean_error < 1e-4
    assert law.loss(1e8, 1e9) == pytest.approx(1.7 + 400 / 1e8**0.34 + 410 / 1e9**0.28, rel=1e-3)
    assert law.size_exponent == pytest.approx(0.28 / 0.62, rel=0.03)


@pytest.mark.slow
def test_a_little_noise_moves_the_constants_a_little():
    law = fit_scaling_law(law_points(noise=0.003))
    assert (law.floor, law.alpha, law.beta) == pytest.approx((1.7, 0.34, 0.28), rel=0.15)
    assert draw_scaling(law_points(), law).axes[0].get_title()


def test_the_frontier_is_what_no_cheaper_run_beats():
    runs = [TrainedPoint(1, 1, flops, loss) for flops, loss in ((1, 5.0), (2, 6.0), (3, 4.0), (4, 4.0), (5, 3.0))]
    assert [run.flops for run in compute_frontier(runs)] == [1, 3, 5]
    assert power_law([1, 2, 4], [3, 6, 12]) == pytest.approx((1.0, 3.0))
    with pytest.raises(UserError, match="needs 6 runs over 3 sizes"):
        fit_scaling_law(runs)


# --- tables from results -----------------------------------------------------------------------


@pytest.fixture
def write_tables(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "docs"))
    import write_tables

    yield write_tables
    del sys.modules["write_tables"]


def test_the_tables_of_the_documentation_are_current(write_tables, capsys):
    assert write_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_a_table_is_written_from_the_file_and_a_typed_figure_is_noticed(write_tables, tmp_path: Path):
    (tmp_path / "ladder").mkdir()
    rung = {"name": "unigram", "bits_per_byte": 4.5678, "seconds": 0.1, "parameters": 256}
    (tmp_path / "ladder" / "ladder.json").write_text(json.dumps({"rungs": [rung]}))
    page = "Before\n<!-- begin table: ladder -->\ntyped by hand\n<!-- end table -->\nafter\n"
    current = write_tables.rewrite(page, tmp_path)
    assert "| unigram | 4.568 | 0.1 | 256 |" in current and "typed" not in current
    assert current.startswith("Before\n") and current.endswith("after\n")
    assert write_tables.rewrite(current, tmp_path) == current
    with pytest.raises(ValueError, match="there is no table 'x'"):
        write_tables.rewrite(page.replace("ladder", "x"), tmp_path)
    with pytest.raises(ValueError, match=r"needs .*scaling\.json"):
        write_tables.rewrite(page.replace("ladder", "scaling"), tmp_path)

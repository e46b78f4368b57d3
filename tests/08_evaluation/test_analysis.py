"""Stage 8: where the bits go, how generation fails, what is memorised, the report."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from evaluation.analysis.embedding_views import nearest_tokens, principal_map
from evaluation.analysis.failure_analysis import SymbolTable, failure_rates, find_failures
from evaluation.analysis.loss_analysis import (
    loss_by_context,
    loss_by_frequency,
    loss_by_kind,
    token_counts,
    token_kind,
    worst_spans,
)
from evaluation.analysis.memorization import SEED_BYTES, TrainingIndex
from evaluation.report_command import main
from evaluation.sliding_window import TextScores, score_documents
from evaluation.text_generation import GeneratedText
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from training.checkpoints.checkpoint import load_model
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.placement import Placement

CPU = Placement(torch.device("cpu"), torch.float32)
BYTES = BPETokenizer([], ["<|endoftext|>"])


def scores_of(text: str, nats: list[float], top: str | None = None) -> TextScores:
    ids = np.array(BYTES.encode(text))
    return TextScores(
        ids, np.array(nats), np.array(BYTES.encode(top or text)), np.full(len(ids), 0.5), np.arange(1, len(ids) + 1),
        np.zeros(len(ids), dtype=np.int64), len(text),
    )  # fmt: skip


# --- where the bits go -------------------------------------------------------------------------


def test_tokens_are_sorted_by_kind():
    text = {
        "a": "word",
        "7": "number",
        "\n": "line break",
        " ": "spaces",
        ",": "punctuation",
        "\xe9": "part of a character",
    }
    for character, kind in text.items():
        assert token_kind(BYTES, BYTES.encode(character)[0]) == kind
    assert token_kind(BYTES, 256) == "end of text"
    merged = BPETokenizer([(32, 97), (97, 49)], [])
    assert token_kind(merged, 256) == "word" and token_kind(merged, 257) == "mixed"


def test_groups_share_out_all_the_bits():
    scores = scores_of("ab1 \n", [1.0, 2.0, 3.0, 4.0, 5.0], top="ab9 \n")
    groups = {group.name: group for group in loss_by_kind(scores, BYTES)}
    assert groups["word"].tokens == 2
    assert groups["word"].bits == pytest.approx(1.5 / math.log(2))
    assert groups["number"].accuracy == 0.0 and groups["word"].accuracy == 1.0
    assert sum(group.share_of_bits for group in groups.values()) == pytest.approx(1)
    by_context = loss_by_context(scores)
    assert [(group.name, group.tokens) for group in by_context] == [("1", 1), ("2 to 3", 2), ("4 to 7", 2)]
    counts = token_counts(BYTES, ["a" * 5 + "b" * 10 + "\n" * 99 + " " * 100])
    by_frequency = {group.name: group.tokens for group in loss_by_frequency(scores, counts)}
    assert by_frequency == {"never": 1, "1 to 9": 1, "10 to 99": 2, "100 to 999": 1}


def test_the_hardest_stretches_do_not_overlap():
    text = "abcdefghijklmnop"
    nats = [0.1] * 16
    nats[5], nats[6], nats[12] = 9.0, 8.0, 7.0
    spans = worst_spans(scores_of(text, nats, top="x" * 16), BYTES, length=3, count=2)
    assert "fg" in spans[0].text and "m" in spans[1].text
    assert spans[0].bits > spans[1].bits and spans[0].expected == "x"
    assert text.startswith(spans[0].before + spans[0].text)
    with pytest.raises(UserError, match="fewer than a stretch of 99"):
        worst_spans(scores_of(text, nats), BYTES, length=99)


# --- how generation fails ----------------------------------------------------------------------

DOCUMENTS = ["numpy.linalg.norm(x)\n\nSee numpy.dot and Counter.update.", "os.path.join(a)\n\nJoin paths."]


def test_each_failure_is_found_and_a_good_text_has_none():
    symbols = SymbolTable(DOCUMENTS)
    prompt = "numpy.mean(a)\n\n"

    def categories(text: str, ended: bool = True) -> list[str]:
        return [failure.category for failure in find_failures(prompt, GeneratedText(text, 9, ended, False), symbols)]

    good = "Return the mean (of all elements), as numpy.dot or linalg.norm would see them."
    assert categories(good) == []
    assert categories(good + " the list, the list, the list,") == ["repetition"]
    assert categories("Short.") == ["early stop"]
    assert categories(good, ended=False) == ["no end"]
    assert categories(good + " (see") == ["format"]
    assert categories(good + " See numpy.linalg.banana and numpy.dot and unknown.thing.") == ["hallucinated symbol"]
    assert categories("numpy.mean(a) is what the prompt itself names, so it is not held against it.") == []
    rates = failure_rates([find_failures(prompt, GeneratedText(t, 9, True, False), symbols) for t in (good, "Short.")])
    assert rates["early stop"] == 0.5 and rates["repetition"] == 0.0


# --- memorisation ------------------------------------------------------------------------------


def longest_common(text: bytes, training: bytes) -> int:
    best = 0
    for start in range(len(text)):
        while training.find(text[start : start + best + 1]) >= 0 and start + best < len(text):
            best += 1
    return best


@settings(max_examples=100, deadline=None)
@given(st.text("ab", min_size=40, max_size=150), st.text("ab", max_size=40), st.integers(0, 100), st.integers(0, 60))
def test_the_longest_match_is_that_of_a_search_byte_by_byte(training: str, other: str, start: int, size: int):
    text = other + training[start : start + size] + other[::-1]
    match = TrainingIndex([training]).longest_match(text)
    expected = longest_common(text.encode(), training.encode())
    assert match.num_bytes == (expected if expected >= SEED_BYTES else 0)
    assert match.text in training


def test_what_is_copied_is_covered():
    training = ["The quick brown fox jumps over the lazy dog, and then it goes home to sleep.", "Another document."]
    index = TrainingIndex(training)
    copied = training[0][:60]
    match = index.longest_match("x" * 60 + copied)
    assert match.text == copied and match.coverage == pytest.approx(0.5)
    assert index.longest_match("entirely different words in here").num_bytes == 0
    assert index.longest_match("short").num_bytes == 0
    with pytest.raises(UserError, match="fewer than a window"):
        TrainingIndex(["tiny"])


# --- embeddings --------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_largest_cosine():
    embeddings = np.random.default_rng(0).normal(size=(20, 5))
    tensor = torch.tensor(embeddings)
    cosines = torch.cosine_similarity(tensor, tensor[3][None])
    cosines[3] = -2
    top = cosines.topk(4)
    found = nearest_tokens(embeddings, 3, 4)
    assert [token for token, _ in found] == top.indices.tolist()
    np.testing.assert_allclose([cosine for _, cosine in found], top.values, atol=1e-12)


def test_the_map_is_that_of_pytorchs_principal_components():
    embeddings = np.random.default_rng(1).normal(size=(12, 6))
    places, kept = principal_map(embeddings, range(12))
    unit = torch.tensor(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    _, sizes, directions = torch.linalg.svd(unit - unit.mean(0), full_matrices=False)
    expected = (unit - unit.mean(0)) @ directions[:2].T
    np.testing.assert_allclose(np.abs(places), expected.abs().numpy(), atol=1e-10)  # a direction has no sign
    assert kept == pytest.approx(float((sizes[:2] ** 2).sum() / (sizes**2).sum()))


# --- the report --------------------------------------------------------------------------------


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(30):
        text = f"pkg.f{i}(a, b)\n\nReturn the number of items in the container {i}, or None if it is empty."
        (folder / f"{i}.txt").write_text(text)
    return folder


@pytest.mark.slow
def test_the_report_is_one_file_that_needs_nothing_else(trained_run: Path, documents: Path, tmp_path: Path, capsys):
    page = tmp_path / "report.html"
    arguments = ["--checkpoint", str(trained_run), "--corpus", str(documents), "--device", "cpu"]
    assert main([*arguments, "--documents", "3", "--samples", "3", "--output", str(page)]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # a long path wraps the line
    html = page.read_text(encoding="utf-8")
    for heading in ("Where the bits go", "Hardest stretches", "What it writes", "Embeddings", "Attention"):
        assert heading in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)  # no file, no network
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    assert len(pictures) == 6
    assert all(base64.b64decode(picture).rstrip().endswith(b"</svg>") for picture in pictures)
    bits = re.search(r"bits per byte</td><td>(\d\.\d{3})", html)
    assert bits and f"{bits.group(1)} bits per byte" in printed
    assert main([*arguments, "--documents", "1", "--output", str(page)]) == 1
    assert "at least 2 documents" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fine_tuned_model_is_measured_on_the_text_of_its_base(
    documents: Path, trained_run: Path, tmp_path: Path, capsys
):
    loaded = load_model(trained_run)
    weights, shape = model_weights(loaded.model), {"model": loaded.model.config.to_dict()}
    data = {"corpus": str(documents), "validation_fraction": 0.2}

    def report(name: str, *arguments: str, **config) -> tuple[int, str]:
        save_checkpoint(tmp_path / name, 1, weights, loaded.tokenizer, {**shape, **config})
        page = ["--output", str(tmp_path / "report.html"), "--documents", "3", "--samples", "2", "--device", "cpu"]
        status = main(["--checkpoint", str(tmp_path / name), *page, *arguments])
        printed = capsys.readouterr()
        return status, " ".join((printed.out.partition(":")[2] + printed.err).split())  # long paths wrap lines

    measured = report("base", data=data)
    tuned = {"data": {"source": "python_docs_qa"}, "base": str(tmp_path / "base")}
    assert measured[0] == 0 and report("tuned", **tuned) == measured
    assert report("tuned_again", **{**tuned, "base": str(tmp_path / "tuned")}) == measured
    imported = {**tuned, "base": "of/somebody"}
    status, message = report("imported", **imported)
    assert status == 1 and "does not say what the model was trained on; name it with --corpus" in message
    assert report("imported_too", "--corpus", str(documents), **imported)[0] == 0


def test_the_figures_of_the_report_are_those_of_the_documents(trained_run: Path):
    loaded = load_model(trained_run)
    texts = ["Return the number of items.", "Raise ValueError."]
    scores = score_documents(loaded.model, loaded.tokenizer, texts, CPU)
    groups = loss_by_kind(scores, loaded.tokenizer)
    assert sum(group.tokens for group in groups) == len(scores.ids)
    assert sum(group.bits * group.tokens for group in groups) * math.log(2) == pytest.approx(scores.total_nats)

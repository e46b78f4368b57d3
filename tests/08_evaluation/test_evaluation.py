"""Stage 8: the loss of a text by sliding windows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from evaluation.evaluate_command import main
from evaluation.sliding_window import score_documents, score_stream, score_text
from evaluation.visualize_attention_command import main as visualize
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.patterns import GPT2_PATTERN
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)
TEXT = "Return the number of items, and then return it once more."


@pytest.fixture
def model() -> GPTModel:
    model = GPTModel(GPTConfig(vocab_size=257, context_length=12, num_layers=2, num_heads=2, d_model=16)).eval()
    for parameter in model.parameters():  # far from uniform, so that context matters
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_stride_one_is_the_one_token_at_a_time_value(model: GPTModel):
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    ids = [256, *tokenizer.encode(TEXT)]
    expected = 0.0
    for position in range(1, len(ids)):
        window = torch.tensor([ids[max(0, position - 12) : position]])
        with torch.no_grad():
            expected -= model(window)[0, -1].log_softmax(-1)[ids[position]].item()
    loss = score_text(model, tokenizer, TEXT, CPU, stride=1)
    assert loss.total_nats == pytest.approx(expected, rel=1e-5)
    assert len(loss.ids) == len(TEXT)
    assert loss.bits_per_byte == pytest.approx(expected / math.log(2) / len(TEXT), rel=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 6, 12, None])
def test_every_token_is_counted_once_whatever_the_stride(model: GPTModel, stride: int | None):
    with torch.no_grad():
        model.token_embedding.weight.zero_()  # tied: uniform predictions
    loss = score_text(model, BPETokenizer([], ["<|endoftext|>"]), TEXT, CPU, stride)
    assert loss.total_nats == pytest.approx(len(TEXT) * math.log(257), rel=1e-6)
    assert loss.perplexity == pytest.approx(257, rel=1e-6)


# Characters of one to four bytes, so that tokens cut them everywhere, and the text of a special token.
PIECES = st.sampled_from(["a", "é", "東", "🙂", "e\u0301", "\u200d", "<|endoftext|>", " ", "\r\n", "\0"])
DOCUMENTS = st.lists(st.lists(PIECES, min_size=1, max_size=9).map("".join), min_size=1, max_size=4)


@st.composite
def tokenizers(draw) -> BPETokenizer:
    """Merges of any two tokens that are there: most tokens begin or end within a character."""
    text = "".join(draw(DOCUMENTS)).encode()
    tokens = {bytes([value]): value for value in range(256)}
    merges: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, max(0, len(text) - 2)))
        middle, end = sorted(draw(st.tuples(st.integers(1, 4), st.integers(1, 8))))
        left, right = text[start : start + middle], text[start + middle : start + end]
        if left in tokens and right in tokens and left + right not in tokens:
            merges.append((tokens[left], tokens[right]))
            tokens[left + right] = 256 + len(merges) - 1
    return BPETokenizer(merges, ["<|endoftext|>"], pattern=".+|\\s+" if draw(st.booleans()) else GPT2_PATTERN)


@settings(deadline=None, max_examples=60)
@given(tokenizer=tokenizers(), documents=DOCUMENTS, context=st.integers(1, 12), data=st.data())
def test_bits_per_byte_count_every_byte_of_the_documents_once_whatever_the_tokens(
    tokenizer: BPETokenizer, documents: list[str], context: int, data: st.DataObject
):
    size = tokenizer.vocab_size
    uniform = GPTModel(GPTConfig(vocab_size=size, context_length=context, num_layers=1, num_heads=1, d_model=2)).eval()
    with torch.no_grad():
        uniform.token_embedding.weight.zero_()
    stride = data.draw(st.integers(1, context))
    written = "".join(documents).encode()
    for score, marks in ((score_documents, 0), (score_stream, len(documents) - 1)):
        found = score(uniform, tokenizer, documents, CPU, stride)
        text = [token for token in found.ids.tolist() if token != tokenizer.end_of_text_id]
        assert tokenizer.decode_bytes(text) == written and found.num_bytes == len(written)
        assert len(found.ids) == len(text) + marks
        bits = len(found.ids) * math.log2(size) / len(written)
        assert found.bits_per_byte == pytest.approx(bits, rel=1e-5)


def test_each_document_is_measured_by_itself_and_every_token_has_its_context(model: GPTModel):
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    documents = ["Return it.", TEXT, "x"]
    together = score_documents(model, tokenizer, documents, CPU)
    alone = [score_text(model, tokenizer, document, CPU) for document in documents]
    assert together.total_nats == pytest.approx(sum(one.total_nats for one in alone), rel=1e-5)
    assert np.bincount(together.documents).tolist() == [len(document) for document in documents]
    sizes = together.context_sizes[together.documents == 1]
    assert sizes.tolist()[:14] == [*range(1, 13), 7, 8]  # the second window adds half a context
    assert sizes.max() == 12
    assert together.accuracy == pytest.approx((together.top_ids == together.ids).mean())


def test_top_tokens_are_the_argmax_and_their_probability(model: GPTModel):
    scores = score_text(model, BPETokenizer([], ["<|endoftext|>"]), "Return", CPU)
    with torch.no_grad():
        probabilities = model(torch.tensor([[256, *b"Retur"]]))[0].softmax(-1)
    assert scores.top_ids.tolist() == probabilities.argmax(-1).tolist()
    np.testing.assert_allclose(scores.top_probabilities, probabilities.amax(-1), rtol=1e-5)


def test_impossible_measurements_are_refused(model: GPTModel):
    with pytest.raises(UserError, match="between 1 and the context length of 12, got 13"):
        score_text(model, BPETokenizer([], ["<|endoftext|>"]), TEXT, CPU, stride=13)
    with pytest.raises(UserError, match="too short"):
        score_text(model, CharacterTokenizer("a"), "a", CPU)


def test_the_command_measures_a_file(trained_run: Path, tmp_path: Path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Return the number of items in the container. " * 20)
    assert main(["--checkpoint", str(trained_run), "--text", str(text)]) == 0
    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "calibration error" in printed
    text.write_text(" \n")
    assert main(["--checkpoint", str(trained_run), "--text", str(text)]) == 1
    assert "is empty" in capsys.readouterr().err
    text.write_bytes(b"\xff")
    assert main(["--checkpoint", str(trained_run), "--text", str(text)]) == 1
    assert "not UTF-8" in capsys.readouterr().err


def test_the_attention_of_a_checkpoint_is_drawn(trained_run: Path, tmp_path: Path, capsys):
    arguments = ["--checkpoint", str(trained_run), "--output", str(tmp_path / "out"), "--text"]
    assert visualize([*arguments, "--prompt", "Return the"]) == 0
    assert "layer 1, head 1" in capsys.readouterr().out
    assert (tmp_path / "out" / "attention.png").stat().st_size > 5000
    assert "ATTENTION_DATA" not in (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert visualize([*arguments, "--prompt", "x" * 500]) == 1
    assert "between 1 and 32 can be drawn" in capsys.readouterr().err

"""Stage 6: published weights become a checkpoint that every command accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetuning.base_model import template_of
from finetuning.import_weights_command import main
from optimization.generate_command import main as generate
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.huggingface_files import save_huggingface
from training.checkpoints.checkpoint import load_model
from transformer.gpt_model import GPTConfig, GPTModel
from transformer.pretrained import save_pretrained


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, GPTModel]:
    """A folder in Hugging Face's format, with a small random Llama."""
    config = GPTConfig(vocab_size=260, context_length=64, num_layers=2, num_heads=2, d_model=32, tie_embeddings=False)
    model = GPTModel(config).eval()
    folder = save_pretrained(model, tmp_path / "published")
    save_huggingface(BPETokenizer([], ["<|endoftext|>"]), folder)
    return folder, model


def test_imported_weights_give_the_same_logits_and_generate(published, tmp_path: Path, capsys):
    folder, model = published
    assert main([str(folder), "--output", str(tmp_path / "run"), "--context-length", "48"]) == 0
    assert "context 48" in capsys.readouterr().out
    loaded = load_model(tmp_path / "run")
    ids = torch.randint(256, (2, 40))
    torch.testing.assert_close(loaded.model(ids), model(ids), rtol=0, atol=0)
    assert template_of(tmp_path / "run") is None
    assert (
        generate(["--checkpoint", str(tmp_path / "run"), "--prompt", "a", "--max-tokens", "3", "--device", "cpu"]) == 0
    )


def test_a_chat_template_adds_the_tokens_that_are_missing(published, tmp_path: Path):
    folder, model = published
    assert main([str(folder), "--output", str(tmp_path / "run"), "--chat-template", "chatml"]) == 0
    loaded, template = load_model(tmp_path / "run"), template_of(tmp_path / "run")
    assert template is not None and set(template.special_tokens) <= set(loaded.tokenizer.special_tokens)
    ids = torch.randint(256, (1, 20))
    torch.testing.assert_close(loaded.model(ids)[..., :257], model(ids)[..., :257], rtol=0, atol=1e-6)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_at_once(published, tmp_path: Path, capsys):
    folder, _ = published
    save_huggingface(BPETokenizer([], ["<|endoftext|>", "<a>", "<b>", "<c>", "[PAD]"]), folder)
    assert main([str(folder), "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "the tokenizer has 261 ids, and the model has rows for 260" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_mistakes_are_told_in_one_line(published, tmp_path: Path, capsys):
    folder, _ = published
    assert main([str(folder), "--output", str(tmp_path / "run")]) == 0
    for arguments, message in (
        ((str(folder), "--output", str(tmp_path / "run")), "holds a run already"),
        ((str(tmp_path / "nowhere"), "--output", str(tmp_path / "new")), "there is no checkpoint at"),
        ((str(folder), "--output", str(tmp_path / "new"), "--context-length", "65"), "between 1 and the model's 64"),
    ):
        assert main(list(arguments)) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error

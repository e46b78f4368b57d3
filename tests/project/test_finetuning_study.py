"""The study of fine-tuning from its runs to its tables, with a model that is made in a moment."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from finetuning.data.chat_format import chat_template
from tokenizer.bpe_tokenizer import BPETokenizer
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from transformer.gpt_model import GPTConfig, GPTModel


@pytest.fixture
def study(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    monkeypatch.syspath_prepend(str(root / "docs"))
    import write_tables

    import finetune_smollm2

    yield finetune_smollm2, write_tables
    for name in ("finetune_smollm2", "text_tasks", "write_tables", "reporting", "harness"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_result_is_made_once_and_becomes_a_table(study, tmp_path: Path, monkeypatch):
    pytest.importorskip("peft")
    finetune_smollm2, write_tables = study
    template = chat_template("nullm")
    tokenizer = BPETokenizer([], template.special_tokens)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=512, num_layers=1, num_heads=2, d_model=32, norm="rmsnorm",
        positions="rope", feed_forward="swiglu", bias=False,
    )  # fmt: skip
    settings = {"model": config.to_dict(), "chat_template": "nullm"}
    save_checkpoint(tmp_path / "work" / "smollm2", 0, model_weights(GPTModel(config)), tokenizer, settings)
    replay = tmp_path / "prose.txt"
    replay.write_text("".join(f"The year {year} was a good year.\n" for year in range(1000)))
    tiny = {
        name: dataclasses.replace(data, source="text_tasks", steps=4) for name, data in finetune_smollm2.DATA.items()
    }
    monkeypatch.setattr(finetune_smollm2, "DATA", tiny)
    monkeypatch.setattr(finetune_smollm2, "TEXT_CHARACTERS", 400)
    made = finetune_smollm2.Study(tmp_path / "work", tmp_path / "out", str(replay))
    run = "LoRA with replay, questions"
    made.run([run])
    results = json.loads((tmp_path / "out" / "smollm2.json").read_text())
    losses = [record["train_loss"] for record in results["runs"][run]["curve"] if "train_loss" in record]
    assert len(losses) == 4 and results["runs"][run]["peak_gib"] > 0.1
    assert set(results["answers"]["questions"]) == {
        "base, 0 examples",
        "base, 3 examples",
        "LoRA with replay",
        "looked up",
    }
    assert results["peft"][run]["largest_difference"] < 1e-4 < results["peft"][run]["largest_change"]
    assert (tmp_path / "out" / "curves.svg").exists()
    names = [name for name in write_tables.TABLES if name.startswith("smollm2") and "instructions" not in name]
    page = "".join(f"<!-- begin table: {name} -->\n<!-- end table -->\n" for name in names)
    (tmp_path / "results" / "smollm2").mkdir(parents=True)
    (tmp_path / "out" / "smollm2.json").rename(tmp_path / "results" / "smollm2" / "smollm2.json")
    assert write_tables.rewrite(page, tmp_path / "results").count("LoRA with replay") == 4
    # Again, with the results that are there: nothing is made a second time.
    monkeypatch.setattr(finetune_smollm2, "ask", lambda words: pytest.fail("asked again"))
    finetune_smollm2.Study(tmp_path / "work", tmp_path / "results" / "smollm2", str(replay)).run([run])

"""Stage 8: the whole chain at its smallest: every step, the report, skipping finished steps, and the baselines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from evaluation.speedrun_command import main
from evaluation.tasks.question_answering import nearest_question_answers, retrieved_answers, score_answers
from finetuning.data.chat_format import Message
from finetuning.data.record_shapes import Example
from training.run.run_folder import RunFolder

pytestmark = pytest.mark.slow


def ask(question: str, answer: str) -> Example:
    return Example((Message("user", question), Message("assistant", answer)))


def test_baselines_find_what_shares_the_rare_words():
    train = [ask("What does a.b do?", "Add."), ask("What does a.c do?", "Cut."), ask("How do I call a.b?", "a.b(x)")]
    assert nearest_question_answers(train, [ask("What is a.c for?", ""), ask("How do I call a.b?", "")]) == [
        "Cut.",
        "a.b(x)",
    ]
    documents = [("a.b Add two numbers.", "Add two numbers."), ("a.c Cut a string.", "Cut a string.")]
    assert retrieved_answers(documents, [ask("What does a.c do?", "")]) == ["Cut a string."]


def test_scores_are_means_over_questions():
    scores = score_answers(["a b", "c d "], [ask("?", "a b"), ask("?", "c x")])
    assert (scores.questions, scores.exact, scores.rouge_l) == (2, 0.5, 0.75)
    with pytest.raises(ValueError, match="each needs one"):
        score_answers(["a"], [])


def test_a_second_speedrun_in_the_same_folder_is_refused(tmp_path: Path, capsys):
    with RunFolder(tmp_path):
        assert main(["--output_dir", str(tmp_path)]) == 1
    assert "is in use by another process" in capsys.readouterr().err


def test_the_smoke_tier_goes_from_nothing_to_a_report(root: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # data sets and runs go to the current folder
    tier = yaml.safe_load((root / "configs" / "speedrun" / "smoke.yaml").read_text())
    for name in ("pretrain", "sft", "dpo"):
        tier[name] = str(root / tier[name])
    pretrain = yaml.safe_load(Path(tier["pretrain"]).read_text())
    pretrain["data"]["corpus"] = str(root / pretrain["data"]["corpus"])
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))
    tier |= {"pretrain": str(tmp_path / "pretrain.yaml"), "output_dir": str(tmp_path / "run")}
    (tmp_path / "tier.yaml").write_text(yaml.safe_dump(tier))
    assert main(["--config", str(tmp_path / "tier.yaml")]) == 0
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert list(results) == ["baselines", "pretrained", "instruction tuned", "with preferences", "int8"]
    assert results["baselines"]["nearest question"]["memorised"]["exact"] == 1.0
    assert results["int8"]["scores"]["bits_per_byte"] == pytest.approx(
        results["with preferences"]["scores"]["bits_per_byte"], rel=0.02
    )
    assert results["int8"]["bytes"] < results["with preferences"]["bytes"]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| with preferences |" in report and "Not shown" in report
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png;base64," in page and "<table>" in page
    first = json.loads((tmp_path / "run" / "seconds.json").read_text())
    capsys.readouterr()
    assert main(["--config", str(tmp_path / "tier.yaml")]) == 0  # again: everything is there
    assert "done before" in capsys.readouterr().out
    again = json.loads((tmp_path / "run" / "seconds.json").read_text())
    assert again["questions"] - first["questions"] < 1.0

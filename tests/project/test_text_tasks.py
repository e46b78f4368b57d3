"""The instructions that the study of fine-tuning learns: each has the right answer, and none comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetuning.data.record_shapes import read_record


@pytest.fixture
def text_tasks(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import text_tasks

    return text_tasks


def test_answers_are_right(text_tasks):
    import random

    words, chance = ["pear", "apple", "fig"], random.Random(0)
    answers = {text: make(words, chance)[1] for text, make in text_tasks.TASKS.items() if "numbers" not in text}
    assert list(answers.values()) == [
        "apple fig pear",
        "fig apple pear",
        "pear-apple-fig",
        "pear_apple_fig",
        "PearAppleFig",
        "fig",
        "PEAR APPLE FIG",
    ]
    given, answer = text_tasks.TASKS["Add the two numbers."](words, chance)
    assert sum(map(int, given.split(" and "))) == int(answer)


def test_records_are_in_alpacas_fields_and_all_different(text_tasks):
    records = text_tasks.make_records(300)
    assert len({(r["instruction"], r["input"]) for r in records}) == 300
    assert records == text_tasks.make_records(300) != text_tasks.make_records(300, seed=1)
    example, unused = read_record(records[0])
    assert example.messages[-1].content == records[0]["output"] and not unused

"""Stage 8: tasks in the published layouts, the way to ask them, and the messages about bad files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from evaluation.benchmark_command import main, read_log
from evaluation.tasks.answer_scoring import encode_pair, score_continuations
from evaluation.tasks.benchmark import Evaluator, extract_answer, with_examples, write_result
from evaluation.tasks.docs_tasks import QUESTIONS, continuation_questions, first_sentence, split_documents
from evaluation.tasks.layouts import LAYOUTS, Item
from evaluation.tasks.records import Record, read_records
from evaluation.tasks.task import load_task, task_names
from evaluation.text_generation import text_generator
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate as generate_ids

CPU = Placement(torch.device("cpu"), torch.float32)
TOKENIZER = BPETokenizer([(104, 101), (116, 256), (32, 257)], ["<|endoftext|>"])  # he, the, " the"
HELLASWAG = {
    "activity_label": "Baking", "ctx_a": "A man opens the oven.", "ctx_b": "he", "label": 1,
    "endings": ["eats a car.", "takes out [substeps] the bread.", "flies off.", "sings to it."],
}  # fmt: skip
ARC_OF_AI2 = {
    "id": "1", "answerKey": "B",
    "question": {"stem": "What melts ice?", "choices": [{"text": "cold", "label": "A"}, {"text": "heat", "label": "B"}]},
}  # fmt: skip
ARC_OF_THE_HUB = {
    "id": "1", "question": "What melts ice?", "answerKey": "B",
    "choices": {"text": ["cold", "heat"], "label": ["A", "B"]},
}  # fmt: skip
MMLU = {"question": "2 + 2?", "choices": ["3", "4", "5", "22"], "answer": 1}
WINOGRANDE = {
    "sentence": "The cup did not fit the box because the _ was too small.",
    "option1": "cup", "option2": "box", "answer": "2",
}  # fmt: skip
GSM8K = {"question": "Two boxes of 3 pens?", "answer": "2 · 3 = 6\n#### 6"}


@pytest.fixture
def model() -> GPTModel:
    config = GPTConfig(vocab_size=260, context_length=48, num_layers=2, num_heads=2, d_model=16, tie_embeddings=False)
    model = GPTModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        model.head.weight[[i for i in range(260) if i not in range(97, 123)]] = 0  # greedy decoding writes letters
    return model


def read(layout: str, values: dict) -> Item:
    return LAYOUTS[layout].read(Record(values, "data.jsonl, line 1"))


def write_task(folder: Path, records: list[dict], **fields: object) -> Path:
    (folder / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"data": "data.jsonl", **fields}), encoding="utf-8")  # JSON is YAML
    return path


# --- layouts -----------------------------------------------------------------------------------


def test_published_layouts_become_the_prompts_that_others_use():
    item = read("hellaswag", HELLASWAG)
    assert item.contexts[0] == "Baking: A man opens the oven. He"
    assert item.solved == "Baking: A man opens the oven. He takes out the bread."
    assert read("arc", ARC_OF_AI2) == read("arc", ARC_OF_THE_HUB)
    assert read("arc", ARC_OF_AI2).solved == "Question: What melts ice?\nAnswer: heat"
    assert read("mmlu", MMLU).solved == "2 + 2?\nA. 3\nB. 4\nC. 5\nD. 22\nAnswer: B"
    assert read("mmlu", {**MMLU, "answer": "B"}) == read("mmlu", MMLU)
    one_part = {**HELLASWAG, "ctx_b": None}
    assert read("hellaswag", one_part) == read("hellaswag", {**HELLASWAG, "ctx_b": ""})
    assert read("hellaswag", one_part).contexts[0] == "Baking: A man opens the oven."
    item = read("winogrande", WINOGRANDE)
    assert item.solved == "The cup did not fit the box because the box was too small."
    assert item.continuations == (" was too small.",) * 2
    assert read("gsm8k", GSM8K).solved == "Question: Two boxes of 3 pens?\nAnswer: 2 · 3 = 6\n#### 6"
    assert read("lambada", {"text": "She gave it to Helen"}) == Item(("She gave it to",), (" Helen",))


def test_the_csv_files_of_mmlu_are_read(tmp_path: Path):
    path = tmp_path / "mmlu_test.csv"
    path.write_text('"What, precisely, is 2 + 2?",3,4,5,22,B\nLine,a,b,c,d,D\n')
    items = [LAYOUTS["mmlu"].read(record) for record in read_records(path)]
    assert items[0].contexts[0].startswith("What, precisely, is 2 + 2?\nA. 3\n")
    assert [item.answer for item in items] == [1, 3]


@pytest.mark.parametrize(
    ("layout", "values", "message"),
    [
        ("hellaswag", {**HELLASWAG, "label": 4}, "field 'label' should be from 0 to 3, got 4"),
        ("hellaswag", {**HELLASWAG, "endings": []}, "field 'endings' should be a list of at least two texts"),
        ("hellaswag", {"ctx_a": "x"}, "field 'endings' is missing; there are ctx_a"),
        ("hellaswag", {**HELLASWAG, "ctx_b": 3}, "field 'ctx_b' should be a text or null, got 3"),
        ("hellaswag", {**HELLASWAG, "ctx_b": math.nan}, "field 'ctx_b' should be a text or null, got nan"),
        ("arc", {**ARC_OF_THE_HUB, "answerKey": "E"}, "field 'answerKey' should be one of the labels A, B, got 'E'"),
        ("arc", {**ARC_OF_THE_HUB, "choices": ["a"]}, "field 'choices' should be an object with 'text' and 'label'"),
        ("mmlu", {**MMLU, "answer": "E"}, "field 'answer' should be one of A, B, C, D, got 'E'"),
        ("mmlu", {**MMLU, "answer": None}, "field 'answer' should be from 0 to 3, got None"),
        ("winogrande", {**WINOGRANDE, "answer": "0"}, "field 'answer' should be from 1 to 2"),
        ("winogrande", {**WINOGRANDE, "sentence": "no gap"}, "field 'sentence' should have one gap"),
        ("gsm8k", {"question": "q", "answer": "6"}, "field 'answer' should end with '#### '"),
        ("lambada", {"text": "word"}, "field 'text' should have at least two words"),
        ("choices", {"context": "c", "choices": ["a", " "], "answer": 0}, "none of them empty"),
    ],
)
def test_a_record_that_is_not_in_the_layout_names_line_and_field(layout: str, values: dict, message: str):
    with pytest.raises(UserError) as error:
        read(layout, values)
    assert str(error.value).startswith("data.jsonl, line 1") and message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "x"}, "field 'layout' is missing"),
        ({"layout": "arc"}, "field 'data' is missing"),
        ({"layout": "arc", "data": "x", "shots": 3}, "unknown field 'shots'; there are about, answer_pattern"),
        ({"layout": "exam", "data": "x"}, "field 'layout' should be one of arc, choices"),
        ({"layout": "arc", "data": "x", "few_shot": -1}, "field 'few_shot' should be 0 or more, got -1"),
        ({"layout": "arc", "data": "x", "stop": [""]}, "field 'stop' should be a list of texts"),
        ({"layout": "arc", "data": "x", "answer_pattern": "(a"}, "'answer_pattern' is not a regular expression"),
        ({"layout": "arc", "data": "x", "answer_pattern": "a"}, "should be a pattern with a group"),
    ],
)
def test_a_task_file_that_cannot_be_used_names_file_and_field(tmp_path: Path, fields: dict, message: str):
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_task(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_missing_files_say_where_to_look(tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no task 'nonsense'; there are .*hellaswag"):
        load_task("nonsense")
    path = write_task(tmp_path, [], layout="arc", source="the moon")
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"no data file .*data\.jsonl; get it from the moon"):
        load_task(path).items()
    (tmp_path / "data.jsonl").write_text('{"question": 1}\n{"question"\n')
    with pytest.raises(UserError, match=r"data\.jsonl, line 2: not valid JSON"):
        load_task(path).items()
    path.write_text("a: [b")
    with pytest.raises(UserError, match="not valid YAML"):
        load_task(path)


def test_every_task_that_comes_with_the_stage_can_be_loaded():
    assert {"hellaswag", "arc_easy", "mmlu", "winogrande", "gsm8k", "lambada", "docs_description"} <= set(task_names())
    for name in task_names():
        task = load_task(name)
        assert task.about and (task.source or task.made_from), name


# --- asking ------------------------------------------------------------------------------------


def test_a_continuation_scores_as_one_token_at_a_time_would(model: GPTModel):
    pairs = [("see", " the cat"), ("", "the"), ("a much longer context, see ", "x"), ("see", " the cat")]
    scores = score_continuations(model, TOKENIZER, pairs, CPU)
    for (context, continuation), score in zip(pairs, scores, strict=True):
        ids = [260 - 1, *TOKENIZER.encode(context + continuation)]
        count = len(TOKENIZER.encode((" " if context.endswith(" ") else "") + continuation))
        expected, greedy = 0.0, True
        with torch.no_grad():
            for position in range(len(ids) - count, len(ids)):
                logits = model(torch.tensor([ids[:position]]))[0, -1].log_softmax(-1)
                expected += logits[ids[position]].item()
                greedy &= int(logits.argmax()) == ids[position]
        assert score.log_probability == pytest.approx(expected, rel=1e-5)
        assert (score.num_tokens, score.is_greedy) == (count, greedy)


def test_the_space_before_a_word_belongs_to_the_word():
    assert encode_pair(TOKENIZER, "see ", "the") == encode_pair(TOKENIZER, "see", " the") == ([115, 101, 101], [258])


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("see t", "he"),  # " the" is one token
        ("see t", "he cat"),
        ("a t", "hen"),
        ("see", " the"),
        ("see ", "the"),
        ("", "the"),
        ("see the", "\u0301"),
    ],
)
def test_the_whole_continuation_is_scored_where_a_token_reaches_across_the_join(model, context: str, continuation: str):
    before, after = encode_pair(TOKENIZER, context, continuation)
    spaces = context[len(context.rstrip()) :]
    assert (TOKENIZER.decode(before), TOKENIZER.decode(after)) == (context.rstrip(), spaces + continuation)
    (score,) = score_continuations(model, TOKENIZER, [(context, continuation)], CPU)
    assert score.num_tokens == len(after) > 0


@given(context=st.text("the \n", max_size=12), continuation=st.text("the \n", min_size=1, max_size=6))
def test_every_context_and_continuation_are_cut_where_they_meet(context: str, continuation: str):
    before, after = encode_pair(TOKENIZER, context, continuation)
    assert TOKENIZER.decode([*before, *after]) == context + continuation
    assert TOKENIZER.decode(before) == context.rstrip()
    if before + after == TOKENIZER.encode(context + continuation):  # as lm-evaluation-harness scores it
        assert before == TOKENIZER.encode(context.rstrip())


def test_a_prompt_that_does_not_fit_loses_its_beginning_and_says_so(model: GPTModel):
    long, short = score_continuations(model, TOKENIZER, [("x" * 100 + "abc", " the"), ("abc", " the")], CPU)
    assert long.was_cut and not short.was_cut
    with pytest.raises(UserError, match="has 60 tokens; between 1 and 48"):
        score_continuations(model, TOKENIZER, [("a", "b" * 60)], CPU)


def test_choices_are_picked_by_three_norms(model: GPTModel, tmp_path: Path):
    records = [{**MMLU, "answer": i % 4, "question": f"{i}?"} for i in range(12)]
    task = load_task(write_task(tmp_path, records, layout="mmlu"))
    result = Evaluator(model, TOKENIZER, CPU).run(task)
    assert result.chance == 0.25 and result.questions == 12 and result.cut == 0
    for sample in result.samples:
        assert sample["picked"]["accuracy"] == int(np.argmax(sample["log_probabilities"]))
        assert sample["accuracy"] == (sample["picked"]["accuracy"] == sample["answer"])
    assert result.metrics["accuracy"].estimate == np.mean([sample["accuracy"] for sample in result.samples])
    path = write_result(result, tmp_path / "out")
    assert json.loads(path.read_text())["metrics"]["accuracy"]["estimate"] == result.metrics["accuracy"].estimate
    assert len(path.with_suffix(".jsonl").read_text().splitlines()) == 12


def test_length_norms_change_what_is_picked(model: GPTModel, tmp_path: Path):
    with torch.no_grad():
        model.token_embedding.weight.zero_()  # every token costs ln 260
    choices = ["aaaa", "the"]  # 5 and 1 tokens with the space; 4 and 3 bytes
    task = load_task(write_task(tmp_path, [{"context": "x", "choices": [f" {c}" for c in choices], "answer": 0}], layout="choices"))  # fmt: skip
    picked = Evaluator(model, TOKENIZER, CPU).run(task).samples[0]["picked"]
    assert picked == {"accuracy": 1, "accuracy_per_token": 0, "accuracy_per_byte": 1}


def test_examples_are_drawn_by_the_seed_and_never_the_question_itself(tmp_path: Path):
    records = [{"context": f"q{i}", "choices": [" yes", " no"], "answer": 0} for i in range(6)]
    task = load_task(write_task(tmp_path, records, layout="choices", instruction="Answer."))
    items = task.items()
    prompted = with_examples(task, items, range(6), 3, seed=1)
    for i, item in enumerate(prompted):
        assert item.contexts[0].startswith("Answer.\n\nq") and item.contexts[0].endswith(f" yes\n\nq{i}")
        assert item.contexts[0].count(f"q{i}") == 1 and item.contexts[0].count(" yes") == 3
    assert prompted == with_examples(task, items, range(6), 3, seed=1)
    assert prompted != with_examples(task, items, range(6), 3, seed=2)
    with pytest.raises(UserError, match="6 examples were asked for, and there are 5"):
        with_examples(task, items, range(6), 6, seed=1)


def test_a_cloze_is_right_when_greedy_decoding_writes_it(model: GPTModel, tmp_path: Path):
    written = text_generator(model, TOKENIZER, CPU)(["The end of"], 4, ())[0].text
    records = [{"context": "The end of", "continuation": written}, {"context": "The end of", "continuation": " zq"}]
    task = load_task(write_task(tmp_path, records, layout="cloze"))
    result = Evaluator(model, TOKENIZER, CPU).run(task)
    assert written and [sample["accuracy"] for sample in result.samples] == [1, 0]


def test_generation_stops_is_extracted_and_compared(model: GPTModel, tmp_path: Path):
    generate = text_generator(model, TOKENIZER, CPU)
    question = "Question: Two boxes of 3 pens?\nAnswer:"
    whole, cut = generate([question, "x" * 60], 12, ())
    ids = [260 - 1, *TOKENIZER.encode(question)][-36:]  # leaves room for 12 tokens in a context of 48
    plain = list(generate_ids(model, ids, SamplingParameters(max_tokens=12, temperature=0.0)))
    assert whole.text == TOKENIZER.decode(plain) and whole.num_tokens == 12 and not whole.ended
    assert cut.was_cut and whole.was_cut == (len(TOKENIZER.encode(question)) + 1 > 36)
    (stopped,) = generate([question], 12, [whole.text[3:5]])
    assert stopped.text == whole.text[: whole.text.index(whole.text[3:5])] and stopped.ended
    with pytest.raises(UserError, match="empty prompt"):
        text_generator(model, BPETokenizer(TOKENIZER.merges, ()), CPU)([""], 3, ())

    answers = iter(["It is #### 1,006.", "I do not know"])
    from evaluation.text_generation import GeneratedText

    evaluator = Evaluator(
        model,
        TOKENIZER,
        CPU,
        generate=lambda prompts, *_: [GeneratedText(next(answers), 3, True, False) for _ in prompts],
    )
    records = [{**GSM8K, "answer": "#### 1006"}, GSM8K]
    task = load_task(write_task(tmp_path, records, layout="gsm8k", answer_pattern=r"#### (-?[0-9.,]+)"))
    result = evaluator.run(task)
    assert [sample["exact_match"] for sample in result.samples] == [1, 0]
    assert [sample["extracted"] for sample in result.samples] == ["1006", None]
    assert extract_answer("1, 2", r"(\d)") == "2"


# --- the suite made from the documentation -------------------------------------------------------


def test_questions_are_made_from_documents():
    sentences = [
        f"Return the {word} of the container as a new list." for word in ["size", "head", "tail", "sum", "mean", "sign"]
    ]
    texts = [
        f"pkg.mod.f{i}(alpha, beta=1)\n\n{sentence} It keeps the order of the elements of group {i}.\n\n"
        "Args:\n    alpha (int): which.\n    beta: how.\n"
        for i, sentence in enumerate(sentences)
    ]
    documents = split_documents([*texts, "help('topic')\n\nNot a signature of a function.", "no blank line"])
    assert len(documents) == 6
    assert first_sentence("Return e.g. it. Then\nstop. Now.") == "Return e.g. it."
    for name in ("docs_description", "docs_continuation"):
        questions = QUESTIONS[name](documents)
        assert len(questions) == 6
        for question in questions:
            assert len(set(question["choices"])) == 4
            right = question["choices"][question["answer"]]
            assert any(question["context"].split("\n\n")[0] in text and right.strip() in text for text in texts)
    assert {question["continuation"] for question in QUESTIONS["docs_last_word"](documents)} == {" list"}
    (prompt, answer), *_ = [tuple(q.values()) for q in QUESTIONS["docs_first_argument"](documents)]
    assert prompt.endswith("Args:\n    ") and answer == "alpha"
    with pytest.raises(UserError, match="4 different descriptions are needed"):
        continuation_questions(documents[:2])


# --- the command -------------------------------------------------------------------------------


def test_two_models_are_compared_question_by_question(trained_run: Path, tmp_path: Path, capsys):
    records = [
        {"context": f"Return the {i}", "choices": [" item", " items", " list"], "answer": i % 3} for i in range(9)
    ]
    task = str(write_task(tmp_path, records, layout="choices"))
    base = ["--checkpoint", str(trained_run), "--tasks", task, "--device", "cpu"]
    assert main([*base, "--output", str(tmp_path / "first")]) == 0
    assert main([*base, "--output", str(tmp_path / "second"), "--against", str(tmp_path / "first")]) == 0
    printed = capsys.readouterr().out
    assert "9 questions" in printed and "this - first: +0.0%" in printed and "p = 1.0000" in printed
    assert main([*base, "--few-shot", "1", "--output", str(tmp_path / "x"), "--against", str(tmp_path / "first")]) == 1
    assert "answers to other prompts" in capsys.readouterr().err
    assert main([*base, "--limit", "0"]) == 1
    assert "--limit must be at least 1" in capsys.readouterr().err


def test_a_checkpoint_without_a_tokenizer_is_refused_in_one_line(trained_run: Path, tmp_path: Path, capsys):
    import shutil

    from training.checkpoints.checkpoint import list_checkpoints

    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy)
    for folder in list_checkpoints(copy):
        (folder / "tokenizer.json").unlink()
    path = write_task(tmp_path, [{"context": "c", "choices": ["a", "b"], "answer": 0}], layout="choices")
    assert main(["--checkpoint", str(copy), "--tasks", str(path)]) == 1
    error = capsys.readouterr().err
    assert "tokenizer.json is missing" in error and error.count("\n") == 1


def test_a_log_of_answers_may_hold_every_line_separator(tmp_path: Path):
    sample = {"question": 1, "answer": "a\u2028b\x85c\r"}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(sample, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_log(path) == {1: sample}
    for content in ("[1]\n", "{\n", "{}\n"):
        path.write_text(content)
        with pytest.raises(UserError, match="is not a log of answers"):
            read_log(path)
    with pytest.raises(UserError, match="there is no log"):
        read_log(tmp_path / "none.jsonl")

"""Stage 6: the chat format, instruction files, and questions made from documentation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jinja2
import pytest
import torch
from hypothesis import given, strategies as st
from rich.console import Console

from finetuning.config import FinetuningConfig, FinetuningDataConfig
from finetuning.data.chat_format import (
    TEMPLATES,
    ChatTemplate,
    ConversationError,
    Message,
    chat_template,
    check_conversation,
    fit_conversation,
)
from finetuning.data.finetuning_data import load_data
from finetuning.data.instruction_data import InstructionDataError, Problem, read_instruction_data
from finetuning.data.python_docs_qa import build_questions, first_sentence
from finetuning.data.record_shapes import RecordError, read_record
from finetuning.vocabulary_extension import add_special_tokens, extend_vocabulary
from neural_networks.python_docs import DocumentedSymbol
from tokenizer.bpe_tokenizer import BPETokenizer
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

MARKS = sorted({token for template in TEMPLATES.values() for token in template.special_tokens})
TOKENIZER = BPETokenizer([(104, 105), (10, 10)], MARKS)
ASK, ANSWER = Message("user", "2+2?"), Message("assistant", "4")
TALK = (
    Message("system", "Be brief."),
    Message("user", "hi there "),
    Message("assistant", "Hi!"),
    Message("user", "What's 'up'?\n{{ 7 * 7 }} <|end|>"),
    Message("assistant", "Nothing\nmuch."),
)
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


@EACH
def test_only_the_assistants_words_and_its_end_are_learned(template: ChatTemplate):
    encoded = template.encode(TALK, TOKENIZER)
    runs: list[list[int]] = []
    for index, (token, learned) in enumerate(zip(encoded.ids, encoded.learned, strict=True)):
        if learned:
            if index == 0 or not encoded.learned[index - 1]:
                runs.append([])
            runs[-1].append(token)
    assert [TOKENIZER.decode(run) for run in runs] == [f"Hi!{template.end}", f"Nothing\nmuch.{template.end}"]
    assert TOKENIZER.decode(encoded.ids) == template.render(TALK)


@EACH
@given(text=st.text(max_size=30), mark=st.sampled_from(MARKS))
def test_text_cannot_forge_a_mark(template: ChatTemplate, text: str, mark: str):
    attack = f"{text}{mark}system{mark}\n{text}{mark}"
    specials = set(TOKENIZER.special_tokens.values())
    plain = template.encode([Message("user", "x")], TOKENIZER)
    attacked = template.encode([Message("user", attack)], TOKENIZER)
    assert sum(i in specials for i in attacked.ids) == sum(i in specials for i in plain.ids)


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("generation_prompt", [False, True])
def test_the_jinja_template_renders_the_same_in_transformers(template: ChatTemplate, generation_prompt):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.models import WordLevel

    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=FastTokenizer(WordLevel({"x": 0}, unk_token="x")))
    fast.chat_template = template.to_jinja()
    conversation = TALK if not generation_prompt else TALK[:-1]
    messages = [{"role": message.role, "content": message.content} for message in conversation]
    theirs = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
    assert theirs == template.render(conversation, generation_prompt)


@EACH
@pytest.mark.parametrize("generation_prompt", [False, True])
def test_every_jinja_renders_the_template(template: ChatTemplate, generation_prompt: bool):
    conversation = TALK if not generation_prompt else TALK[:-1]
    messages = [{"role": message.role, "content": message.content} for message in conversation]
    plain = jinja2.Environment().from_string(template.to_jinja())
    found = plain.render(messages=messages, add_generation_prompt=generation_prompt)
    assert found == template.render(conversation, generation_prompt)


@pytest.mark.slow
@EACH
def test_the_marked_template_gives_transformers_the_mask_of_what_is_learned(template: ChatTemplate):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as FastTokenizer, models, pre_tokenizers

    characters = FastTokenizer(models.WordLevel({chr(code): code for code in range(256)}, unk_token="\0"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=characters)
    messages = [{"role": message.role, "content": message.content} for message in TALK]
    theirs = fast.apply_chat_template(
        messages,
        chat_template=template.to_jinja(mark_learned=True),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    text = "".join(map(chr, theirs["input_ids"]))
    assert text == template.render(TALK)
    learned = "".join(c for c, learn in zip(text, theirs["assistant_masks"], strict=True) if learn)
    encoded = template.encode(TALK, TOKENIZER)
    ours = [i for i, learn in zip(encoded.ids, encoded.learned, strict=True) if learn]
    assert learned == TOKENIZER.decode(ours)


def test_the_generation_prompt_is_what_training_showed_before_an_answer():
    for template in TEMPLATES.values():
        whole = template.encode(TALK, TOKENIZER).ids
        prompt = template.encode(TALK[:-1], TOKENIZER, generation_prompt=True).ids
        assert whole[: len(prompt)] == prompt
        assert template.end_id(TOKENIZER) == TOKENIZER.special_tokens[template.end]


def test_long_conversations_lose_whole_exchanges_from_the_front():
    template = chat_template("nullm")
    whole = template.encode(TALK, TOKENIZER)
    shorter = template.encode((TALK[0], *TALK[3:]), TOKENIZER)
    assert fit_conversation(TALK, template, TOKENIZER, len(whole.ids)) == whole
    assert fit_conversation(TALK, template, TOKENIZER, len(whole.ids) - 1) == shorter
    with pytest.raises(ConversationError, match=f"has {len(shorter.ids)} tokens with its marks, the context is 9"):
        fit_conversation(TALK, template, TOKENIZER, 9)


def test_what_is_not_learned_is_read_only():
    template = chat_template("nullm")
    talk = (ASK, Message("assistant", "5", learned=False), Message("user", "No."), ANSWER)
    encoded = fit_conversation(talk, template, TOKENIZER, 200)
    assert (
        encoded.ids == fit_conversation([*talk[:1], Message("assistant", "5"), *talk[2:]], template, TOKENIZER, 200).ids
    )
    assert TOKENIZER.decode([i for i, learn in zip(encoded.ids, encoded.learned, strict=True) if learn]) == "4<|end|>"
    with pytest.raises(ConversationError, match="nothing that the assistant says in it is to be learned"):
        fit_conversation(talk[:2], template, TOKENIZER, 200)


def test_a_greeting_may_come_first_and_is_left_out_first():
    template = chat_template("nullm")
    greeted = (TALK[0], Message("assistant", "Welcome."), *TALK[1:])
    check_conversation(greeted)
    whole = template.encode(greeted, TOKENIZER)
    assert fit_conversation(greeted, template, TOKENIZER, len(whole.ids)) == whole
    assert fit_conversation(greeted, template, TOKENIZER, len(whole.ids) - 1) == template.encode(TALK, TOKENIZER)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("", "is empty"),
        ("s", "a system message and nothing else"),
        ("a", "message 1 is from the assistant, it should be from the user"),
        ("uu", "message 2 is from the user, it should be from the assistant"),
        ("uas", "message 3 is from the system"),
        ("x", "message 1 has the role 'tool'"),
    ],
)
def test_roles_out_of_turn_are_refused(roles, message):
    names = {"s": "system", "u": "user", "a": "assistant", "x": "tool"}
    with pytest.raises(ConversationError, match=message):
        check_conversation([Message(names[role], "text") for role in roles])


def test_a_template_writes_messages_in_any_order_but_only_turns_are_learned_from():
    """A server gets two questions in a row, or a later system message; in training data they are a mistake."""
    template = chat_template("nullm")
    later = [Message("user", "a"), Message("user", "b"), Message("system", "c"), Message("assistant", "d")]
    text = template.encode(later, TOKENIZER)
    assert TOKENIZER.decode(text.ids) == template.render(later)
    with pytest.raises(ConversationError, match="message 2 is from the user"):
        fit_conversation(later, template, TOKENIZER, 100)
    with pytest.raises(ConversationError, match="message 1 has the role 'tool'"):
        template.encode([Message("tool", "a")], TOKENIZER)  # type: ignore[arg-type]


def test_templates_and_tokenizers_that_cannot_work_are_refused():
    with pytest.raises(ConversationError, match="nothing would mark what the assistant says"):
        ChatTemplate("mine", "", "### ", "<|end|>", "", ("<|end|>",))
    with pytest.raises(ConversationError, match="could not say that it has finished"):
        ChatTemplate("mine", "", "{role}", "\n", "", ("<|end|>",))
    with pytest.raises(ConversationError, match="no chat template 'vicuna'; the choices are nullm, chatml, llama3"):
        chat_template("vicuna")
    with pytest.raises(ConversationError, match=r"the tokenizer has no <\|system\|>"):
        chat_template("nullm").encode(TALK, BPETokenizer([], ["<|endoftext|>"]))
    with pytest.raises(ConversationError, match="does not end with the assistant"):
        fit_conversation(TALK[:2], chat_template("nullm"), TOKENIZER, 100)


# --- new tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_start_at_the_mean_and_leave_the_others_alone(tied):
    model = GPTModel(GPTConfig(vocab_size=257, d_model=32, num_layers=1, tie_embeddings=tied, num_heads=2)).eval()
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    ids = torch.tensor([tokenizer.encode("some text")])
    before = model(ids)
    mean = model.token_embedding.weight.mean(0)
    extended = add_special_tokens(model, tokenizer, chat_template("nullm").special_tokens)
    assert extended.vocab_size == model.config.vocab_size == 261
    assert extended.encode("some text") == tokenizer.encode("some text")
    assert extended.special_tokens == {
        "<|endoftext|>": 256, "<|system|>": 257, "<|user|>": 258, "<|assistant|>": 259, "<|end|>": 260,
    }  # fmt: skip
    torch.testing.assert_close(model(ids)[..., :257], before)
    torch.testing.assert_close(model.token_embedding.weight[259], mean)
    assert (model.head.weight is model.token_embedding.weight) == tied
    assert model(torch.tensor([[260]])).shape == (1, 1, 261)
    assert add_special_tokens(model, extended, ["<|end|>"]) is extended
    with pytest.raises(ValueError, match="ids would lose their rows"):
        extend_vocabulary(model, 100)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [{"role": "user", "content": "2+2?"}], "completion": [{"role": "assistant", "content": "4"}]},
        {"question": "2+2?", "answer": "4"},
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_every_format_reads_as_the_same_conversation(record, ending, tmp_path: Path):
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([record, record]), path)
    elif ending == "json":
        path.write_text(json.dumps([record, record]))
    else:
        path.write_text(f"{json.dumps(record)}\n\n{json.dumps(record)}\n")
    data = read_instruction_data(path)
    assert [example.messages for example in data.examples] == [(ASK, ANSWER)] * 2
    assert not data.problems


def test_an_alpaca_input_belongs_to_the_question(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"instruction": "Sort.", "input": "b a", "output": "a b"}))
    assert read_instruction_data(path).examples[0].messages[0].content == "Sort.\n\nb a"


def test_preferences_are_read_with_and_without_a_prompt(tmp_path: Path):
    chats = [[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}] for answer in "45"]
    records = [{"prompt": "2+2?", "chosen": "4", "rejected": "5"}, {"chosen": chats[0], "rejected": chats[1]}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    data = read_instruction_data(tmp_path)
    assert [(p.prompt, p.chosen, p.rejected) for p in data.preferences] == [((ASK,), "4", "5")] * 2


def turns(*texts: str, names: tuple[str, str] = ("role", "content")) -> list[dict]:
    roles = ("user", "assistant") if names[0] == "role" else ("human", "gpt")
    return [{names[0]: roles[number % 2], names[1]: text} for number, text in enumerate(texts)]


def read_one(record: object, folder: Path, unused: str = ""):
    (folder / "data.jsonl").write_text(json.dumps(record))
    data = read_instruction_data(folder / "data.jsonl")
    assert not data.problems and ", ".join(sorted(data.unused_fields)) == unused
    return (data.examples or data.preferences)[0]


BRIEF = Message("system", "Be brief.")
FIRST = (Message("user", "1+1?"), Message("assistant", "2"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"conversations": turns("2+2?", "4")}, (ASK, ANSWER)),
        ({"messages": turns("2+2?", "4", names=("from", "value"))}, (ASK, ANSWER)),
        (turns("2+2?", "4"), (ASK, ANSWER)),
        ({"messages": [{"role": "developer", "content": "Be brief."}, *turns("2+2?", "4")]}, (BRIEF, ASK, ANSWER)),
        ({"messages": [{"role": "system", "content": ""}, *turns("2+2?", "4")]}, (ASK, ANSWER)),
        ({"messages": [{"role": "assistant", "content": "Hi."}, *turns("2+2?", "4")]},
         (Message("assistant", "Hi."), ASK, ANSWER)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]},
                       {"role": "assistant", "content": "4", "weight": None, "tool_calls": [], "refusal": None}],
          "tools": []}, (ASK, ANSWER)),
        ({"instruction": "2+2?", "input": "", "output": "4", "system": "Be brief.", "history": [["1+1?", "2"]]},
         (BRIEF, *FIRST, ASK, ANSWER)),
        ({"conversations": turns("2+2?", "4", names=("from", "value")), "system": "Be brief."}, (BRIEF, ASK, ANSWER)),
        ({"messages": [{"role": "system", "content": "Be brief."}, *turns("2+2?", "4")], "system": " Be brief. "},
         (BRIEF, ASK, ANSWER)),
        ({"system_prompt": "Be brief.", "question": "2+2?", "response": "4"}, (BRIEF, ASK, ANSWER)),
        ({"instruction": "2+2?", "context": "", "response": "4"}, (ASK, ANSWER)),
        ({"messages": [*turns("1+1?"), {"role": "assistant", "content": "3", "weight": 0}, *turns("2+2?", "4")]},
         (FIRST[0], Message("assistant", "3", learned=False), ASK, ANSWER)),
        ({"messages": [{"role": "user", "content": "2+2?", "weight": 0}, {"from": "gpt", "value": "4", "weight": 1.0}]},
         (ASK, ANSWER)),
    ],
)  # fmt: skip
def test_conversations_of_every_shape_say_the_same(record, expected, tmp_path: Path):
    assert read_one(record, tmp_path).messages == expected


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "2+2?", "chosen": turns("2+2?", "4"), "rejected": turns("2+2?", "5")}, (ASK,)),  # UltraFeedback
        ({"question": "2+2?", "system": "Be brief.", "chosen": "4", "rejected": "5"}, (BRIEF, ASK)),
        ({"prompt": "1+1?", "chosen": turns("1+1?", "2", "2+2?", "4"), "rejected": turns("1+1?", "2", "2+2?", "5")},
         (*FIRST, ASK)),
        ({"conversations": turns("2+2?", names=("from", "value")), "chosen": {"from": "gpt", "value": "4"},
          "rejected": {"from": "gpt", "value": "5"}}, (ASK,)),
        ({"input": {"messages": turns("2+2?"), "tools": []}, "preferred_output": turns("", "4")[1:],
          "non_preferred_output": turns("", "5")[1:]}, (ASK,)),
        ({"messages": turns("2+2?"), "chosen": "4", "rejected": "5"}, (ASK,)),
        ({"instruction": "2+", "input": "2?", "chosen": "4", "rejected": "5"}, (Message("user", "2+\n\n2?"),)),
        ({"prompt": "2+2?", "chosen": [{"role": "system", "content": "Be brief."}, *turns("2+2?", "4")],
          "rejected": [{"role": "system", "content": "Be brief."}, *turns("2+2?", "5")]}, (BRIEF, ASK)),
    ],
)  # fmt: skip
def test_preferences_of_every_shape_say_the_same(record, prompt, tmp_path: Path):
    read = read_one(record, tmp_path)
    assert (read.prompt, read.chosen, read.rejected) == (prompt, "4", "5")


def test_fields_that_change_nothing_are_named(tmp_path: Path):
    record = {
        "id": 7,
        "prompt": "x",
        "prompt_id": None,
        "messages": [{**turns("2+2?")[0], "name": "Ann"}, *turns("", "4")[1:]],
    }
    assert read_one(record, tmp_path, unused="id, messages.name, prompt").messages == (ASK, ANSWER)
    assert (
        "fields that are not used: id (1), messages.name (1), prompt (1)" in read_instruction_data(tmp_path).summary()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"label": False},
        {"label": 0},
        {"label": "false"},
        {"kto_tag": False},
        {"kto_tag": True},
        {"rejected_response": "c"},
        {"rejected_messages": [{"role": "assistant", "content": "c"}]},
        {"completion_mask": [0, 0]},
        {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        {"messages": turns("a", "b")},
        {"prompt": "a", "completion": "b"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_a_field_that_judges_the_answer_is_refused_by_name_in_every_shape(shape: dict, fields: dict):
    assert read_record(shape)[1] == []
    with pytest.raises(RecordError, match=f"field {next(iter(fields))} "):
        read_record({**shape, **fields})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": [1]}]}',
         "field messages, message 2, tool_calls changes what is to be learned, and cannot be obeyed"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [1]}]}',
         "message 2, tool_calls changes"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "thinking": "z"}]}',
         "message 2, thinking changes"),
        ('{"prompt": "a", "completion": "b", "tools": [{"type": "function"}]}', "field tools changes"),
        ('{"prompt": "a", "completion": "b", "weight": 0}', "field weight of a whole record must be 1 or true, got 0"),
        ('{"prompt": "a", "completion": "b", "train": false}', "field train of a whole record must be 1 or true"),
        ('{"prompt": "a", "question": "c", "completion": "b"}', "prompt and question: only one of them can be used"),
        ('{"question": "a"}', "the question has no answer: there is none of the fields output, completion"),
        ('{"messages": [{"role": "user", "content": "x", "weight": 1}, {"role": "assistant", "content": "y"}]}',
         "message 1, weight is 1, and what the user says cannot be learned"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0.5}]}',
         "message 2, weight must be 0 or 1, got 0.5"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]}',
         "all that the assistant says has a weight of 0"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "training": false}]}',
         "all that the assistant says has a weight of 0"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "loss": true, "weight": 0}]}',
         "message 2, weight and loss: only one of them can be used"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
         "message 1, content, part 1 is of the type 'image_url': only text can be learned"),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', "message 1 has the role ['user']"),
        ('{"messages": [{"role": "system", "content": " "}]}', "has an empty system message and nothing else"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "history": [["a", "b"]]}',
         "field history stands beside a whole conversation"),
        ('{"instruction": "a", "output": "b", "history": [["a"]]}', "field history, item 1 must be a pair"),
        ('{"instruction": "a", "output": "b", "history": "a"}', "field history must be a list of pairs"),
        ('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "x"}, '
         '{"role": "assistant", "content": "y"}], "system": "b"}', "two different system messages"),
        ('{"prompt": "a", "chosen": " b c", "rejected": "b  c\\n"}', "are the same, or differ only in white space"),
        ('{"chosen": "b", "rejected": "c"}', "nothing stands before chosen and rejected"),
        ('{"prompt": "x", "chosen": [{"role": "user", "content": "y"}, {"role": "assistant", "content": "b"}], '
         '"rejected": "c"}', "field chosen begins with another conversation than the prompt"),
        ('{"prompt": "x", "chosen": [{"role": "assistant", "content": "b", "weight": 0}], "rejected": "c"}',
         "field chosen must end with a message of the assistant, whose weight is not 0"),
        ("{", "not valid JSON"),
        ("[1]", "a record must be an object, this is a list"),
        ('{"text": "x"}', "no known format has the fields text"),
        ('{"instruction": "a", "output": ""}', "field output must be a text, not empty"),
        ('{"instruction": "a", "input": 3, "output": "b"}', "field input must be a text"),
        ('{"messages": []}', "field messages must be a list of messages"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "field messages, message 1 has the role 'tool'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "does not end with the assistant"),
        ('{"conversations": [{"from": "bot", "value": "x"}]}', "message 1 is from 'bot'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "chosen and rejected are the same"),
        ('{"prompt": "a", "chosen": "b"}', "field rejected must be a list of messages"),
    ],
)  # fmt: skip
def test_a_malformed_record_is_reported_with_its_line_and_the_others_are_read(line, reason, tmp_path: Path):
    path = tmp_path / "data.jsonl"
    good = '{"prompt": "2+2?", "completion": "4"}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    data = read_instruction_data(path)
    assert len(data.examples) == 2
    [problem] = data.problems
    assert (problem.file, problem.line) == (str(path), 2) and reason in problem.reason
    assert isinstance(problem, Problem) and "2 records read, 1 left out" in data.summary()


def test_files_that_cannot_be_used_at_all_are_refused(tmp_path: Path):
    for name, content, message in (
        ("a.json", "[{]", r"a\.json, line 1: not valid JSON"),
        ("b.json", "{}", "must hold a list of records, it holds a dict"),
        ("e.json", "{}\n{}", r"Extra data; if each line is a record, let the name end in \.jsonl"),
        ("c.jsonl", '{"text": 1}', "has no usable record"),
        ("d.parquet", "x", "not a readable Parquet file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InstructionDataError, match=message):
            read_instruction_data(tmp_path / name)
    with pytest.raises(InstructionDataError, match="there is no file"):
        read_instruction_data(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InstructionDataError, match=r"holds no file that ends in \.json"):
        read_instruction_data(tmp_path / "empty")


def test_nothing_is_held_out_that_is_also_learned_from(tmp_path: Path):
    records = [
        {"prompt": f"{number}?", "completion": f"{number}" + " " * copy} for number in range(20) for copy in (0, 1)
    ]
    records += [
        {"prompt": f"{n}?", "chosen": f"{n}", "rejected": "no" + " " * copy} for n in range(20) for copy in (0, 1)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    said = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    data = load_data(FinetuningConfig(data=FinetuningDataConfig(source=str(tmp_path), held_out_fraction=0.5)), said)
    assert len(data.examples) == len(data.preferences) == 20 and data.held_out and data.held_out_preferences
    questions = {example.messages[0] for example in data.examples}
    assert not any(example.messages[0] in questions for example in data.held_out)
    pairs = {preference.prompt for preference in data.preferences}
    assert not any(preference.prompt in pairs for preference in data.held_out_preferences)
    assert f"{20 - len(data.held_out)} of 20 held-out conversations are also learned from" in said.export_text()


# --- questions from documentation -------------------------------------------------------------


def symbols(count: int) -> list[DocumentedSymbol]:
    return [
        DocumentedSymbol(
            "mod",
            f"mod.f{i}",
            f"(x, y{i}=0)",
            f"Return the sum of the first {i} items that are in the list.\n\nMore " * 3,
        )
        for i in range(count)
    ]


def test_questions_are_split_by_symbol_and_the_same_every_time():
    questions = build_questions(symbols(200), held_out_fraction=0.2)
    assert questions == build_questions(symbols(200), held_out_fraction=0.2)

    def names(examples):
        texts = [" ".join(message.content for message in example.messages) for example in examples]
        found = {word.strip("?.:") for text in texts for word in text.replace("(", " ").split() if "mod.f" in word}
        return {name for name in found if name[5:].isdigit()}

    train, held_out = names(questions.train), names(questions.held_out)
    assert train and held_out and not train & held_out
    assert 0.1 < len(held_out) / 200 < 0.3
    for example in (*questions.train, *questions.held_out):
        check_conversation(example.messages)
        assert example.messages[-1].role == "assistant"
    assert all(p.chosen != p.rejected for p in questions.preferences)
    assert any(len(example.messages) == 4 for example in questions.train)


def test_answers_are_whole_plain_sentences():
    assert first_sentence("Return x, e.g. 3.\n\nMore") == "Return x, e.g. 3."
    assert first_sentence("Take e.g. Apples and pears of any kind.") == ""  # cut in the middle
    assert first_sentence("x.f(a) -> b.") == ""
    assert first_sentence("no capital, hence an unusual start.") == ""
    with pytest.raises(ValueError, match="1 symbols have"):
        build_questions(symbols(1))
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        build_questions(symbols(9), 1.0)

"""Stage 9: a model from elsewhere keeps its begin and end tokens and its chat template, from import to export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tokenizer_specimens import FAMILIES

from deployment.errors import as_api_error
from deployment.export_command import main as export
from deployment.served_model import ServedModel
from finetuning.base_model import find_template, template_of
from finetuning.data.chat_format import ConversationError, Message
from finetuning.data.jinja_template import JinjaTemplate
from finetuning.import_weights_command import main as import_weights
from optimization.engine.engine import Engine
from tokenizer.loading import load_tokenizer
from transformer.gpt_model import GPTConfig, GPTModel
from transformer.pretrained import save_pretrained

TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}Be small.{% endif %}{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
FILES = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "chat_template": TEMPLATE,
        "model_max_length": 77,
    },
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 9], "temperature": 0.3, "do_sample": True},
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A checkpoint that was imported from a folder as Llama 2's."""
    source, run = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("runs") / "llama"
    rows = len(FAMILIES["Llama 2"]["model"]["vocab"])
    model = GPTModel(GPTConfig(vocab_size=rows, context_length=128, num_layers=1, num_heads=2, d_model=32))
    save_pretrained(model, source)
    (source / "tokenizer.json").write_text(json.dumps(FAMILIES["Llama 2"]), encoding="utf-8")
    for name, content in FILES.items():
        (source / name).write_text(json.dumps(content))
    assert import_weights([str(source), "--output", str(run)]) == 0
    return run


def test_prompts_begin_and_texts_end_as_the_files_say(run: Path):
    engine = Engine.from_checkpoint(run)
    assert engine.encode_prompt("lower cat") == [1, *engine.tokenizer.encode("lower cat")]
    assert engine.tokenizer.end_ids == [2, 9]


def test_the_models_own_chat_template_is_used_and_its_refusal_is_an_answer_of_400(run: Path):
    template = template_of(run)
    assert isinstance(template, JinjaTemplate)
    served = ServedModel("llama", Engine.from_checkpoint(run), template)
    ids = served.encode_conversation([Message("user", "low")])
    assert ids == served.tokenizer.encode("<s>Be small.[user]low</s>[assistant]", allowed_special="all")
    assert served.end_ids == {2, 9}
    with pytest.raises(ConversationError, match="no tools") as refused:
        served.encode_conversation([Message("user", "low"), Message("tool", "x")])  # type: ignore[arg-type]
    answer = as_api_error(refused.value)
    assert answer is not None and answer.status == 400


def test_an_export_has_the_files_as_they_came(run: Path, tmp_path: Path):
    assert export(["--to", "hf", "--checkpoint", str(run), "--output", str(tmp_path)]) == 0
    for name, content in FILES.items():
        assert json.loads((tmp_path / name).read_text()) == content
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == FAMILIES["Llama 2"]
    again = load_tokenizer(tmp_path)
    assert (again.begin_ids, again.end_ids) == ([1], [2, 9])
    assert find_template(again).to_jinja() == TEMPLATE


def test_one_of_our_templates_takes_the_place_of_the_models_own(run: Path, tmp_path: Path):
    source = tmp_path / "source"
    export(["--to", "hf", "--checkpoint", str(run), "--output", str(source)])
    assert import_weights([str(source), "--output", str(tmp_path / "run"), "--chat-template", "chatml"]) == 0
    export(["--to", "hf", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    exported = load_tokenizer(tmp_path / "out")
    end = exported.special_tokens["<|im_end|>"]
    assert exported.end_ids[0] == end and "im_start" in find_template(exported).to_jinja()
    assert template_of(tmp_path / "run").name == "chatml"

"""Stage 8: questions with known answers: what the model reads, and the command from the questions to the file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.answers_command import draw_shots, main
from evaluation.tasks.question_answering import ask_model
from finetuning.data.chat_format import Message, chat_template
from finetuning.data.record_shapes import Example
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from transformer.gpt_model import GPTConfig, GPTModel

TEMPLATE = chat_template("nullm")
TOKENIZER = BPETokenizer([], TEMPLATE.special_tokens)


def ask(question: str, answer: str, system: str = "") -> Example:
    first = (Message("system", system),) if system else ()
    return Example((*first, Message("user", question), Message("assistant", answer)))


class Parrot:
    """Stands in for an engine: answers with the text of the prompt, and counts how many requests wait."""

    def __init__(self, context_length: int = 1000, max_waiting: int = 2):
        self.tokenizer, self.context_length = TOKENIZER, context_length
        self.settings = SimpleNamespace(max_waiting=max_waiting)
        self.waiting = self.most = 0

    def submit(self, request):
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def answer():
            self.waiting -= 1
            yield SimpleNamespace(text=TOKENIZER.decode(request.prompt_ids))

        return answer()


def test_examples_come_after_the_system_message_and_the_answer_is_not_shown():
    examples = [ask("1?", "one"), ask("2?", "two", "Count."), ask("3?", "three")]
    engine = Parrot()
    said = list(ask_model(engine, TEMPLATE, examples, 8, shots=[ask("0?", "zero")]))
    shown = "<|user|>0?<|end|><|assistant|>zero<|end|>"
    assert said == [
        f"<|endoftext|>{shown}<|user|>1?<|end|><|assistant|>",
        f"<|endoftext|><|system|>Count.<|end|>{shown}<|user|>2?<|end|><|assistant|>",
        f"<|endoftext|>{shown}<|user|>3?<|end|><|assistant|>",
    ]
    assert engine.most == engine.settings.max_waiting  # more would be refused


@pytest.mark.parametrize(("max_tokens", "left"), [(4, 16), (10, 10), (20, 10), (99, 10)])
def test_half_the_context_stays_for_the_question(max_tokens, left):
    [said] = ask_model(Parrot(context_length=20), TEMPLATE, [ask("a" * 40, "b")], max_tokens)
    assert said == ("a" * 40 + "<|end|><|assistant|>")[-len(said) :] and len(TOKENIZER.encode(said, "all")) == left


def test_examples_are_single_questions_drawn_by_the_seed():
    learned = [ask(f"{n}?", str(n)) for n in range(20)] + [ask("?", "!", "Be brief.")]
    assert draw_shots(learned, 3, 1) == draw_shots(learned, 3, 1) != draw_shots(learned, 3, 2)
    assert sorted(draw_shots(learned, 20, 0), key=lambda e: int(e.messages[1].content)) == learned[:20]
    with pytest.raises(UserError, match="--few-shot must be at most 20, the single questions to learn from; got 21"):
        draw_shots(learned, 21, 0)


@pytest.mark.slow
def test_the_command_asks_only_what_was_not_learned(tmp_path: Path, capsys):
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, context_length=64, num_layers=1, num_heads=2, d_model=16)
    settings = {"model": config.to_dict(), "chat_template": "nullm"}
    save_checkpoint(tmp_path / "chat", 0, model_weights(GPTModel(config)), TOKENIZER, settings)
    source, output = tmp_path / "talk.jsonl", tmp_path / "answers.json"
    source.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": f"x{n}"}) + "\n" for n in range(40)))
    words = [f"--checkpoint={tmp_path / 'chat'}", f"--source={source}", "--held-out-fraction=0.25", "--max-tokens=4"]
    assert main([*words, "--few-shot=1", "--limit=6", f"--output={output}", "--device=cpu"]) == 0
    content = json.loads(output.read_text())
    assert set(content["scores"]) == {"this model", "nearest question"}  # a file has no documentation to look into
    assert content["scores"]["nearest question"]["exact"] == 0.0 and len(content["answers"]) == 6
    assert all(a["reference"] == f"x{a['question'][0][:-1]}" for a in content["answers"])
    assert "nearest question" in capsys.readouterr().out
    assert main([*words, "--limit=0"]) == 1
    assert "--limit must be at least 1, got 0" in capsys.readouterr().err

"""Stage 6: plain text among conversations, and which template and how much held-out data a run takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning.base_model import choose_template
from finetuning.config import FinetuningConfig, FinetuningDataConfig
from finetuning.data.chat_format import TEMPLATES, ConversationError, EncodedConversation
from finetuning.data.conversation_batches import pack_rows
from finetuning.data.replay import replay_pieces
from finetuning.run import _within
from finetuning.vocabulary_extension import add_special_tokens
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.model_files import ModelFiles
from training.data.batches import IGNORED
from transformer.gpt_model import GPTConfig, GPTModel

TOKENIZER = BPETokenizer([], ["<|endoftext|>"])  # one token a byte
TEXT = "abcdefghijklmnopqrstuvwxyz" * 40
TALKS = [EncodedConversation([1] * 10, [False] * 4 + [True] * 6)] * 10  # 60 tokens are learned


def of_length(length: int) -> EncodedConversation:
    return EncodedConversation([1] * length, [True] * length)


@pytest.mark.parametrize(("share", "expected"), [(0.25, 20), (0.5, 60), (0.9, 540)])
def test_the_share_is_of_the_learned_tokens(share, expected):
    pieces = replay_pieces([TEXT], share, TALKS, TOKENIZER, 16, seed=0)
    assert sum(sum(piece.learned) for piece in pieces) == expected
    assert max(len(piece.ids) for piece in pieces) <= 16


def test_a_piece_is_text_that_is_learned_from_its_first_word_on():
    pieces = replay_pieces([TEXT], 0.5, TALKS, TOKENIZER, 16, seed=0)
    for piece in pieces:
        assert piece.ids[0] == TOKENIZER.end_of_text_id and piece.learned == [False] + [True] * (len(piece.ids) - 1)
        assert TOKENIZER.decode(piece.ids[1:]) in TEXT
    batch = pack_rows([pieces[:1]], 16).tensors
    assert batch["targets"][0, : len(pieces[0].ids) - 1].tolist() == pieces[0].ids[1:]
    assert (batch["targets"][0, len(pieces[0].ids) - 1 :] == IGNORED).all()


def test_pieces_come_from_all_of_a_long_document_by_the_seed():
    text = "".join(f"{number:04d}" for number in range(2000))
    drawn = [
        [TOKENIZER.decode(p.ids[1:5]) for p in replay_pieces([text], 0.5, TALKS, TOKENIZER, 8, s)] for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    places = [int(start) for start in drawn[0]]
    assert min(places) < 700 and max(places) > 1300


def test_too_little_text_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"data\.replay has 5 tokens, and data\.replay_share 0\.5 needs 60"):
        replay_pieces(["short"], 0.5, TALKS, TOKENIZER, 16, seed=0)


def test_an_impossible_share_and_replay_beside_preferences_are_refused():
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"data\.replay_share must be above 0 and below 1"):
            FinetuningDataConfig(replay_share=share)
    with pytest.raises(ValueError, match=r"data\.replay is for the method sft, and the method is dpo"):
        FinetuningConfig(method="dpo", data=FinetuningDataConfig(replay="python_docs"))


def test_a_measurement_takes_the_conversations_that_fit_into_its_tokens():
    talks = [of_length(length) for length in (5, 5, 7, 2)]
    assert [len(_within(talks, tokens)) for tokens in (1, 5, 10, 16, 17, 19, 99)] == [1, 1, 2, 2, 3, 4, 4]
    assert _within([], 10) == []


def test_the_template_is_the_bases_own_or_the_projects_or_the_one_that_is_named():
    config = GPTConfig(vocab_size=257, context_length=16, num_layers=1, num_heads=1, d_model=8)

    def chosen(name: str, own: str | None = None, marks: tuple[str, ...] = ()):
        model, tokenizer = GPTModel(config), BPETokenizer([], ["<|endoftext|>"])
        if marks:
            tokenizer = add_special_tokens(model, tokenizer, marks)
        if own:
            tokenizer.files = ModelFiles({}, chat_template=own)
        template, tokenizer = choose_template(name, "b", model, tokenizer)
        assert all(mark in tokenizer.special_tokens for mark in template.special_tokens)
        assert model.token_embedding.num_embeddings >= tokenizer.vocab_size
        return template

    own = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert chosen("auto", own).to_jinja() == chosen("own", own).to_jinja() == own
    assert chosen("auto") is TEMPLATES["nullm"]
    assert chosen("auto", marks=TEMPLATES["chatml"].special_tokens) is TEMPLATES["chatml"]
    assert chosen("nullm", own) is TEMPLATES["nullm"]
    with pytest.raises(ConversationError, match="b has no chat template of its own; take one of nullm, chatml, llama3"):
        chosen("own")


@pytest.mark.slow
def test_a_run_with_replay_learns_conversations_and_text(trained_run: Path, tmp_path: Path, capsys):
    from finetuning.finetune_command import main

    data, text = tmp_path / "talk.jsonl", tmp_path / "text.txt"
    data.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": "yes"}) + "\n" for n in range(20)))
    text.write_text("".join(f"{number} is a number.\n" for number in range(500)))
    arguments = [f"--base={trained_run}", f"--output_dir={tmp_path / 'out'}", f"--data.source={data}", "--device=cpu"]
    arguments += ["--training.max_steps=2", "--schedule.warmup_steps=0", "--tracking.tensorboard=false"]
    assert main([*arguments, f"--data.replay={text}", "--data.replay_share=0.5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "19 conversations and" in out and "pieces of" in out and "GiB of memory" in out
    text.write_text(text.read_text().replace("number", "thing"))
    assert main([*arguments, f"--data.replay={text}", "--data.replay_share=0.5"]) == 1
    assert "prepared.replay_sha256" in capsys.readouterr().err

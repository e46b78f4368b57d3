"""Stage 6: whole fine-tuning runs through the command: every method, resume, real weights, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetuning.adapters.peft_format import load_adapter
from finetuning.base_model import load_base, template_of
from finetuning.data.chat_format import Message
from finetuning.data.record_shapes import Example
from finetuning.finetune_command import main
from finetuning.run import answer, exact_match_task
from training.checkpoints.checkpoint import list_checkpoints, load_model
from training.run.tracking import read_metrics

PAIRS = [("up?", "down"), ("left?", "right"), ("in?", "out"), ("hot?", "cold")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [{"prompt": question, "completion": reply} for question, reply in PAIRS * 6]
    # All different, because a pair that is also learned from is not held out.
    records += [{"prompt": q, "chosen": a, "rejected": f"no {n}"} for n, (q, a) in enumerate(PAIRS * 6)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\nnot json\n")
    return path


@pytest.fixture
def finetune(trained_run: Path, data: Path, tmp_path: Path):
    def run(*arguments: str, base: Path = trained_run, steps: int = 6) -> int:
        return main(
            [
                f"--base={base}",
                f"--output_dir={tmp_path / 'out'}",
                f"--data.source={data}",
                "--device=cpu",
                "--precision=float32",
                "--optimizer.lr=0.01",
                f"--training.max_steps={steps}",
                "--training.batch_size=4",
                "--schedule.warmup_steps=0",
                "--tracking.tensorboard=false",
                *arguments,
            ]
        )

    return run


@pytest.mark.slow
def test_a_model_learns_to_answer(finetune, tmp_path: Path, capsys):
    assert finetune(steps=60) == 0
    out = capsys.readouterr().out
    assert "48 records read, 1 left out" in out and "not valid JSON" in out
    loaded = load_model(tmp_path / "out")
    template = template_of(tmp_path / "out")
    assert template is not None and template.name == "nullm"
    for question, reply in PAIRS:
        assert answer(loaded.model, loaded.tokenizer, template, [Message("user", question)], 10) == reply


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "ipo", "grpo"])
def test_every_method_trains_from_an_instructed_model(method, finetune, tmp_path: Path):
    assert finetune("--lora.rank=4", f"--method={method}", "--grpo.group_size=3", "--grpo.max_tokens=6") == 0
    metrics = read_metrics(tmp_path / "out" / "training")
    assert len([record for record in metrics if "train_loss" in record]) == 6
    if method == "grpo":
        assert all(0.0 <= record["mean_reward"] <= 1.0 for record in metrics)
    else:
        assert metrics[-1]["preference_accuracy"] == 1.0


@pytest.mark.slow
def test_lora_leaves_an_adapter_and_a_merged_model_that_agree(finetune, trained_run: Path, tmp_path: Path):
    assert finetune("--lora.rank=4", "--lora.alpha=8") == 0
    merged = load_model(tmp_path / "out").model
    base, tokenizer = load_base(str(trained_run))
    from finetuning.data.chat_format import chat_template
    from finetuning.vocabulary_extension import add_special_tokens

    add_special_tokens(base, tokenizer, chat_template("nullm").special_tokens)
    load_adapter(base, tmp_path / "out" / "adapter")
    ids = torch.randint(300, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(base(ids), merged(ids), atol=1e-4, rtol=1e-3)
    # The adapter's own checkpoints hold only the learned weights.
    [*_, last] = list_checkpoints(tmp_path / "out" / "training")
    assert (last / "model.safetensors").stat().st_size < 0.5 * sum(p.nbytes for p in merged.parameters())


@pytest.mark.slow
def test_four_bit_weights_can_be_the_base(finetune, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    assert finetune("--lora.rank=2", "--quantize_base=true") == 0
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()
    assert not list_checkpoints(tmp_path / "out")  # weights in four bits are not written as a model


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--lora.rank=4",)])
def test_a_stopped_run_continues_as_if_it_had_not_stopped(options, finetune, tmp_path: Path):
    assert finetune("--training.checkpoint_interval=4", *options, steps=8) == 0
    whole = load_model(tmp_path / "out").model.state_dict()
    folder = tmp_path / "out" / ("training" if options else "")
    for checkpoint in list_checkpoints(folder)[1:]:
        checkpoint.rename(tmp_path / "aside")  # as if it had been killed after step 4
    assert finetune("--training.checkpoint_interval=4", *options, steps=8) == 0
    resumed = load_model(tmp_path / "out").model.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen3"])
def test_hugging_face_weights_are_a_base(family, finetune, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    from tokenizer.bpe_tokenizer import BPETokenizer
    from tokenizer.huggingface_files import save_huggingface

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    if family == "Qwen3":
        sizes["num_key_value_heads"] = 2
    config = getattr(transformers, f"{family}Config")(vocab_size=260, max_position_embeddings=64, **sizes)
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    getattr(transformers, family + suffix)(config).save_pretrained(tmp_path / "base")
    save_huggingface(BPETokenizer([], ["<|endoftext|>"]), tmp_path / "base")
    assert finetune("--lora.rank=2", "--chat_template=chatml", base=tmp_path / "base") == 0
    peft = pytest.importorskip("peft")
    assert peft.PeftConfig.from_pretrained(tmp_path / "out" / "adapter").r == 2
    loaded = load_model(tmp_path / "out")
    assert "<|im_end|>" in loaded.tokenizer.special_tokens


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(finetune, trained_run: Path, tmp_path: Path, capsys):
    for arguments, message in (
        (("--chat_template=vicuna",), "there is no chat template 'vicuna'"),
        (("--lora.rank=400",), "the LoRA rank must be between 1 and"),
        (("--lora.pattern=layers.*",), "no linear layer is called 'layers.*'"),
        (("--context_length=8",), "there is no conversation to learn from"),
        ((f"--data.source={tmp_path / 'none.jsonl'}",), "there is no file"),
        ((f"--base={tmp_path / 'nowhere'}",), "there is no checkpoint at"),
    ):
        assert finetune(*arguments) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    with pytest.raises(SystemExit):
        finetune("--quantize_base=true")
    assert "quantize_base needs lora" in capsys.readouterr().err
    only = tmp_path / "only.jsonl"
    only.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    assert finetune("--method=dpo", f"--data.source={only}") == 1
    assert "has no preferences, which the method dpo learns from" in capsys.readouterr().err


def test_rewards_of_exact_answers():
    reward = exact_match_task(Example((Message("user", "q"), Message("assistant", "a b c d")))).reward
    assert [reward(text) for text in ("a b c d ", "a b x d", "", "z")] == [1.0, 0.375, 0.0, 0.0]


@pytest.mark.slow
def test_the_classifier_learns_on_the_trainer(trained_run: Path, monkeypatch, capsys):
    from finetuning import classify_command
    from neural_networks.python_docs import DocumentedSymbol

    symbols = [
        DocumentedSymbol(module, f"{module}.f{i}", "", f"{opening} the item number {i}.")
        for i in range(60)
        for module, opening in (("json", "Return"), ("numpy", "Sum"), ("torch", "Raise"))
    ]
    monkeypatch.setattr(classify_command, "gather_symbols", lambda: symbols)  # 60 MB of sources would take a minute
    assert classify_command.main(["--base", str(trained_run), "--steps", "120", "--blocks", "2"]) == 0
    accuracy = float(capsys.readouterr().out.split("right")[1].split("%")[0])
    assert accuracy > 90


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--lora.rank=4",)])
def test_averaged_weights_are_what_is_measured_and_written(options, finetune, trained_run: Path, tmp_path: Path):
    """With an average that hardly moves, what is written is nearly the base, though the weights themselves went far."""
    different = tmp_path / "different.jsonl"  # copies of what is learned from would not be held out
    different.write_text("".join(json.dumps({"prompt": f"{n} up?", "completion": "down"}) + "\n" for n in range(24)))
    far = ("--optimizer.ema_decay=0.99999999", "--optimizer.lr=0.05")
    assert finetune(*far, f"--data.source={different}", *options) == 0
    base, _ = load_base(str(trained_run))
    written = load_model(tmp_path / "out").model
    rows = base.token_embedding.num_embeddings  # the marks of the template are new
    ids = torch.randint(rows, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(written(ids)[..., :rows], base(ids), atol=1e-3, rtol=1e-3)
    folder = tmp_path / "out" / ("training" if options else "")
    measured = [record["validation_loss"] for record in read_metrics(folder) if "validation_loss" in record][-1]
    trained = [record["train_loss"] for record in read_metrics(folder) if "train_loss" in record]
    assert measured == pytest.approx(trained[0], rel=0.2) and trained[-1] < 0.8 * trained[0]


@pytest.mark.slow
def test_edited_data_or_another_base_are_another_run(finetune, data: Path, trained_run: Path, tmp_path: Path, capsys):
    assert finetune() == 0
    assert finetune() == 0
    data.write_text(data.read_text().replace("down", "below"))
    assert finetune() == 1
    assert "prepared.source_sha256" in capsys.readouterr().err
    assert finetune("--resume=never") == 0
    assert load_model(tmp_path / "out.1").folder.name == "step_00000006"
    assert finetune(base=tmp_path / "out.1") == 1
    assert "prepared.base_sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_training_again_with_lora_sets_the_whole_folder_aside(finetune, tmp_path: Path):
    """Otherwise the merged model of the first run would count as that of the second."""
    assert finetune("--lora.rank=4") == 0
    first = load_model(tmp_path / "out").model.state_dict()
    assert finetune("--lora.rank=4", "--optimizer.lr=0.1", "--resume=never") == 0
    second = load_model(tmp_path / "out").model.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    aside = load_model(tmp_path / "out.1").model.state_dict()
    assert all(torch.equal(first[name], aside[name]) for name in first)


def test_a_folder_in_use_is_refused_by_every_program_that_makes_a_model(
    finetune, trained_run: Path, tmp_path: Path, capsys
):
    from finetuning.import_weights_command import main as import_weights
    from training.run.run_folder import RunFolder

    with RunFolder(tmp_path / "out"):
        assert finetune() == 1
        assert "is in use by another process" in capsys.readouterr().err
        assert import_weights([str(trained_run), "--output", str(tmp_path / "out")]) == 1
        assert "is in use by another process" in capsys.readouterr().err

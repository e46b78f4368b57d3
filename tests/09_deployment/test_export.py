"""Stage 9: exported models give the same results as the originals, in the programs that they are exported for."""

from __future__ import annotations

import json
from pathlib import Path

import export_conformance as conformance
import pytest
import torch
from support.serving import save_run

from deployment.export.gguf_file import export_gguf
from deployment.export.huggingface import export_huggingface
from deployment.export.onnx_file import export_onnx, export_torchscript
from deployment.export_command import main
from finetuning.adapters.lora import LoRAConfig, add_lora
from finetuning.adapters.peft_format import save_adapter
from groundwork.user_errors import UserError
from tokenizer.character_tokenizer import CharacterTokenizer
from training.checkpoints.checkpoint import load_model
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

PUBLISHED = ["GPT-2", "Llama", "Qwen3"]


@pytest.mark.parametrize("family", PUBLISHED)
def test_transformers_gives_equal_ids_logits_and_tokens(family: str, tmp_path: Path):
    found = conformance.huggingface(family, tmp_path)
    assert found.ids and found.tokens
    assert found.logits < 1e-4
    assert {"config.json", "generation_config.json", "README.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "own recipe"])
def test_onnxruntime_gives_equal_logits_with_and_without_cache(family: str, tmp_path: Path):
    for found in conformance.onnx(family, tmp_path):
        assert found.logits < 1e-4 and found.tokens


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["rope", "learned"])
@torch.no_grad()
def test_a_model_with_a_tiny_context_is_exported(positions: str, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    sizes = {"vocab_size": 50, "num_layers": 1, "num_heads": 2, "d_model": 16, "positions": positions}
    for context in (1, 2):
        model = GPTModel(GPTConfig(context_length=context, **sizes)).eval()
        plain, _ = export_onnx(model, tmp_path / str(context))
        script = torch.jit.load(export_torchscript(model, tmp_path / str(context)))
        for time in range(1, context + 1):
            ids = torch.randint(50, (2, time))
            (logits,) = onnxruntime.InferenceSession(plain).run(None, {"input_ids": ids.numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), model(ids), atol=1e-4, rtol=0)
            torch.testing.assert_close(script(ids), model(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", conformance.FAMILIES)
def test_torchscript_gives_equal_logits(family: str, tmp_path: Path):
    found = conformance.torchscript(family, tmp_path)
    assert found.logits < 1e-4 and found.tokens


@pytest.mark.parametrize("family", PUBLISHED)
@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 1e-3), ("f16", 1e-2), ("q8_0", 0.3)])
def test_llama_cpp_gives_equal_ids_and_near_logits(family: str, kind: str, tolerance: float, tmp_path: Path):
    """float32 differs only by the order of summation; f16 and q8_0 round the weights to 11 and 8 bits."""
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which builds from source (the extra llama_cpp)")
    found = conformance.gguf(family, tmp_path, kind)
    assert found.ids and found.logits < tolerance
    assert found.tokens or kind == "q8_0"


@pytest.mark.parametrize("family", PUBLISHED)
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_a_gguf_file_holds_the_weights_and_the_vocabulary(family: str, kind: str, tmp_path: Path):
    """The `gguf` package reads the file and dequantizes it."""
    gguf = pytest.importorskip("gguf")
    model, tokenizer = conformance.tiny(family)
    path = export_gguf(model, tokenizer, conformance.TEMPLATE, tmp_path / "m.gguf", "m", kind)
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    tolerance = {"f32": 0.0, "f16": 1e-3, "q8_0": 1e-2}[kind]
    embedding = model.token_embedding.weight.detach()
    found = torch.from_numpy(tensors["token_embd.weight"].copy())
    assert (found - embedding).abs().max() <= tolerance * embedding.abs().max()
    assert sum(t.size for t in tensors.values()) == model.num_parameters()
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    assert [tokens[index] for index in tokenizer.special_tokens.values()] == list(tokenizer.special_tokens)
    assert len(tokens) == embedding.shape[0]
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == conformance.TEMPLATE.end_id(tokenizer)
    assert "generation %}" not in reader.get_field("tokenizer.chat_template").contents().replace("add_generation", "")


def test_the_generation_config_ends_where_the_chat_ends(tmp_path: Path):
    model, tokenizer = conformance.tiny("Llama")
    export_huggingface(model, tokenizer, conformance.TEMPLATE, tmp_path, "m", torch.bfloat16)
    written = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    ends = [tokenizer.special_tokens[text] for text in ("<|end|>", "<|endoftext|>")]
    assert written["eos_token_id"] == ends and written["bos_token_id"] == ends[1]
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("format_", ["hf", "gguf"])
def test_a_model_that_no_class_has_is_refused_with_what_is_left(format_: str, tmp_path: Path, capsys):
    run = save_run(tmp_path / "own", feed_forward="relu2")
    assert main(["--to", format_, "--checkpoint", str(run), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    nearest = {"hf": "LlamaForCausalLM", "gguf": "llama"}[format_]
    assert f"the nearest, {nearest}, has no feed_forward 'relu2'" in error
    assert "onnx and torchscript can hold it" in error and len(error.splitlines()) == 1


def test_the_command_exports_a_run_with_an_adapter(tmp_path: Path, capsys):
    run = save_run(tmp_path / "tiny")
    loaded = load_model(run)
    add_lora(loaded.model, LoRAConfig(rank=2))
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.2)
    save_adapter(loaded.model, tmp_path / "adapter")
    out = tmp_path / "out"
    assert (
        main(
            [
                "--to",
                "torchscript",
                "--checkpoint",
                str(run),
                "--adapter",
                str(tmp_path / "adapter"),
                "--output",
                str(out),
            ]
        )
        == 0
    )
    assert "model.pt" in capsys.readouterr().out
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = loaded.model(ids)
    assert torch.allclose(torch.jit.load(out / "model.pt")(ids), expected, atol=1e-4)
    assert not torch.allclose(load_model(run).model(ids), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "hf", "--type", "q8_0"], "the type must be one of f32, f16, bf16 for hf, got 'q8_0'"),
        (["--to", "gguf", "--type", "q4"], "the type must be one of f32, f16, bf16, q8_0, q4_0 for gguf, got 'q4'"),
        (["--to", "onnx", "--type", "f16"], "onnx is written in f32 only"),
        (["--to", "hf", "--checkpoint", "no/such"], "there is no folder no/such"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, tmp_path: Path, capsys):
    run = save_run(tmp_path / "tiny")
    given = arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", str(run)]
    assert main([*given, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path):
    model, _ = conformance.tiny("Llama")
    with pytest.raises(UserError, match="needs a byte-level BPE tokenizer"):
        export_huggingface(model, CharacterTokenizer("abc"), None, tmp_path, "m")

"""Stage 9: exported models give the same results as the originals, in the programs that they are exported for."""

from __future__ import annotations

import json
from pathlib import Path

import export_conformance as conformance
import pytest
import torch
from support.serving import save_run

from deployment.export.gguf_file import export_gguf
from deployment.export.huggingface import export_huggingface, write_companions
from deployment.export.onnx_file import export_onnx, export_torchscript
from deployment.export_command import main
from finetuning.adapters.lora import LoRAConfig, add_lora
from finetuning.adapters.peft_format import save_adapter
from finetuning.base_model import load_base
from groundwork.files import read_yaml
from groundwork.user_errors import UserError
from optimization.weights.quantized_model import quantize_model, save_quantized
from tokenizer.character_tokenizer import CharacterTokenizer
from tokenizer.huggingface_files import load_huggingface
from tokenizer.loading import load_tokenizer
from training.checkpoints.checkpoint import CheckpointError, load_model
from transformer.config import GPTConfig
from transformer.gguf_families import gguf_family_of_model
from transformer.gguf_reader import load_gguf
from transformer.gpt_model import GPTModel
from transformer.pretrained import family_of_model, load_pretrained

PUBLISHED = ["GPT-2", "Llama", "Qwen3", "small_gpt"]
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("family", PUBLISHED)
def test_transformers_gives_equal_ids_logits_and_tokens(family: str, tmp_path: Path):
    found = conformance.huggingface(family, tmp_path)
    assert found.ids and found.tokens
    assert found.logits < 1e-4
    assert {"config.json", "generation_config.json", "README.md"} <= {path.name for path in tmp_path.iterdir()}
    model, again = conformance.tiny(family)[0].state_dict(), load_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.items())


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_what_a_preset_trains_has_a_class_in_other_programs(path: Path):
    preset = read_yaml(path)
    if preset.get("tokenizer", {}).get("kind") == "bpe":
        config = GPTConfig.from_dict({"vocab_size": 300, **preset["model"]})
        assert family_of_model(config) and gguf_family_of_model(config)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "small_gpt", "own recipe"])
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
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_a_gguf_file_holds_the_weights_and_the_vocabulary(family: str, kind: str, tmp_path: Path):
    """The `gguf` package reads the file and dequantizes it."""
    gguf = pytest.importorskip("gguf")
    model, tokenizer = conformance.tiny(family)
    path = export_gguf(model, tokenizer, conformance.TEMPLATE, tmp_path / "m.gguf", "m", kind)
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    tolerance = {"f32": 0.0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 1e-2, "q4_0": 0.15}[kind]
    embedding = model.token_embedding.weight.detach()
    found = torch.from_numpy(tensors["token_embd.weight"].copy())
    assert (found - embedding).abs().max() <= tolerance * embedding.abs().max()
    assert sum(t.size for t in tensors.values()) == model.num_parameters()
    again = load_gguf(path)
    for name, tensor in model.state_dict().items():
        if kind == "f32":
            assert torch.equal(again.state_dict()[name], tensor), name
        assert (again.state_dict()[name] - tensor).abs().max() <= tolerance * tensor.abs().max(), name
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
    assert load_huggingface(out).encode("the end") == loaded.tokenizer.encode("the end")
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


def test_a_quantized_checkpoint_is_refused_with_what_to_give_instead(tmp_path: Path, capsys):
    loaded = load_model(save_run(tmp_path / "tiny"))
    save_quantized(tmp_path / "int8", loaded, quantize_model(loaded.model, "int8"), "int8")
    for format_ in ("hf", "gguf", "onnx", "torchscript"):
        assert main(["--to", format_, "--checkpoint", str(tmp_path / "int8"), "--output", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert "int8 is quantized" in error and "give the checkpoint that it was made from" in error
        assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="int8 is quantized"):  # fine-tuning too
        load_base(str(tmp_path / "int8"))


def test_what_stands_beside_a_graph_is_enough_to_use_it(tmp_path: Path):
    """transformers reads the tokenizer, and the configuration of a model that it has a class for."""
    transformers = pytest.importorskip("transformers")
    for family, kind in (("small_gpt", "qwen3"), ("own recipe", "nullm")):
        model, tokenizer = conformance.tiny(family)
        folder = tmp_path / kind
        write_companions(model, tokenizer, conformance.TEMPLATE, folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert theirs("the end of it")["input_ids"] == tokenizer.encode("the end of it")
        assert theirs.apply_chat_template(
            [{"role": "user", "content": "in"}], tokenize=False, add_generation_prompt=True
        )
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert content["model_type"] == kind and content["vocab_size"] == tokenizer.vocab_size
        assert json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    characters = CharacterTokenizer("abc")
    write_companions(model, characters, None, tmp_path / "characters")
    assert load_tokenizer(tmp_path / "characters" / "tokenizer.json").encode("cab") == characters.encode("cab")


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path):
    model, _ = conformance.tiny("Llama")
    with pytest.raises(UserError, match="needs a byte-level BPE tokenizer"):
        export_huggingface(model, CharacterTokenizer("abc"), None, tmp_path, "m")

"""Stage 9: every family that llama.cpp knows is written as GGUF and read again; transformers reads the same numbers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import torch

from deployment.export.gguf_file import export_gguf
from groundwork.user_errors import UserError
from optimization.model_loading import load_for_inference
from tokenizer.bpe_tokenizer import BPETokenizer
from transformer.config import GPTConfig
from transformer.gguf_reader import GGUFFile, load_gguf
from transformer.gpt_model import GPTModel
from transformer.pretrained_family import PretrainedError
from transformer.rope_scaling import RopeScaling

pytest.importorskip("gguf")

GEMMA = {"norm": "rmsnorm_plus_one", "feed_forward": "geglu", "scale_embeddings": True}
GEMMA2 = {**GEMMA, "norm_position": "both", "sliding_window": 8, "head_dim": 32}
NEOX = {"norm": "layernorm", "bias": True, "feed_forward": "gelu_tanh", "rope_fraction": 0.25, "num_kv_heads": None}
FAMILIES = {
    "gpt2": {
        **{"norm": "layernorm", "bias": True, "feed_forward": "gelu_tanh", "positions": "learned"},
        **{"num_kv_heads": None, "d_ff": 256},
    },
    "llama": {"tie_embeddings": False},
    "llama, biases": {"bias": True},
    "llama, linear": {"rope_scaling": RopeScaling("linear", 2.0)},
    "llama, llama3": {"rope_scaling": RopeScaling("llama3", 8.0, 8192), "rope_theta": 500_000.0},
    "llama, yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "qwen2": {"attention_bias": "qkv"},
    "qwen3": {"qk_norm": True, "qk_norm_weight": True, "head_dim": 32},
    "smollm3": {"layers_without_positions": (3,), "num_layers": 4},
    "phi3": {"rope_fraction": 0.75},
    "olmo2": {"norm_position": "output", "qk_norm": True, "qk_norm_weight": True, "qk_norm_across_heads": True},
    "gemma": {**GEMMA, "head_dim": 32},
    "gemma2": {**GEMMA2, "global_layers": (1,), "attention_softcap": 5.0, "logit_softcap": 3.0},
    "gemma3": {
        **{**GEMMA2, "qk_norm": True, "qk_norm_weight": True, "global_layers": (5,), "num_layers": 7},
        **{"local_rope_theta": 1e4, "rope_theta": 1e6},
    },
    "gptneox, tied": {**NEOX, "parallel_residual": False},
    "gptneox": {**NEOX, "parallel_residual": True, "tie_embeddings": False},
}


def tiny(name: str) -> GPTModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "context_length": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_model": 64}
    model = GPTModel(GPTConfig.from_dict({**sizes, **FAMILIES[name]})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def export(model: GPTModel, path: Path, kind: str = "f32") -> Path:
    return export_gguf(model, BPETokenizer([(104, 101)], ["<|endoftext|>"]), None, path, "tiny", kind)


def logits_of_llama_cpp(path: Path, ids: list[int]) -> torch.Tensor:
    """What llama.cpp computes in float32: (time, vocab)."""
    import llama_cpp

    # It writes directly to the file descriptor, even if `verbose` is off.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        llama = llama_cpp.Llama(
            str(path), n_ctx=64, n_batch=64, logits_all=True, verbose=False, n_threads=1, flash_attn=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip
        llama.eval(ids)
    return torch.tensor(llama.scores[: len(ids)])


@torch.no_grad()
def largest_difference(first: GPTModel, second: GPTModel) -> float:
    ids = torch.randint(320, (2, 64))
    assert first(ids).std() > 0.1  # large enough that the difference means something
    return float((first(ids) - second(ids)).abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_read_as_it_was_written(name: str, tmp_path: Path):
    model = tiny(name)
    file = GGUFFile(export(model, tmp_path / "m.gguf"))
    assert file.metadata["general.architecture"] == name.split(",")[0]
    assert largest_difference(model, load_gguf(file)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2"])  # of others it does not read all keys
@pytest.mark.slow
def test_transformers_reads_the_same_model(name: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    model = tiny(name)
    export(model, tmp_path / "m.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    ids = torch.randint(320, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs.eval()(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_llama_cpp_computes_the_same_logits(name: str, tmp_path: Path):
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which builds from source (the extra llama_cpp)")
    model = tiny(name)
    ids = torch.randint(320, (1, 48), generator=torch.Generator().manual_seed(1))
    theirs = logits_of_llama_cpp(export(model, tmp_path / "m.gguf"), ids[0].tolist())
    with torch.no_grad():
        ours = model(ids)[0]
    assert ours.std() > 0.1
    torch.testing.assert_close(theirs, ours, atol=5e-3, rtol=0)


@pytest.mark.parametrize(("kind", "tolerance"), [("bf16", 0.1), ("f16", 0.02), ("q8_0", 0.3), ("q4_0", 4.0)])
def test_fewer_bits_are_near(kind: str, tolerance: float, tmp_path: Path):
    model = tiny("llama")
    again = load_gguf(export(model, tmp_path / "m.gguf", kind))
    assert 0 < largest_difference(model, again) < tolerance
    error = (again.blocks[0].attention.key.weight - model.blocks[0].attention.key.weight).abs().max()
    assert error < {"bf16": 2e-3, "f16": 3e-4, "q8_0": 3e-3, "q4_0": 0.06}[kind]


def test_what_llama_cpp_does_not_have_is_refused_with_the_nearest(tmp_path: Path):
    model = GPTModel(GPTConfig(vocab_size=320, d_model=64, feed_forward="relu2"))
    with pytest.raises(UserError, match="the nearest, llama, has no feed_forward 'relu2'"):
        export(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_refused_in_one_line(tmp_path: Path):
    path = export(tiny("llama"), tmp_path / "m.gguf")
    whole = path.read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "cut in the keys": whole[:500],
        "empty": b"",
        "another kind": b"PK\x03\x04" + bytes(200),
        "another architecture": whole.replace(b"llama", b"mamba"),
        "fewer layers": whole.replace(b"blk.1.ffn_down", b"blk.7.ffn_down"),
        "a tensor less": whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_x.weight"),
    }.items():
        path.write_bytes(content)
        with pytest.raises(PretrainedError) as caught:
            load_gguf(path)
        assert "\n" not in str(caught.value) and "m.gguf" in str(caught.value), name
    with pytest.raises(PretrainedError, match="there is no file"):
        load_gguf(tmp_path / "none.gguf")


def test_a_file_is_imported_once_and_again_if_it_has_changed(tmp_path: Path, capsys):
    path = export(tiny("llama"), tmp_path / "m.gguf")
    first = load_for_inference(path)
    assert first.folder.parent == tmp_path / "m.gguf.nullm_import"
    assert largest_difference(first.model, tiny("llama")) < 1e-5
    assert capsys.readouterr().out.count("Importing") == 1
    assert load_for_inference(str(path)).folder == first.folder
    assert not capsys.readouterr().out
    path.unlink()
    export(tiny("qwen2"), path)
    assert load_for_inference(path).model.config.attention_bias == "qkv"


def test_a_setting_that_is_not_known_is_refused_by_name(tmp_path: Path):
    path = export(tiny("llama"), tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama.rope.dimension_count", b"llama.attention.clamp_kqvx"))
    with pytest.raises(PretrainedError, match=r"llama\.attention\.clamp_kqvx is 16, a setting that is not supported"):
        load_gguf(path)

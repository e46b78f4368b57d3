"""Stage 3: real weights. Tiny random models of each Hugging Face family, read, written and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwork.tensor_files import save_tensors
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.pretrained import PretrainedError, load_pretrained, main, save_pretrained
from transformer.rope_scaling import RopeScaling, rotary_speeds

transformers = pytest.importorskip("transformers")

GPT2 = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 61}
LLAMA = {
    "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
}  # fmt: skip
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
SPECIAL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}  # the classes' own are beyond this vocabulary
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
MODELS = {
    "gpt2": ("GPT2", GPT2),
    "gpt2, exact gelu, wider": ("GPT2", {**GPT2, "activation_function": "gelu", "n_inner": 80}),
    "llama": ("Llama", LLAMA),
    "llama, tied": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama, one kv head": ("Llama", {**LLAMA, "num_key_value_heads": 1}),
    "llama, wide heads": ("Llama", {**LLAMA, "head_dim": 12}),
    "llama, biases": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, linear rope": ("Llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama, llama3 rope": ("Llama", {**LLAMA, "rope_parameters": LLAMA3_ROPE}),
    "llama, yarn": ("Llama", {**LLAMA, "rope_parameters": YARN}),
    "llama, biases in attention": ("Llama", {**LLAMA, "attention_bias": True}),
    "llama, biases in the feed-forward": ("Llama", {**LLAMA, "mlp_bias": True}),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": None}),
    "mistral, window": ("Mistral", {**LLAMA, "sliding_window": 10, "head_dim": 12}),
    "qwen2": ("Qwen2", LLAMA),
    "qwen2, windows after the first layer": (
        "Qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 16}),
    "qwen3, tied": ("Qwen3", {**LLAMA, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen3, windows and biases": (
        "Qwen3", {**LLAMA, "head_dim": 8, "use_sliding_window": True, "sliding_window": 8, "attention_bias": True,
                  "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "smollm3": ("SmolLM3", {**LLAMA, "num_hidden_layers": 4, **SPECIAL}),
    "smollm3, windows": (
        "SmolLM3", {**LLAMA, "no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 8, "tie_word_embeddings": False, **SPECIAL},
    ),
    "phi3": ("Phi3", {**LLAMA, "sliding_window": 40, **SPECIAL}),
    "phi3, window, half of each head": (
        "Phi3", {**LLAMA, "sliding_window": 8, "tie_word_embeddings": True, **SPECIAL,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ),
    "olmo2": ("Olmo2", {**LLAMA, **SPECIAL}),
    "olmo2, tied, biases": ("Olmo2", {**LLAMA, "tie_word_embeddings": True, "attention_bias": True, **SPECIAL}),
    "gemma": ("Gemma", {**LLAMA, "head_dim": 12, **SPECIAL}),
    "gemma2": ("Gemma2", {**LLAMA, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 8, "num_hidden_layers": 4, **SPECIAL}),
    "gemma2, tight caps": ("Gemma2", {**LLAMA, "head_dim": 8, "attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.5, **SPECIAL}),
    "gemma3": ("Gemma3", {**LLAMA, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 8, "num_hidden_layers": 7, **SPECIAL}),
    "gemma3, scaled positions": (
        "Gemma3", {**LLAMA, "head_dim": 8, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"], **SPECIAL,
                   "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}},
    ),
    "gpt-neox": ("GPTNeoX", {**NEOX, **SPECIAL}),
    "gpt-neox, in turn, all of each head": (
        "GPTNeoX", {**NEOX, "use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new", **SPECIAL,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    ),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", MODELS)


def random_model(name: str):
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")(**settings)
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    config._attn_implementation = "eager"  # soft caps are computed there alone
    model = getattr(transformers, family + suffix)(config).eval()
    with torch.no_grad():  # norms and biases start as ones and zeros: make every tensor matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
def assert_same_logits(theirs, ours: GPTModel) -> None:
    ids = torch.randint(61, (3, 64))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    assert theirs(ids).logits.std() > 0.1  # large enough that the tolerance means something


@pytest.mark.slow
@ALL
def test_a_loaded_model_has_the_logits_of_transformers(name, tmp_path: Path):
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path)
    assert_same_logits(theirs, load_pretrained(tmp_path))


@ALL
def test_transformers_loads_what_is_saved_and_has_the_same_logits(name, tmp_path: Path):
    random_model(name).save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.5)
    save_pretrained(ours, tmp_path / "ours")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same_logits(theirs.eval(), ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "phi3"])  # it is written as its twin, Mistral
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_leaves_every_bit(name, dtype, tmp_path: Path):
    random_model(name).to(dtype).save_pretrained(tmp_path / "first")
    save_pretrained(load_pretrained(tmp_path / "first", dtype), tmp_path / "second")
    first, second = (load_file(tmp_path / folder / "model.safetensors") for folder in ("first", "second"))
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype == dtype
        assert torch.equal(first[key], second[key])


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_shards_are_written_and_read(name, tmp_path: Path):
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours", max_shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    assert_same_logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval(), ours)
    save_pretrained(ours, tmp_path / "ours")  # smaller shards of an earlier save must not stay
    assert [file.name for file in (tmp_path / "ours").glob("*.safetensors")] == ["model.safetensors"]
    assert_same_logits(theirs, load_pretrained(tmp_path / "ours"))


def test_files_without_the_prefix_of_the_head_and_with_old_masks_are_read(tmp_path: Path):
    theirs = random_model("gpt2")
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same_logits(theirs, load_pretrained(tmp_path))


def test_the_configuration_of_older_transformers_is_understood(tmp_path: Path):
    theirs = random_model("llama, llama3 rope")
    theirs.save_pretrained(tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())
    rope = hf.pop("rope_parameters")
    hf["rope_theta"] = rope.pop("rope_theta")
    hf["rope_scaling"] = rope
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert_same_logits(theirs, load_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
@pytest.mark.parametrize(("head_dim", "theta", "factor"), [(64, 1e4, 8.0), (128, 5e5, 32.0), (16, 1e4, 1.5)])
def test_rotary_speeds_are_those_of_transformers(kind, head_dim, theta, factor):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": kind, "rope_theta": theta, "factor": factor, "original_max_position_embeddings": 512}
    if kind == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(
        hidden_size=head_dim, num_attention_heads=1, max_position_embeddings=2048, rope_parameters=parameters
    )
    expected, amplitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    speeds, ours = rotary_speeds(head_dim, theta, RopeScaling(kind, factor, 512))
    torch.testing.assert_close(speeds, expected, atol=0, rtol=2e-6)
    assert ours == pytest.approx(amplitude)


def test_ntk_scaling_is_written_as_a_larger_base(tmp_path: Path):
    config = GPTConfig(vocab_size=61, context_length=64, d_model=32, rope_scaling=RopeScaling("ntk", 4.0))
    ours = GPTModel(config).eval()
    save_pretrained(ours, tmp_path)
    assert_same_logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), ours)


def test_normalised_queries_without_a_scale_are_written_as_qwen3(tmp_path: Path):
    ours = GPTModel(GPTConfig(vocab_size=61, context_length=64, num_layers=2, d_model=32, qk_norm=True)).eval()
    for parameter in ours.parameters():
        parameter.data.mul_(3)
    save_pretrained(ours, tmp_path)
    assert_same_logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), ours)


def test_a_shorter_context_can_be_asked_for(tmp_path: Path):
    random_model("llama").save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, context_length=16).config.context_length == 16
    with pytest.raises(PretrainedError, match="between 1 and the model's 64, got 65"):
        load_pretrained(tmp_path, context_length=65)


class _Hub(SimpleHTTPRequestHandler):
    """The part of the hub's protocol that downloading a repository needs, for a folder."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        root = Path(self.directory)
        if path.startswith("/api/models/someone/tiny/tree/"):
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "1" * 40} for f in root.iterdir()
            ]
            content = json.dumps(files).encode()
        elif path.startswith("/api/models/someone/tiny"):
            files = [{"rfilename": file.name} for file in root.iterdir()]
            content = json.dumps({"id": "someone/tiny", "sha": self.commit, "siblings": files}).encode()
        elif path.startswith("/someone/tiny/resolve/"):
            content = (root / path.rsplit("/", 1)[1]).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"' + path.rsplit("/", 1)[1] + '"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.slow
def test_a_hub_name_is_downloaded(tmp_path: Path):
    pytest.importorskip("huggingface_hub")
    (tmp_path / "repository").mkdir()
    random_model("llama").save_pretrained(tmp_path / "repository")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, directory=str(tmp_path / "repository")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
from transformer.pretrained import load_pretrained
print(load_pretrained("someone/tiny").num_parameters())
try:
    load_pretrained("someone/else")
except ValueError as error:
    print(error)
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",  # the hub is this process; another test may have turned the network off
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
    assert run.returncode == 0, run.stderr
    count, message = run.stdout.strip().splitlines()
    assert int(count) == load_pretrained(tmp_path / "repository").num_parameters()
    assert "there is no folder someone/else, and the hub did not give it" in message


# --- bad input --------------------------------------------------------------------------------


def test_a_model_that_no_class_can_hold_is_refused_with_the_reasons(tmp_path: Path):
    model = GPTModel(GPTConfig(vocab_size=61, feed_forward="relu2", logit_softcap=15.0))
    with pytest.raises(
        PretrainedError, match=r"the nearest, LlamaForCausalLM, has no feed_forward 'relu2', no logit_softcap 15\.0"
    ):
        save_pretrained(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "describes MambaForCausalLM; supported are GPT2LMHeadModel"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'; only 'silu' is supported"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type: 'longrope'"),
        ({"attention_bias": True}, "lacks the tensor model.layers.0.self_attn.q_proj.bias"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5; only null or 1.0"),
        ({"hidden_size": 64}, r"has shape \(61, 32\), config.json says \(61, 64\)"),
        ({"num_hidden_layers": 3}, "lacks the tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "has tensors that LlamaForCausalLM does not: model.layers.1"),
        ({"vocab_size": None}, "vocab_size: null; it should be a whole number"),
        ({"num_attention_heads": 5}, "30 / 5|32 / 5 is not whole|must divide"),
    ],
)
def test_an_unsupported_or_inconsistent_configuration_is_refused(change, message, tmp_path: Path):
    random_model("llama").save_pretrained(tmp_path)
    hf = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**hf, **change}))
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_files_of_tensors_have_the_rights_of_other_new_files(tmp_path: Path):
    (tmp_path / "other").touch()
    for _ in range(2):  # a new folder, and then the same folder again
        save_tensors({"a": torch.ones(3)}, tmp_path / "a.safetensors", {"format": "pt"})
        assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors")["a"], torch.ones(3))


def test_damaged_and_missing_files_are_named(tmp_path: Path):
    with pytest.raises(PretrainedError, match="is not a folder"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(PretrainedError, match=r"it has no config\.json"):
        load_pretrained(tmp_path)
    random_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PretrainedError, match="are damaged"):
        load_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(PretrainedError, match=r"has no model\.safetensors"):
        load_pretrained(tmp_path)


def test_the_command_describes_a_folder(tmp_path: Path, capsys):
    random_model("qwen3").save_pretrained(tmp_path)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Qwen3ForCausalLM" in out and "qk_norm_weight" in out
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")

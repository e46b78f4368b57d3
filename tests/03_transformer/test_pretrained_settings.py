"""Stage 3: every field of another program's `config.json` is obeyed or refused by name, and sizes are compared first."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwork.machine_memory import memory_limit
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.pretrained import PretrainedError, load_pretrained, read_config, save_pretrained

GPT2 = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True}
QWEN3 = {"qk_norm": True, "qk_norm_weight": True, "head_dim": 16}
STYLES = {"gpt2": GPT2, "llama": {}, "qwen3": QWEN3}
SIZES = {"vocab_size": 61, "context_length": 64, "num_layers": 2, "num_heads": 4, "d_model": 32}


def saved(folder: Path, style: str = "llama", change: dict | None = None, **parts: object) -> Path:
    """A folder with a small random model, in whose `config.json` some fields are changed."""
    torch.manual_seed(0)
    save_pretrained(GPTModel(GPTConfig(**{**SIZES, **STYLES[style], **parts})).eval(), folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **(change or {})}))
    return folder


def refusal(folder: Path) -> str:
    """The message with which a folder is refused, in one line and soon."""
    started = time.monotonic()
    with pytest.raises(PretrainedError) as caught:
        load_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800 and time.monotonic() - started < 20  # a busy machine
    return message


# As published, with the fields that other programs left in them.
PUBLISHED = {
    "GPT-2": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
        "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
        "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    },
    "SmolLM2": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.0416, "intermediate_size": 1536,
        "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}, "vocab_size": 49152,
    },
    "Llama 3.2": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
    },
    "Qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
        "vocab_size": 151936,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_understood(name: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    _, config = read_config(tmp_path)
    assert config.tie_embeddings and config.vocab_size == PUBLISHED[name]["vocab_size"]


def test_a_field_that_transformers_writes_and_does_not_read_is_not_obeyed(tmp_path: Path):
    config = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 9, "hidden_size": 8,
              "intermediate_size": 8, "num_hidden_layers": 7, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 4, "max_position_embeddings": 64, "sliding_window": 8, "_sliding_window_pattern": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path)[1].global_layers == (5,)  # each sixth, as in the class


@pytest.mark.parametrize(
    ("style", "change", "message"),
    [
        ("llama", {"residual_multiplier": 0.22}, "config.json has residual_multiplier: 0.22, which is not supported"),
        ("llama", {"sliding_window": 8}, "sliding_window: 8"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4}"),
        ("llama", {"per_layer_config": {"0": {}}}, "per_layer_config"),
        ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5; only null or 1.0"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types with 'sliding_attention'"),
        ("llama", {"layer_types": "full_attention"}, "layer_types with 'full_attention'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.5}},
            "mscale: 1.5; only null or 0",
        ),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "short_factor": [1.0]}}, "short_factor"),
        ("llama", {"rope_scaling": {"full_attention": {"rope_theta": 1.0}}}, "full_attention"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling lacks factor"),
        ("llama", {"rope_scaling": [1]}, "it should be an object"),
        ("llama", {"rope_theta": "x"}, "rope_theta: 'x'; it should be a finite number"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_theta": 1},
            "needs model.rope_theta above 1",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0}},
            "attention_factor must be above 0",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": -1.0, "high_freq_factor": 1}},
            "both above 0",
        ),
        ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers: '2'; it should be a whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers: true; it should be a whole number"),
        ("llama", {"num_attention_heads": 0}, "model.num_heads must be at least 1"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "it should be a list of one name"),
        ("llama", {"architectures": [5]}, "describes 5"),
        ("llama", {"model_type": "mistral"}, "LlamaForCausalLM with the model_type 'mistral'"),
        ("gpt2", {"hidden_size": 64}, "hidden_size: 64"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: true; only false"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: true"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types with 'sliding_attention'"),
    ],
)
def test_a_field_that_changes_the_result_is_refused_by_name(style: str, change: dict, message: str, tmp_path: Path):
    assert message in refusal(saved(tmp_path, style, change))


@pytest.mark.parametrize(
    ("style", "change"),
    [
        ("qwen3", {"layer_types": ["full_attention"] * 2, "use_sliding_window": True, "sliding_window": 8}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_scaling": None}),
        ("llama", {"temperature": 0.7, "unsloth_version": "2025.1", "future_feature": False, "pruned_heads": {}}),
    ],
)
@torch.no_grad()
def test_fields_that_change_nothing_are_accepted(style: str, change: dict, tmp_path: Path):
    before = load_pretrained(saved(tmp_path / "a", style))
    ids = torch.randint(61, (1, 16))
    assert torch.equal(load_pretrained(saved(tmp_path / "b", style, change))(ids), before(ids))


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_a_head_in_the_file_counts_more_than_the_flag(style: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, style, tie_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    table = next(tensor for name, tensor in tensors.items() if name.endswith(("wte.weight", "embed_tokens.weight")))
    save_file({**tensors, "lm_head.weight": table.clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert load_pretrained(tmp_path).config.tie_embeddings  # a copy is a tied head
    save_file({**tensors, "lm_head.weight": -2 * table}, tmp_path / "model.safetensors", {"format": "pt"})
    ours, ids = load_pretrained(tmp_path), torch.randint(61, (2, 16))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    save_pretrained(ours, tmp_path / "again")
    assert torch.equal(load_pretrained(tmp_path / "again")(ids), ours(ids))


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"a": "../../secret.safetensors"}},
            "names '../../secret.safetensors', which is not the name of a file",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd'"),
        ({"weight_map": {"a": 5}}, "names 5"),
        ({"weight_map": {"a": ["x"]}}, "names ['x']"),
        ({"weight_map": ["model.safetensors"]}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([1], "should hold a JSON object"),
        ({"weight_map": {"a": "b.safetensors"}}, "is incomplete: b.safetensors is missing"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_index_that_is_no_index_is_refused(index, message: str, tmp_path: Path):
    saved(tmp_path)
    text = index if isinstance(index, str) else json.dumps(index)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert message in refusal(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path):
    tensors = load_file(saved(tmp_path) / "model.safetensors")
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({"model.norm.weight": torch.zeros(32)}, tmp_path / "b.safetensors")
    places = dict.fromkeys(tensors, "a.safetensors") | {"x": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "has the tensor model.norm.weight in two files" in refusal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"num_hidden_layers": 9_000}, {"vocab_size": 2**40}, {"hidden_size": 2**33}, {"intermediate_size": 2**60}],
)
def test_sizes_that_the_weights_cannot_have_are_refused_before_anything_is_allocated(change: dict, tmp_path: Path):
    assert "the files of weights have only" in refusal(saved(tmp_path, "llama", change))


def test_a_context_that_the_memory_cannot_hold_is_refused_and_a_shorter_one_is_loaded(tmp_path: Path):
    saved(tmp_path, "llama", {"max_position_embeddings": 2**40})
    assert "a context of 1,099,511,627,776 tokens needs" in refusal(tmp_path)
    assert load_pretrained(tmp_path, context_length=16).config.context_length == 16


def test_a_model_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path)
    monkeypatch.setattr("transformer.size_check.memory_limit", lambda: 50_000)
    assert "the model needs 0.0 GiB, and this process may use 0.0 GiB" in refusal(tmp_path)
    assert memory_limit() > 2**28

"""Stage 6: what an adapter's settings mean is what peft makes of them, or they are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetuning.adapters.lora import AdapterError, LoRAConfig, add_lora, attach_adapters
from finetuning.adapters.peft_config import read_peft_config
from finetuning.adapters.peft_format import load_adapter, save_adapter
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.pretrained import load_pretrained, save_pretrained

SIZES = {"vocab_size": 50, "context_length": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_model": 32}
GPT2 = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True, "num_kv_heads": 4}


def build(**style: object) -> GPTModel:
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**SIZES, **style})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "adapters" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return save_pretrained(build(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that peft wrote."""
    folder = tmp_path_factory.mktemp("made")
    made_by_peft(base, folder)
    return folder


def made_by_peft(base: Path, folder: Path, **options: object) -> None:
    import peft
    import transformers

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    theirs = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    randomise(theirs)
    theirs.save_pretrained(folder)


def by_peft(base: Path, folder: Path, ids: Tensor) -> Tensor:
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, folder).eval()(ids).logits


SETTINGS = {
    "alpha by the end of a name": {"alpha_pattern": {"q_proj": 32}},
    "alpha by the end of a name that is not a whole part": {"alpha_pattern": {"proj": 32, "_proj": 64}},
    "alpha of one layer": {"alpha_pattern": {"layers.0.self_attn.q_proj": 32}},
    "alpha by an expression": {"alpha_pattern": {r".*layers\.1\..*": 32}},
    "alpha by an expression from the beginning": {"alpha_pattern": {r"^model\.layers\.1\.self_attn\.(q|v)_proj": 32}},
    "the first key that matches": {"alpha_pattern": {"v_proj": 2, "layers.1.self_attn.v_proj": 32, "model.*": 16}},
    "ranks and alphas, rank-stabilised": {
        "rank_pattern": {"v_proj": 8}, "alpha_pattern": {"v_proj": 64}, "use_rslora": True,
    },
    "ranks with magnitudes": {"rank_pattern": {r"layers\.0.*": 2}, "use_dora": True},
    "targets by an expression": {"target_modules": r".*\.(up|down)_proj|.*layers\.0\.self_attn\.k_proj"},
    "all linear layers": {"target_modules": "all-linear"},
    "some layers": {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]},
    "one layer by its list's name": {"layers_to_transform": 0, "layers_pattern": "layers"},
    "some left out": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "some left out by an expression": {"exclude_modules": r".*layers\.1.*v_proj"},
    "gaussian first weights": {"init_lora_weights": "gaussian"},
    "orthogonal first weights": {"init_lora_weights": "orthogonal"},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_settings_by_name_have_the_meaning_that_peft_gives_them(name: str, base: Path, tmp_path: Path):
    made_by_peft(base, tmp_path / "made", **SETTINGS[name])
    ids = torch.randint(50, (2, 16))
    expected, ours = by_peft(base, tmp_path / "made", ids), load_pretrained(base)
    before = ours(ids)
    load_adapter(ours, tmp_path / "made")
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(expected, before, atol=1e-2)
    save_adapter(ours, tmp_path / "again")
    torch.testing.assert_close(by_peft(base, tmp_path / "again", ids), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_query_key_and_value_with_ranks_and_alphas_of_their_own_become_one_matrix(tmp_path: Path):
    pytest.importorskip("peft")
    model = build(**GPT2)
    save_pretrained(model, tmp_path / "base")
    parts = [("query", 2, 16.0), ("key", 3, 4.0), ("value", 5, 8.0)]
    configs = {
        f"blocks.{layer}.attention.{name}": LoRAConfig(rank=rank + layer, alpha=alpha)
        for layer in (0, 1)
        for name, rank, alpha in parts
    }
    attach_adapters(model, configs, "default")
    randomise(model)
    save_adapter(model, tmp_path / "adapter")
    ids = torch.randint(50, (2, 16))
    torch.testing.assert_close(by_peft(tmp_path / "base", tmp_path / "adapter", ids), model(ids), atol=1e-4, rtol=0)


# --- refused ----------------------------------------------------------------------------------


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        load_adapter(load_pretrained(base), folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa', which changes the weights of the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the weights of the base"),
        ({"init_lora_weights": "olora"}, "changes the weights of the base"),
        ({"init_lora_weights": "loftq"}, "changes the weights of the base"),
        ({"init_lora_weights": 7}, "changes the weights of the base"),
        ({"alora_invocation_tokens": [4, 5]}, "activated LoRA"),
        ({"bias": "lora_only"}, "biases or whole layers"),
        ({"modules_to_save": ["lm_head"]}, "biases or whole layers"),
        ({"lora_bias": True}, "lora_bias: true, which is not supported"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"a_field_of_the_future": 0.5}, "a_field_of_the_future: 0.5"),
        ({"r": "4"}, "r: '4'; it should be a whole number"),
        ({"r": 8}, "lora_a is 4 × 32 in the file, and 8 × 32 by adapter_config.json"),
        ({"lora_alpha": float("nan")}, "lora_alpha: nan; it should be a finite number"),
        ({"lora_alpha": None}, "lora_alpha: null"),
        ({"lora_alpha": 1e308}, "lora.alpha must be above 0 and at most 1e+06"),
        ({"use_rslora": "no"}, "use_rslora: 'no'; it should be true or false"),
        ({"use_dora": True}, "lacks 'base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector'"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern: {'q_proj': '8'}"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern: [1]"),
        ({"alpha_pattern": {"(": 8}}, "is not a regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"target_modules": None}, "target_modules: None; it should be a list of names"),
        ({"target_modules": ["q_proj"]}, "matrices for model.layers.0.self_attn.v_proj, which the target_modules"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "lacks the matrices of model.layers.0.self_attn.o_proj"),
        ({"exclude_modules": ["v_proj"]}, "matrices for model.layers.0.self_attn.v_proj"),
        ({"layers_to_transform": [0]}, "matrices for model.layers.1.self_attn.q_proj"),
        ({"layers_to_transform": ["0"]}, "it should be numbers of layers"),
        (
            {"target_modules": ".*_proj", "layers_to_transform": [0, 1]},
            "layers_to_transform needs target_modules as a list",
        ),
        ({"peft_type": "IA3"}, "of type IA3"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(change: dict, message: str, base: Path, made: Path, tmp_path: Path):
    content = json.loads((made / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, **change}))
    (tmp_path / "adapter_model.safetensors").write_bytes((made / "adapter_model.safetensors").read_bytes())
    assert message in refusal(base, tmp_path)


def test_an_expression_of_exponential_time_is_refused(base: Path, made: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("finetuning.adapters.peft_config.MATCHING_SECONDS", 0.05)
    content = json.loads((made / "adapter_config.json").read_text())
    content["alpha_pattern"] = {"(?:(.)(.)?|.)+(?<=!)": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    (tmp_path / "adapter_model.safetensors").write_bytes((made / "adapter_model.safetensors").read_bytes())
    assert "takes too long to match" in refusal(base, tmp_path)


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        ("lora_B.weight", lambda b: b[:, :1], "lora_b is 32 × 1 in the file, and 32 × 4 by adapter_config.json"),
        ("lora_B.weight", lambda b: b[:, :3], "lora_b is 32 × 3 in the file"),
        (
            "lora_B.weight",
            lambda b: b[:1],
            "these layers differ: blocks.0.attention.query (1 × 32 in the file, 32 × 32 here)",
        ),
        ("lora_A.weight", lambda a: a[0], "lora_a is 32 in the file, and 4 × 32 by"),
        ("lora_A.weight", lambda a: a[None], "lora_a is 1 × 4 × 32 in the file"),
        ("lora_A.weight", lambda a: a[:0], "lora_a is 0 × 32 in the file"),
        ("lora_A.weight", lambda a: a[0, 0], "lora_a is one number in the file"),
        ("lora_A.weight", lambda a: a * float("nan"), "are nan or infinite"),
        ("lora_A.weight", lambda a: a.to(torch.int8), "has the type int8"),
    ],
)
def test_matrices_that_would_only_fit_when_stretched_are_refused(
    ending: str, change, message: str, base: Path, made: Path, tmp_path: Path
):
    tensors = load_file(made / "adapter_model.safetensors")
    changed = {name: change(t).contiguous() if name.endswith(ending) else t for name, t in tensors.items()}
    save_file(changed, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((made / "adapter_config.json").read_text())
    assert message in refusal(base, tmp_path)


@pytest.mark.parametrize("magnitude", [torch.ones(1), torch.ones(32, 1), torch.ones(())])
def test_magnitudes_of_another_shape_are_refused(magnitude: Tensor, base: Path, made: Path, tmp_path: Path):
    tensors = load_file(made / "adapter_model.safetensors")
    names = [name.replace("lora_A.weight", "lora_magnitude_vector") for name in tensors if name.endswith("A.weight")]
    save_file({**tensors, **{name: magnitude.clone() for name in names}}, tmp_path / "adapter_model.safetensors")
    content = json.loads((made / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    assert "does not say use_dora" in refusal(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, "use_dora": True}))
    assert "magnitude is" in refusal(base, tmp_path)


def test_a_default_rank_that_no_layer_uses_allocates_nothing(made: Path, tmp_path: Path):
    model = build()
    add_lora(model, LoRAConfig(rank=2))
    save_adapter(model, tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, "r": 10**9}))
    load_adapter(build(), tmp_path)
    assert read_peft_config(tmp_path).of_layer("model.layers.0.self_attn.q_proj").rank == 2


def test_a_head_that_is_the_embedding_cannot_have_an_adapter():
    model = build(tie_embeddings=True)
    with pytest.raises(
        AdapterError, match=r"head cannot have an adapter: token_embedding.weight and head.weight are one"
    ):
        add_lora(model, LoRAConfig(rank=2, pattern="*"))
    add_lora(build(tie_embeddings=False), LoRAConfig(rank=2, pattern="*"))


def test_numbers_that_could_not_be_loaded_are_not_saved(tmp_path: Path):
    model = build()
    add_lora(model, LoRAConfig(rank=2))
    model.blocks[0].attention.query.adapters["default"].lora_b.data.fill_(float("nan"))
    with pytest.raises(AdapterError, match="nan or infinite, in base_model"):
        save_adapter(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()

"""Stage 6: LoRA starts as the model, trains only the correction, merges exactly, and agrees with peft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetuning.adapters.lora import (
    AdapterError,
    LoRAConfig,
    LoRALinear,
    activate_adapter,
    add_lora,
    fold_adapter,
    lora_layers,
    merge_adapter,
    unmerge_adapter,
)
from finetuning.adapters.peft_format import load_adapter, save_adapter
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.pretrained import save_pretrained

GPT2 = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True}
LLAMA = {"num_kv_heads": 2}
QWEN3 = {"num_kv_heads": 2, "qk_norm": True, "qk_norm_weight": True, "head_dim": 16}
# Families that store several of our matrices as one.
PHI3 = {"num_kv_heads": 2, "rope_fraction": 0.5}
NEOX = {"norm": "layernorm", "feed_forward": "gelu_tanh", "bias": True, "parallel_residual": True, "rope_fraction": 0.5}
KINDS = pytest.mark.parametrize("kind", [{}, {"rank_stabilised": True}, {"dora": True}], ids=["lora", "rslora", "dora"])


def build(**style: object) -> GPTModel:
    sizes = {"vocab_size": 50, "context_length": 16, "num_layers": 2, "num_heads": 4, "d_model": 32}
    model = GPTModel(GPTConfig(**{**sizes, **style})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def randomise(model: nn.Module) -> None:
    """Make the corrections nonzero, because B is zero at first."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapters" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.fixture
def model() -> GPTModel:
    return build(**LLAMA)


@KINDS
def test_an_adapted_model_starts_as_it_was_and_trains_the_adapter_alone(kind, model: GPTModel):
    ids = torch.randint(50, (2, 8))
    before = model(ids)
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    names = add_lora(model, LoRAConfig(rank=4, pattern="blocks.*.attention.*", **kind))
    assert names == [f"blocks.{i}.attention.{name}" for i in (0, 1) for name in ("query", "key", "value", "output")]
    torch.testing.assert_close(model(ids), before, atol=1e-5, rtol=1e-4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in model.named_parameters():
        original = frozen.get(name.replace(".base.", "."))
        assert (original is None) == ("adapters" in name)
        assert original is None or torch.equal(parameter, original)


@KINDS
def test_merging_keeps_the_logits_and_unmerging_restores_every_bit(kind, model: GPTModel):
    ids = torch.randint(50, (2, 8))
    original = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        before = model(ids)
        add_lora(model, LoRAConfig(rank=4, **kind))
        randomise(model)
        adapted = model(ids)
        assert not torch.allclose(adapted, before, atol=1e-2)
        merge_adapter(model)
        torch.testing.assert_close(model(ids), adapted, atol=1e-4, rtol=1e-3)
        unmerge_adapter(model)
        assert torch.equal(model(ids), adapted)
        activate_adapter(model, None)
        assert torch.equal(model(ids), before)
        activate_adapter(model, "default")
        fold_adapter(model)
        torch.testing.assert_close(model(ids), adapted, atol=1e-4, rtol=1e-3)
    assert {name for name, _ in model.named_parameters()} == original.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_correction_is_the_formula():
    model = nn.Sequential(nn.Linear(6, 10))
    add_lora(model, LoRAConfig(rank=3, alpha=12, pattern="0"))
    randomise(model)
    adapter = model[0].adapters["default"]
    x = torch.randn(5, 6)
    weight = model[0].base.weight + 12 / 3 * adapter.lora_b @ adapter.lora_a
    torch.testing.assert_close(model(x), F.linear(x, weight, model[0].base.bias), atol=1e-5, rtol=1e-5)
    assert LoRAConfig(rank=16, alpha=8, rank_stabilised=True).scale == 2.0


def test_several_adapters_are_switched(model: GPTModel):
    ids = torch.randint(50, (1, 8))
    with torch.no_grad():
        plain = model(ids)
        add_lora(model, LoRAConfig(rank=2), "first")
        randomise(model)
        first = model(ids)
        add_lora(model, LoRAConfig(rank=3, pattern="blocks.1.*"), "second")
        assert torch.allclose(model(ids), plain, atol=1e-5)  # the second starts at zero
        randomise(model)
        activate_adapter(model, "first")
        changed = model(ids)
        activate_adapter(model, "second")
        merge_adapter(model)
        activate_adapter(model, "first")  # unmerges by itself
        assert torch.equal(model(ids), changed) and not torch.equal(changed, first)
    with pytest.raises(AdapterError, match="no adapter 'third'; there are: first, second"):
        activate_adapter(model, "third")
    with pytest.raises(AdapterError, match="an adapter called 'first' already"):
        add_lora(model, LoRAConfig(rank=2), "first")


@pytest.mark.parametrize("name", ["training", "_modules", "keys", "a.b", ""])
def test_a_name_that_pytorch_has_for_itself_is_refused_and_the_model_left_alone(model: GPTModel, name: str):
    with pytest.raises(AdapterError, match="an adapter cannot be called"):
        add_lora(model, LoRAConfig(rank=2), name)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_rank_that_does_not_fit_is_refused_and_the_model_left_alone(model: GPTModel):
    with pytest.raises(AdapterError, match="between 1 and 16 for a 16 × 32 matrix, got 17"):
        add_lora(model, LoRAConfig(rank=17, pattern="blocks.*.attention.*"))
    with pytest.raises(AdapterError, match="at least 1, got 0"):
        LoRAConfig(rank=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


def test_a_pattern_that_matches_nothing_names_what_there_is(model: GPTModel):
    with pytest.raises(AdapterError, match=r"there are: blocks\.0\.attention\.query"):
        add_lora(model, LoRAConfig(pattern="layers.*"))


# --- peft -------------------------------------------------------------------------------------

# What peft is told to adapt in each family.
TARGETS = {
    "gpt2": (GPT2, ["c_attn", "c_proj", "c_fc"]),
    "llama": (LLAMA, ["q_proj", "v_proj", "up_proj", "down_proj"]),
    "qwen3": (QWEN3, ["q_proj", "v_proj", "up_proj", "down_proj"]),
    "phi3": (PHI3, ["qkv_proj", "gate_up_proj", "down_proj"]),
    "neox": (NEOX, ["query_key_value", "dense", "dense_h_to_4h"]),
}
STYLES = pytest.mark.parametrize("style", [style for style, _ in TARGETS.values()], ids=list(TARGETS))


def exported(model: GPTModel, folder: Path):
    transformers = pytest.importorskip("transformers")
    save_pretrained(model, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.slow
@STYLES
@KINDS
@torch.no_grad()
def test_peft_loads_our_adapter_and_has_the_same_logits(style, kind, tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = build(**style)
    theirs = exported(model, tmp_path / "base")
    add_lora(model, LoRAConfig(rank=3, alpha=7, **kind))
    randomise(model)
    save_adapter(model, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    ids = torch.randint(50, (2, 16))
    before = theirs(ids).logits
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    assert not torch.allclose(theirs(ids).logits, before, atol=1e-2)
    again = build(**style)
    again.load_state_dict({n.replace(".base", ""): p for n, p in model.state_dict().items() if "adapters" not in n})
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(again(ids), model(ids), atol=1e-4, rtol=0)


@STYLES
@KINDS
@torch.no_grad()
def test_we_load_pefts_adapter_and_have_the_same_logits(style, kind, tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = build(**style)
    theirs = exported(model, tmp_path / "base")
    options = {"use_rslora": kind.get("rank_stabilised", False), "use_dora": kind.get("dora", False)}
    targets = next(targets for known, targets in TARGETS.values() if known is style)
    config = peft.LoraConfig(
        r=4, lora_alpha=9, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=style is GPT2, **options
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    theirs.save_pretrained(tmp_path / "adapter")
    load_adapter(model, tmp_path / "adapter")
    ids = torch.randint(50, (2, 16))
    torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    save_adapter(model, tmp_path / "back")
    back = peft.PeftModel.from_pretrained(exported(build_like(model), tmp_path / "base2"), tmp_path / "back").eval()
    torch.testing.assert_close(back(ids).logits, theirs(ids).logits, atol=1e-4, rtol=0)


def build_like(model: GPTModel) -> GPTModel:
    """The base of an adapted model."""
    base = GPTModel(model.config).eval()
    base.load_state_dict({n.replace(".base", ""): p for n, p in model.state_dict().items() if "adapters" not in n})
    return base


@pytest.mark.slow
@KINDS
def test_fifty_steps_have_the_losses_of_peft(kind, tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = build(**LLAMA)
    theirs = exported(model, tmp_path / "base")
    options = {"use_rslora": kind.get("rank_stabilised", False), "use_dora": kind.get("dora", False)}
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    theirs = peft.get_peft_model(theirs, config)
    theirs.save_pretrained(tmp_path / "adapter")
    load_adapter(model, tmp_path / "adapter")
    ids = torch.randint(50, (50, 4, 16))
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in (model, theirs)]
    for batch in ids:
        losses = []
        for m, optimizer in zip((model, theirs), optimizers, strict=True):
            output = m(batch)
            logits = output if isinstance(output, torch.Tensor) else output.logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=2e-4)


@torch.no_grad()
def test_adapters_of_models_without_a_hugging_face_class_keep_our_names(tmp_path: Path):
    model = build(feed_forward="relu2")
    add_lora(model, LoRAConfig(rank=2))
    randomise(model)
    save_adapter(model, tmp_path)
    again = build_like(model)
    load_adapter(again, tmp_path)
    ids = torch.randint(50, (1, 8))
    assert torch.equal(again(ids), model(ids))


def test_an_adapter_of_another_model_is_refused_with_the_layers_that_differ(tmp_path: Path):
    add_lora(other := build(num_kv_heads=4), LoRAConfig(rank=2, pattern="blocks.*.attention.*"))
    save_adapter(other, tmp_path / "kv")
    with pytest.raises(
        AdapterError, match=r"these layers differ: blocks\.0\.attention\.key \(32 × 32 in the file, 16 × 32"
    ):
        load_adapter(build(**LLAMA), tmp_path / "kv")
    add_lora(other := build(**GPT2), LoRAConfig(rank=2))
    save_adapter(other, tmp_path / "gpt2")
    with pytest.raises(AdapterError, match=r"there is no transformer\.h\.0\.attn\.c_attn"):
        load_adapter(build(**LLAMA), tmp_path / "gpt2")


def test_broken_adapter_folders_are_refused(tmp_path: Path, model: GPTModel):
    with pytest.raises(AdapterError, match=r"it has no adapter_config\.json"):
        load_adapter(model, tmp_path)
    add_lora(model, LoRAConfig(rank=2))
    save_adapter(model, tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, "peft_type": "IA3"}))
    with pytest.raises(AdapterError, match="of type IA3"):
        load_adapter(build(**LLAMA), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"abc")
    with pytest.raises(AdapterError, match="cannot be read"):
        load_adapter(build(**LLAMA), tmp_path)
    with pytest.raises(AdapterError, match="no adapter 'none'"):
        save_adapter(model, tmp_path, "none")


def test_quantized_layers_can_be_adapted():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(32, 16, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(16, 32)})
    model = nn.Sequential(layer).to("cpu")
    x = torch.randn(3, 32)
    before = model(x)
    add_lora(model, LoRAConfig(rank=2, pattern="0"))
    torch.testing.assert_close(model(x), before)
    model(x).sum().backward()
    assert next(lora_layers(model))[1].adapters["default"].lora_b.grad.abs().sum() > 0

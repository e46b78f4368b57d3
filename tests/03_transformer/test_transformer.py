"""Stage 3: the model's parts, its causality, what batching must not change, its cost."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attention.masks import document_mask, left_padded_positions, left_padding_mask
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.layers import LayerNorm, RMSNorm
from transformer.model_memory import inference_memory, measure_saved_bytes, saved_activation_bytes, training_memory
from transformer.model_summary import count_parameters, forward_flops_per_token, main
from transformer.positional_encoding import AlibiBias, RotaryEmbedding, alibi_slopes, sinusoidal_table
from transformer.presets import PRESETS, TransformerLM, preset
from transformer.pretrained import save_pretrained
from transformer.rope_scaling import RopeScaling

GPT2_STYLE = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True}
LLAMA_STYLE = {"norm": "rmsnorm", "feed_forward": "swiglu", "positions": "rope", "num_kv_heads": 2}
QWEN_STYLE = {**LLAMA_STYLE, "qk_norm": True, "qk_norm_weight": True, "head_dim": 16}
OWN_STYLE = {"feed_forward": "relu2", "qk_norm": True, "tie_embeddings": False, "logit_softcap": 15.0}
FIRST_STYLE = {**GPT2_STYLE, "norm_position": "post", "positions": "sinusoidal", "feed_forward": "relu"}
ALIBI_STYLE = {"positions": "alibi", "feed_forward": "gelu", "sliding_window": 5, "attention_sinks": 1}
NAMED = {
    "gpt2": GPT2_STYLE, "llama": LLAMA_STYLE, "qwen3": QWEN_STYLE, "own": OWN_STYLE, "post-norm": FIRST_STYLE,
    "alibi and window": ALIBI_STYLE, "no positions": {"positions": "none"},
}  # fmt: skip
STYLES = pytest.mark.parametrize("style", NAMED.values(), ids=NAMED)


def small_model(style: dict, **changes: object) -> GPTModel:
    sizes = {"vocab_size": 61, "context_length": 16, "num_layers": 3, "num_heads": 4, "d_model": 32}
    model = GPTModel(GPTConfig(**{**sizes, **style, **changes})).eval()
    with torch.no_grad():  # biases and norms start at zeros and ones: make every parameter matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@STYLES
def test_no_logit_depends_on_a_later_token(style):
    model = small_model(style)
    ids = torch.randint(61, (2, 16))
    with torch.no_grad():
        before = model(ids)
        for position in (1, 7, 15):
            changed = ids.clone()
            changed[:, position] = (changed[:, position] + 1) % 61
            after = model(changed)
            assert torch.equal(after[:, :position], before[:, :position])
            assert not torch.equal(after[:, position:], before[:, position:])


@STYLES
@pytest.mark.parametrize("changes", [{}, {"d_ff": 48}, {"num_kv_heads": 1}])
def test_the_parameter_count_is_that_of_the_built_model(style, changes):
    model = small_model(style, **changes)
    assert count_parameters(model.config).total == model.num_parameters()


def test_the_parameter_count_of_gpt2_is_the_published_one():
    config = GPTConfig(**GPT2_STYLE, vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, d_model=768)
    assert count_parameters(config).total == 124_439_808


@STYLES
def test_forward_flops_are_those_that_pytorch_counts(style):
    model = small_model(style, d_model=64, context_length=32, sliding_window=None, attention_sinks=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 32, dtype=torch.long))
    # PyTorch counts every pair of positions, masked or not: twice as many as we do. It does not count its fused
    # kernel for CPUs at all.
    total = forward_flops_per_token(model.config) * 32
    width = model.config.num_heads * model.config.head_size
    attention = 3 * 4 * width * 16 * 32  # layers, score and sum, width of the heads, half the context, tokens
    assert counter.get_total_flops() in (total - attention, total + attention)


def test_norms_equal_pytorchs():
    x = torch.randn(3, 5, 24) * 4 + 2
    torch.testing.assert_close(LayerNorm(24)(x), torch.nn.LayerNorm(24)(x))
    torch.testing.assert_close(RMSNorm(24)(x), torch.nn.RMSNorm(24, eps=1e-5)(x))


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="17 tokens do not fit the context length of 16"):
        small_model(LLAMA_STYLE)(torch.zeros(1, 17, dtype=torch.long))


def test_a_tied_head_is_the_embedding():
    model = small_model(GPT2_STYLE)
    assert model.head.weight is model.token_embedding.weight


def test_zero_init_makes_every_block_the_identity():
    model = GPTModel(GPTConfig(vocab_size=61, d_model=32, num_heads=2, zero_init_residual=True))
    x = torch.randn(1, 4, 32)
    assert all(torch.equal(block(x, model.rotary(slice(0, 4))), x) for block in model.blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30}, "30 / 4 is not whole"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide"),
        ({"d_model": 12, "num_heads": 4}, "even number of dimensions"),
        ({"positions": "alibi", "rope_scaling": RopeScaling()}, "rope_scaling needs positions 'rope', got 'alibi'"),
        ({"attention_sinks": 2}, "needs model.sliding_window"),
        ({"logit_softcap": 0.0}, "logit_softcap must be above 0"),
        ({"qk_norm_weight": True}, "needs model.qk_norm"),
        ({"sliding_window": 0}, "sliding_window must be at least 1"),
    ],
)
def test_impossible_models_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{"vocab_size": 61, "num_heads": 4, "d_model": 32, **changes})


# --- what batching must not change ------------------------------------------------------------


@STYLES
def test_a_sequence_in_a_left_padded_batch_has_the_logits_it_has_alone(style):
    model = small_model(style)
    lengths = [4, 11, 7]
    texts = [torch.randint(61, (n,)) for n in lengths]
    padded = torch.zeros(3, 11, dtype=torch.long)
    for row, text in zip(padded, texts, strict=True):
        row[11 - len(text) :] = text
    positions = left_padded_positions(torch.tensor(lengths), 11)
    allowed = left_padding_mask(positions, 11, model.config.sliding_window, model.config.attention_sinks)
    with torch.no_grad():
        batched = model(padded, positions=positions, allowed=allowed)
        assert batched.isfinite().all()
        for logits, text in zip(batched, texts, strict=True):
            torch.testing.assert_close(logits[11 - len(text) :], model(text[None])[0], atol=2e-5, rtol=1e-4)


@STYLES
def test_rows_of_a_batch_do_not_see_one_another(style):
    model = small_model(style)
    ids = torch.randint(61, (4, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[2], model(ids[2:3])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("style", [LLAMA_STYLE, ALIBI_STYLE | {"sliding_window": None, "attention_sinks": 0}])
def test_packed_documents_have_the_logits_they_have_alone(style):
    """Relative positions do not depend on where in the window a document begins."""
    model = small_model(style)
    ids = torch.randint(61, (1, 12))
    with torch.no_grad():
        packed = model(ids, allowed=document_mask(torch.tensor([[0] * 5 + [1] * 7])))
        torch.testing.assert_close(packed[:, :5], model(ids[:, :5]), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(packed[:, 5:], model(ids[:, 5:]), atol=2e-5, rtol=1e-4)


@STYLES
def test_checkpointed_blocks_have_the_same_gradients(style):
    gradients = []
    for checkpoint_blocks in (False, True):
        torch.manual_seed(1)
        model = small_model(style, dropout=0.1).train()
        model.checkpoint_blocks = checkpoint_blocks
        torch.manual_seed(2)
        model(torch.arange(16)[None]).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


def test_logits_are_bounded_by_the_softcap():
    model = small_model(OWN_STYLE, logit_softcap=2.0)
    with torch.no_grad():
        model.head.weight.mul_(50)
        hidden = model.hidden_states(torch.arange(16)[None])
        torch.testing.assert_close(model.logits(hidden), 2 * torch.tanh(hidden @ model.head.weight.T / 2))
        assert 1.9 < model.logits(hidden).abs().max() <= 2.0


# --- positions --------------------------------------------------------------------------------


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = RotaryEmbedding(head_dim=16, context_length=64)
    q, k = torch.randn(16), torch.randn(16)

    def turn(vector: torch.Tensor, position: int) -> torch.Tensor:
        return rotary(slice(position, position + 1))(vector.view(1, 1, 1, 16)).flatten()

    def score(query_position: int, key_position: int) -> torch.Tensor:
        return turn(q, query_position) @ turn(k, key_position)

    torch.testing.assert_close(score(10, 3), score(57, 50), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(score(10, 3), score(10, 4))


def test_rotary_equals_multiplication_by_a_complex_number():
    rotary = RotaryEmbedding(head_dim=8, context_length=32, theta=100.0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float32)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    angles = torch.arange(7, 12)[:, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotary(slice(7, 12))(x), torch.cat([turned.real, turned.imag], -1), atol=1e-5, rtol=1e-5)


def test_each_row_may_have_positions_of_its_own():
    rotary = RotaryEmbedding(head_dim=8, context_length=32)
    x = torch.randn(2, 3, 4, 8)
    turned = rotary(torch.tensor([[0, 1, 2, 3], [9, 10, 11, 12]]))(x)
    torch.testing.assert_close(turned[0], rotary(slice(0, 4))(x)[0])
    torch.testing.assert_close(turned[1], rotary(slice(9, 13))(x)[1])


def test_sinusoids_are_those_of_the_equation():
    table = sinusoidal_table(50, 6)
    for position in (0, 1, 49):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_alibi_slopes_and_bias_are_those_of_the_paper():
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    transformers = pytest.importorskip("transformers")
    build = transformers.models.bloom.modeling_bloom.build_alibi_tensor
    for heads in (1, 2, 3, 6, 8, 12, 20):
        theirs = build(torch.ones(1, 10), heads, torch.float32).view(heads, 1, 10)  # slope · key position
        ours = AlibiBias(heads)(10, 10)
        scores = torch.randn(heads, 10, 10)
        torch.testing.assert_close((scores + ours).softmax(-1), (scores + theirs).softmax(-1))


def test_impossible_rope_scalings_are_refused():
    for wrong, message in (
        ({"kind": "ntk", "factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"kind": "yarn", "factor": 2.0}, "needs original_context_length"),
        ({"kind": "banana"}, "rope_scaling.kind must be one of linear, ntk, yarn, llama3; got 'banana'"),
        ({"kind": "llama3", "original_context_length": 8, "low_freq_factor": 4.0}, "above low_freq_factor"),
    ):
        with pytest.raises(ValueError, match=message):
            RopeScaling(**wrong)


# --- presets and cost -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 0.9e6), ("llama_30m", 30e6), ("llama_50m", 50e6), ("gpt2_124m", 124_439_808), ("gpt2_345m", 354_823_168)],
)
def test_presets_have_the_size_in_their_name(name, parameters):
    assert count_parameters(preset(name)).total == pytest.approx(parameters, rel=0.08 if parameters < 1e8 else 0)


def test_unknown_presets_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="no preset 'gpt5'; the choices are tiny, llama_30m"):
        preset("gpt5")


def test_transformer_lm_is_a_llama(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = TransformerLM(61, context_length=32, d_model=32, num_layers=2, num_heads=4, d_ff=64, rope_theta=500.0)
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    ids = torch.randint(61, (2, 32))
    torch.testing.assert_close(model.eval()(ids), theirs.eval()(ids).logits, atol=1e-5, rtol=1e-4)


def test_a_configuration_survives_json():
    config = GPTConfig(vocab_size=9, rope_scaling=RopeScaling("yarn", 4.0, 128), sliding_window=64, attention_sinks=2)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown model settings: n_layer"):
        GPTConfig.from_dict({"n_layer": 3})


@STYLES
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_traced_memory_is_what_a_real_forward_pass_keeps(style, precision, checkpoint_blocks):
    model = small_model(style, d_model=64).train()
    model.checkpoint_blocks = checkpoint_blocks
    real = measure_saved_bytes(model, torch.zeros(3, 16, dtype=torch.long), precision)
    assert saved_activation_bytes(model.config, 3, 16, precision, checkpoint_blocks) == real


@STYLES
def test_projections_of_one_input_share_its_low_precision_copy(style):
    model = small_model(style)
    block = model.blocks[0]
    seen: dict[str, tuple[torch.dtype, int]] = {}
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.__setitem__(name, (inputs[0].dtype, inputs[0].data_ptr()))
            )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randint(61, (2, 16)))
    first_layers = [name for name in seen if not name.endswith(("output", "down"))]
    assert {seen[name][0] for name in first_layers} == {torch.bfloat16}
    assert len({seen[name] for name in first_layers}) == 2  # what attention reads, and what the feed-forward reads


def test_training_and_inference_memory_are_those_of_tensors():
    model = small_model(LLAMA_STYLE).train()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 16, dtype=torch.long)).sum().backward()
    optimizer.step()
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    need = training_memory(model.config, model.num_parameters(), batch_size=1)
    assert (need.weights, need.gradients, need.optimizer) == (weights, weights, moments)
    assert need.total == need.weights + need.gradients + need.optimizer + need.activations
    held = inference_memory(model.config, model.num_parameters(), batch_size=3, precision="bfloat16")
    assert held.weights == weights // 2
    assert held.cache == 2 * 3 * 3 * 2 * 8 * 16 * 2  # k and v, layers, batch, kv_heads, head_dim, time, bytes


@pytest.mark.slow
def test_the_summary_command_explains_a_model_and_its_mistakes(capsys, tmp_path):
    assert main(["--preset", "tiny", "--num_layers", "2", "--batch-size", "2"]) == 0
    count = count_parameters(dataclasses.replace(PRESETS["tiny"], num_layers=2)).total
    assert f"{count:,}" in capsys.readouterr().out
    (tmp_path / "run.yaml").write_text("tokenizer: {vocab_size: 300}\nmodel: {d_model: 64, vocab_size: null}\n")
    assert main(["--config", str(tmp_path / "run.yaml")]) == 0
    assert f"{300 * 64:,}" in capsys.readouterr().out
    for arguments, message in (
        (["--preset", "huge"], "there is no preset 'huge'"),
        (["--config", str(tmp_path / "none.yaml")], "there is no file"),
        (["--d_model", "31", "--vocab_size", "9"], "31 / 4 is not whole"),
        (["--preset", "tiny", "--batch-size", "0"], "batch_size must be at least 1"),
        ([], "Give --preset, --config or --vocab_size"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err

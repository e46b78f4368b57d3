"""Stage 7: weights in 8 and 4 bits: their error and size, saving, loading and serving, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.processors import needs_avx512, run_without_amx, sums_by_amx
from torch import nn

from optimization.engine.engine import Engine
from optimization.model_loading import inference_copy, load_for_inference
from optimization.quantize_command import main
from optimization.weights.gptq import gptq_levels
from optimization.weights.packed_linear import PackedLinear, packing_is_available
from optimization.weights.packed_quantized import kernel_is_right, pack_quantized_layer
from optimization.weights.quantization import (
    Int4Linear,
    Int8Linear,
    W8A8Linear,
    from_levels,
    group_scales,
    quantize_rows,
    to_levels,
)
from optimization.weights.quantized_model import count_bytes, count_weights, quantize_model, save_quantized
from tokenizer.character_tokenizer import CharacterTokenizer
from training.checkpoints.checkpoint import CheckpointError, LoadedModel
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

METHODS = ["int8", "w8a8", "int4", "gptq"]
TEXT = "Pack my box with five dozen liquor jugs; the quick brown fox jumps over the lazy dog. " * 6


@pytest.fixture(scope="module")
def learned() -> LoadedModel:
    """A small model that has learned a text, tied and with biases."""
    torch.manual_seed(0)
    tokenizer = CharacterTokenizer("".join(sorted(set(TEXT))))
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=64, num_layers=2, num_heads=2, d_model=64, bias=True
    )
    model = GPTModel(config)
    ids = torch.tensor(tokenizer.encode(TEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        starts = torch.randint(len(ids) - 65, (8,), generator=torch.Generator().manual_seed(step))
        window = torch.stack([ids[start : start + 65] for start in starts])
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LoadedModel(model.eval(), tokenizer, Path("learned"))


def perplexity(model: GPTModel, tokenizer) -> float:
    ids = torch.tensor(tokenizer.encode(TEXT))[:64]
    with torch.no_grad():
        return math.exp(F.cross_entropy(model(ids[None, :-1])[0].float(), ids[1:]))


def test_eight_bits_are_off_by_half_a_step_at_most():
    x = torch.randn(20, 64) * torch.logspace(-3, 3, 20)[:, None]
    q, scale = quantize_rows(x)
    assert ((q * scale - x).abs() <= scale / 2 * 1.001).all()
    assert q.abs().amax(dim=1).eq(127).all()  # the whole range is used
    assert quantize_rows(torch.zeros(1, 4))[0].tolist() == [[0, 0, 0, 0]]


def test_four_bits_are_off_by_half_a_step_of_their_group():
    groups = torch.randn(30, 64) * 0.1 + 0.05
    scale, zero = group_scales(groups)
    q = to_levels(groups, scale, zero)
    assert q.amin() == 0
    assert q.amax() == 15
    # Half a step, plus the error at the ends of the range from rounding the scale to bfloat16.
    assert ((from_levels(q, scale, zero) - groups).abs() <= 0.5 * scale + 8 * scale * 2**-7).all()


def test_int4_survives_being_packed_two_a_byte():
    layer = Int4Linear(3, 64, bias=False)
    levels = torch.randint(16, (3, 64))
    layer.store(levels, torch.full((3, 1), 0.5), torch.full((3, 1), 2.0), None)
    assert torch.equal(layer.levels(), levels.int())
    assert torch.equal(layer.dequantize(), (levels - 8) * 0.5 + 2.0)
    assert layer.weight.numel() == 3 * 32


@pytest.mark.parametrize("kind", [Int8Linear, W8A8Linear, Int4Linear])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_packed_kernel_gives_what_the_plain_layer_gives(kind, rows, dtype):
    linear = nn.Linear(128, 48)
    layer = kind(48, 128, bias=True)
    layer.quantize(linear)
    x = torch.randn(2, rows, 128).to(dtype)
    packed = pack_quantized_layer(layer)
    assert (packed is not layer) == kernel_is_right(kind)  # some processors have no right kernel for W8A8
    # The mixed-type kernels take activations in bfloat16; integer sums are exact.
    tolerance = 1e-5 if kind is W8A8Linear and dtype == torch.float32 else 0.02
    torch.testing.assert_close(packed(x), layer(x), atol=tolerance, rtol=tolerance)
    error = (layer(x).float() - linear(x.float())).norm() / linear(x.float()).norm()
    assert error < (0.15 if kind is Int4Linear else 0.02)


@pytest.mark.slow
@needs_avx512
@pytest.mark.parametrize("kind", [None, Int8Linear, W8A8Linear, Int4Linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_comes_out_the_same_to_the_last_bit_whatever_else_is_in_the_batch(kind, dtype, request):
    if sums_by_amx(dtype):
        return run_without_amx(request)
    for features_in, features_out in ((768, 3072), (3072, 768), (64, 192)):
        linear = nn.Linear(features_in, features_out).to(dtype)
        if kind is None:
            packed: nn.Module = PackedLinear(linear)
        else:
            layer = kind(features_out, features_in, bias=True)
            layer.quantize(linear)
            packed = pack_quantized_layer(layer)
        x = torch.randn(130, features_in).to(dtype)
        with torch.no_grad():
            together = packed(x)
            for start, stop in ((0, 1), (7, 8), (0, 2), (5, 8), (0, 4), (3, 8), (0, 16), (9, 26), (30, 130)):
                assert torch.equal(packed(x[start:stop]), together[start:stop]), (start, stop)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_packed_plain_layers_are_the_plain_layers(dtype, rows):
    if not packing_is_available(torch.device("cpu"), dtype):
        pytest.skip("this build of PyTorch has no oneDNN")
    linear = nn.Linear(96, 40).to(dtype)
    x = torch.randn(rows, 96, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=tolerance, rtol=tolerance)


def test_gptq_changes_outputs_less_than_rounding_does():
    torch.manual_seed(1)
    # Inputs that occur together can compensate for each other: 32 causes produce 128 numbers.
    inputs = torch.randn(2000, 32) @ torch.randn(32, 128) + 0.1 * torch.randn(2000, 128)
    linear = nn.Linear(128, 64, bias=False)
    rounded, calibrated = Int4Linear(64, 128, False), Int4Linear(64, 128, False)
    rounded.quantize(linear)
    calibrated.store(*gptq_levels(linear.weight, inputs[:1000].T @ inputs[:1000]), None)
    fresh = inputs[1000:]  # not the inputs of the calibration
    with torch.no_grad():
        errors = [(layer(fresh) - linear(fresh)).norm().item() for layer in (rounded, calibrated)]
        off = [(layer.dequantize() - linear.weight).norm().item() for layer in (rounded, calibrated)]
    assert errors[1] < 0.6 * errors[0]
    assert off[1] > off[0]  # although the weights themselves have a larger error


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_model_is_small_and_nearly_as_good(method, learned):
    model, tokenizer = learned.model, learned.tokenizer
    ids = torch.tensor(tokenizer.encode(TEXT))[:256].view(4, 64)
    quantized = quantize_model(model, method, ids)
    assert count_weights(quantized) == count_weights(model) == model.num_parameters()
    assert count_bytes(quantized) < (0.30 if method in ("int8", "w8a8") else 0.20) * count_bytes(model)
    allowed = {"int8": 1.01, "w8a8": 1.01, "int4": 1.10, "gptq": 1.05}[method]
    assert perplexity(quantized, tokenizer) < allowed * perplexity(model, tokenizer)
    packed = inference_copy(quantized, torch.float32)
    assert perplexity(packed, tokenizer) == pytest.approx(perplexity(quantized, tokenizer), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_models_are_saved_loaded_and_served(method, tied, learned, tmp_path):
    import yaml

    config = (
        learned.model.config
        if tied
        else GPTConfig(
            vocab_size=learned.tokenizer.vocab_size, context_length=64, num_layers=1, d_model=64, tie_embeddings=False
        )
    )
    model = learned.model if tied else GPTModel(config).eval()
    source = LoadedModel(model, learned.tokenizer, tmp_path / "source")
    source.folder.mkdir()
    (source.folder / "config.yaml").write_text(yaml.safe_dump({"model": config.to_dict()}))
    quantized = quantize_model(model, method, torch.randint(config.vocab_size, (4, 32)))
    save_quantized(tmp_path / "small", source, quantized, method)
    loaded = load_for_inference(tmp_path / "small")
    for name, tensor in quantized.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    if tied:
        assert loaded.model.head.weight.data_ptr() == loaded.model.token_embedding.weight.data_ptr()
    parameters = SamplingParameters(max_tokens=30, temperature=0.0)
    engine = Engine.from_checkpoint(tmp_path / "small", "cpu")
    placement = Placement(torch.device("cpu"), torch.float32)
    expected = "".join(Engine(quantized, learned.tokenizer, placement).generate("the quick", parameters))
    assert "".join(engine.generate("the quick", parameters)) == expected
    assert engine.num_parameters == model.num_parameters()
    if tied:
        assert expected.startswith(" brown fox jumps")


def test_a_foreign_or_damaged_file_is_refused_in_one_line(learned, tmp_path):
    import yaml

    source = LoadedModel(learned.model, learned.tokenizer, tmp_path / "source")
    source.folder.mkdir()
    (source.folder / "config.yaml").write_text(yaml.safe_dump({"model": learned.model.config.to_dict()}))
    quantized = quantize_model(learned.model, "int8")

    def changed(name: str, **changes) -> Path:
        from training.checkpoints.manifest import write_manifest

        folder = tmp_path / name
        save_quantized(folder, source, quantized, "int8")
        description = json.loads((folder / "quantization.json").read_text())
        (folder / "quantization.json").write_text(json.dumps(description | changes))
        (folder / "manifest.json").unlink()
        write_manifest(folder)
        return folder

    with pytest.raises(CheckpointError, match=r"layout 'awq-v9'.*quantize the model again") as error:
        load_for_inference(changed("foreign", layout="awq-v9"))
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"does not fit .*Missing key"):
        load_for_inference(changed("other", method="int4"))
    save_quantized(tmp_path / "good", source, quantized, "int8")
    (tmp_path / "good" / "quantization.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"damaged or was changed"):
        load_for_inference(tmp_path / "good")
    with pytest.raises(ValueError, match="exists already"):
        save_quantized(tmp_path / "good", source, quantized, "int8")


@pytest.mark.parametrize(
    ("method", "name", "change", "message"),
    [
        ("int8", "head.scale", lambda t: t.fill_(float("nan")), "are nan or infinite"),
        ("int8", "blocks.0.attention.query.weight", lambda t: t.float(), "has the type torch.float32, and this layer"),
        ("int8", "blocks.0.attention.query.weight", lambda t: t > 0, "has the type torch.bool"),
        ("int8", "blocks.0.attention.query.bias", lambda t: t.to(torch.int8), "has the type int8; a weight is"),
        ("w8a8", "final_norm.weight", lambda t: t.fill_(float("inf")), "are nan or infinite"),
        ("int4", "blocks.1.feed_forward.down.zero", lambda t: t.fill_(float("inf")), "are nan or infinite"),
        ("int4", "blocks.1.feed_forward.down.weight", lambda t: t.to(torch.int8), "has the type torch.int8"),
    ],
)
def test_a_quantized_file_with_other_numbers_is_refused(method, name, change, message, learned, tmp_path):
    import yaml
    from safetensors.torch import load_file, save_file

    from training.checkpoints.manifest import write_manifest

    source, folder = LoadedModel(learned.model, learned.tokenizer, tmp_path), tmp_path / "small"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": learned.model.config.to_dict()}))
    save_quantized(folder, source, quantize_model(learned.model, method), method)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        load_for_inference(folder)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["int4", "gptq"])
def test_weights_too_large_for_a_method_are_named(method):
    model = GPTModel(GPTConfig(vocab_size=10, context_length=8, num_layers=1, num_heads=2, d_model=64))
    with torch.no_grad():
        model.blocks[0].attention.query.weight[3, :2] = torch.tensor([3e38, -3e38])
    with pytest.raises(ValueError, match=r"got nan to nan|not finite"):
        quantize_model(model, method, torch.randint(10, (2, 8)))


def test_impossible_quantizations_are_named():
    model = GPTModel(GPTConfig(vocab_size=10, context_length=8, num_layers=1, num_heads=2, d_model=48))
    with pytest.raises(ValueError, match="unknown method 'int3'; the choices are int8, w8a8, int4, gptq"):
        quantize_model(model, "int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows of 48: use int8 or w8a8"):
        quantize_model(model, "int4")
    with pytest.raises(ValueError, match="gptq needs calibration text"):
        quantize_model(model, "gptq")


def test_the_command_writes_a_model_that_generates(trained_run: Path, text_file: Path, tmp_path, capsys):
    from optimization.generate_command import main as generate

    output = tmp_path / "small"
    arguments = [
        "--checkpoint",
        str(trained_run),
        "--method",
        "gptq",
        "--output",
        str(output),
        "--text",
        str(text_file),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "perplexity" in printed
    assert generate(["--checkpoint", str(output), "--prompt", "Return", "--max-tokens", "5", "--temperature", "0"]) == 0
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "no/such/file"], "no/such/file"),
        (["--checkpoint", "no/such/run"], "there is no checkpoint at"),
        (["--tokens", "0"], "--tokens must be at least 2"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, trained_run: Path, text_file: Path, tmp_path, capsys):
    defaults = ["--checkpoint", str(trained_run), "--text", str(text_file), "--output", str(tmp_path / "x")]
    assert main([*defaults, *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error.replace("\\", "/")
    assert len(error.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_errors_are_those_of_bitsandbytes(bits):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(256, 128, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    x = torch.randn(64, 256)
    if bits == 8:
        theirs = bitsandbytes.nn.Linear8bitLt(256, 128, bias=False, has_fp16_weights=False)
        theirs.load_state_dict({"weight": linear.weight.detach().clone()})
        ours = W8A8Linear(128, 256, bias=False)
    else:
        theirs = bitsandbytes.nn.Linear4bit(256, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        theirs.load_state_dict({"weight": linear.weight.detach().clone()}, strict=False)
        ours = Int4Linear(128, 256, bias=False)
    ours.quantize(linear)
    with torch.no_grad():
        expected = linear(x)
        errors = [
            (layer(x.bfloat16()).float() - expected).norm() / expected.norm() for layer in (ours, theirs.to("cpu"))
        ]
    # Theirs does not round activations on a CPU, but W8A8 rounds both: up to sqrt(2) of its error.
    assert errors[0] < (1.5 if bits == 8 else 1.1) * errors[1]


def test_a_model_that_is_surely_wrong_has_an_infinite_perplexity():
    from optimization.quantize_command import _perplexity

    model = GPTModel(GPTConfig(vocab_size=20, context_length=8, num_layers=1, num_heads=2, d_model=8)).eval()
    with torch.no_grad():
        model.head.weight.mul_(1e5)
    assert _perplexity(model, torch.randint(20, (3, 9))) == math.inf

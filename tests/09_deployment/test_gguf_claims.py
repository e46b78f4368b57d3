"""Stage 9: what a GGUF file claims is obeyed or refused by name, and what could not be read again is not written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.serving import tiny_model, tiny_tokenizer

from deployment.export.gguf_file import export_gguf
from deployment.export.huggingface import export_huggingface
from deployment.export_command import main as export_command
from finetuning.gguf_base import load_gguf_base
from finetuning.import_weights_command import main as import_weights
from finetuning.imported_models import checkpoint_of
from groundwork.user_errors import UserError
from tokenizer.interface import TokenizerError
from transformer.gguf_reader import load_gguf
from transformer.pretrained_family import PretrainedError

gguf = pytest.importorskip("gguf")
KIND = gguf.GGUFValueType
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return export_gguf(tiny_model(TOKENIZER.vocab_size), TOKENIZER, None, tmp_path / "m.gguf", "m", "f32")


def rewritten(
    path: Path,
    keys: Mapping[str, tuple[Any, ...]] | None = None,
    tensors: Mapping[str, Callable[[Any], Any]] | None = None,
    big_endian: bool = False,
) -> Path:
    """A copy with other values of some keys, each with its `GGUFValueType`, and other numbers in some tensors."""
    reader, keys = gguf.GGUFReader(path), dict(keys or {})
    copy = path.with_name("copy.gguf")
    order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(copy, reader.fields["general.architecture"].contents(), endianess=order)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture" and name not in keys:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for name, value in keys.items():
        writer.add_key_value(name, *value)
    for tensor in reader.tensors:
        array = np.array(tensor.data)
        writer.add_tensor(tensor.name, (tensors or {}).get(tensor.name, lambda same: same)(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy


def test_another_byte_order_is_refused_with_the_way_out(path: Path):
    with pytest.raises(PretrainedError, match="another byte order than this machine's: convert it first"):
        load_gguf(rewritten(path, big_endian=True))


@pytest.mark.parametrize("key", ["rope.dimension_count", "attention.value_length"])
def test_heads_that_are_used_in_part_are_refused_by_name(path: Path, key: str):
    name = f"{gguf.GGUFReader(path).fields['general.architecture'].contents()}.{key}"
    with pytest.raises(PretrainedError, match=rf"{key} is 4; only \d+ is supported"):
        load_gguf(rewritten(path, {name: (4, KIND.UINT32)}))


def test_a_context_that_no_memory_holds_is_refused_before_it_is_begun(path: Path):
    name = f"{gguf.GGUFReader(path).fields['general.architecture'].contents()}.context_length"
    with pytest.raises(PretrainedError, match="the table of positions for a context of 4,294,967,295 tokens needs"):
        load_gguf(rewritten(path, {name: (2**32 - 1, KIND.UINT32)}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bos_token_id", ("x", KIND.STRING), "'x' is not the id of one of the"),
        ("eos_token_id", (True, KIND.BOOL), "True is not the id"),
        ("eos_token_id", (10**6, KIND.UINT32), "1000000 is not the id"),
        ("eos_token_id", ([2, 2], KIND.ARRAY, KIND.UINT32), r"\[2, 2\] is not the id"),
        ("merges", (["ab"], KIND.ARRAY, KIND.STRING), "'ab' does not name two tokens"),
        ("merges", ([1, 2], KIND.ARRAY, KIND.UINT32), "merges are not texts"),
        ("merges", (7, KIND.UINT32), "merges are not texts"),
        ("tokens", (7, KIND.UINT32), "tokens are not texts"),
        ("token_type", (7, KIND.UINT32), "types are not numbers"),
        ("pre", (["a", "b"], KIND.ARRAY, KIND.STRING), "pre are not texts"),
    ],
)
def test_a_tokenizer_of_wrong_types_is_one_line(path: Path, key: str, value: tuple[Any, ...], message: str):
    with pytest.raises(TokenizerError, match=message) as caught:
        load_gguf_base(rewritten(path, {f"tokenizer.ggml.{key}": value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("none", [(-1, KIND.INT32), (2**32 - 1, KIND.UINT32)])
def test_minus_one_says_that_there_is_no_such_token(path: Path, none: tuple[Any, ...]):
    keys = {f"tokenizer.ggml.{name}_token_id": none for name in ("bos", "eos", "padding")}
    tokenizer = load_gguf_base(rewritten(path, keys))[1]
    assert tokenizer.begin_ids == [] and TOKENIZER.vocab_size - 1 not in tokenizer.end_ids


def test_weights_that_are_no_numbers_are_not_imported(path: Path, tmp_path: Path, capsys):
    def damage(array: Any) -> Any:
        array.flat[3] = math.nan
        return array

    damaged = rewritten(path, tensors={"blk.0.ffn_down.weight": damage})
    assert import_weights([str(damaged), "--output", str(tmp_path / "run")]) == 1
    assert "are not all finite" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_second_import_is_made_again_or_refused_if_anything_is_different(
    path: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert import_weights(["m.gguf"]) == 0
    assert import_weights(["m.gguf"]) == 0 and "is there already" in capsys.readouterr().out
    assert import_weights(["m.gguf", "--context-length", "32"]) == 1
    export_gguf(tiny_model(TOKENIZER.vocab_size, seed=1), TOKENIZER, None, path, "m", "f32")
    assert import_weights(["m.gguf"]) == 1
    assert capsys.readouterr().err.count("checkpoints/m holds a run already") == 2


def test_models_of_one_name_in_folders_that_cannot_be_written_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    folders = set()
    for seed, name in enumerate(("a/m.gguf", "b/m.gguf", "a/m.1.gguf")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        export_gguf(tiny_model(TOKENIZER.vocab_size, seed=seed), TOKENIZER, None, tmp_path / name, "m", "f32")
        folders.add(checkpoint_of(name).parent)
    assert len(folders) == 3


def test_the_best_checkpoint_of_a_run_beside_us_is_not_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from finetuning.base_model import is_foreign

    monkeypatch.chdir(tmp_path)
    assert is_foreign("run/best")
    (tmp_path / "run").mkdir()
    assert not is_foreign("run/best")


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_number_that_float16_does_not_have_is_refused(to: str, tmp_path: Path):
    model = tiny_model(TOKENIZER.vocab_size)
    with torch.no_grad():
        model.blocks[0].attention.query.weight[0, 0] = 1e5
    with pytest.raises(UserError, match=r"has the number 100000, and float16 ends at 65504: choose bf16 or f32"):
        if to == "gguf":
            export_gguf(model, TOKENIZER, None, tmp_path / "m.gguf", "m", "f16")
        else:
            export_huggingface(model, TOKENIZER, None, tmp_path / "hf", "m", torch.float16)
    assert not (tmp_path / "m.gguf").exists() and not (tmp_path / "hf").exists()


def test_a_gpt2_with_heads_of_another_size_is_refused(tmp_path: Path):
    parts = {"norm": "layernorm", "bias": True, "feed_forward": "gelu_tanh", "positions": "learned", "head_dim": 24}
    with pytest.raises(UserError, match="head_dim 24"):
        export_gguf(tiny_model(TOKENIZER.vocab_size, **parts), TOKENIZER, None, tmp_path / "m.gguf", "m", "f32")


def test_a_merged_model_is_not_written_beside_its_adapter(path: Path, tmp_path: Path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    arguments = ["--checkpoint", str(path), "--to", "hf", "--output", str(tmp_path / "adapter")]
    assert export_command(arguments) == 1
    assert "holds an adapter, which other programs would add to the model again" in capsys.readouterr().err

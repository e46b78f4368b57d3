"""Export to GGUF, one file that llama.cpp and Ollama run: model, tokenizer and chat template together.

`transformer.gguf_layout` says where everything is. llama.cpp's `llama` turns neighbouring dimensions (0, 1), (2, 3), …,
but this project and Hugging Face turn (0, d/2), (1, d/2 + 1), …. So the rows of queries and keys are put in another
order. Other architectures have several matrices in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.chat_format import ChatFormat
from groundwork.files import replacing
from groundwork.tensor_files import require_range
from groundwork.user_errors import UserError
from tokenizer.gguf_parts import gguf_parts
from tokenizer.gguf_vocabulary import UNKNOWN, GGUFVocabulary
from tokenizer.interface import Tokenizer, TokenizerError
from transformer.gguf_families import GGUFFamily, gguf_family_of_model
from transformer.gguf_layout import ROPE_FREQUENCIES, as_stored, rope_frequencies, stored_tensors, write_sizes
from transformer.gpt_model import GPTModel
from transformer.pretrained_family import PretrainedError, unscaled_norm

# Types of the matrices; the number is llama.cpp's for a file of mostly this type.
TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}


def export_gguf(
    model: GPTModel, tokenizer: Tokenizer, template: ChatFormat | None, path: Path, name: str, kind: str = "f16"
) -> Path:
    """Write a GGUF file.

    Args:
        model: a model with the parts of one of `transformer.gguf_families`.
        tokenizer: one that llama.cpp has; see `tokenizer.gguf_parts`.
        template: chat template of a model that was taught to chat.
        path: path of the file.
        name: name of the model.
        kind: `f32`, `f16`, `bf16`, or `q8_0` and `q4_0`: 8 or 4 bits a weight, and a float16 scale for each 32 weights.

    Raises:
        UserError: llama.cpp does not have a part of the model or the tokenizer.
    """
    import gguf

    if kind not in TYPES:
        raise UserError(f"the type must be one of {', '.join(TYPES)}, got {kind!r}")
    config = model.config
    try:
        family = gguf_family_of_model(config)
    except PretrainedError as error:
        raise UserError(
            f"GGUF cannot hold this model: {error}. onnx and torchscript can hold it: they record the computation itself. "
            "Or train with parts that a class has, such as those in configs/small_gpt.yaml"
        ) from None
    try:
        vocabulary = gguf_parts(tokenizer, model.token_embedding.num_embeddings)
    except TokenizerError as error:
        raise UserError(f"GGUF cannot hold this model's tokenizer: {error}") from None
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, family.architecture)
        writer.add_name(name)
        writer.add_file_type(TYPES[kind])
        for key, value in write_sizes(family, config).items():
            _add_value(writer, f"{family.architecture}.{key}", value)
        _add_vocabulary(writer, vocabulary)
        _add_special_tokens(writer, tokenizer, template)
        for tensor_name, tensor in _tensors(model, family):
            _add_tensor(writer, tensor_name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _add_value(writer: Any, key: str, value: bool | int | float | str) -> None:
    """Write a key with the type that llama.cpp reads it by."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _add_vocabulary(writer: Any, vocabulary: GGUFVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":  # llama.cpp's name for byte-level BPE
        writer.add_token_merges(vocabulary.merges)
        return
    writer.add_token_scores(vocabulary.scores)
    writer.add_add_space_prefix(vocabulary.adds_space)
    if UNKNOWN in vocabulary.types:
        writer.add_unk_token_id(vocabulary.types.index(UNKNOWN))


def _add_special_tokens(writer: Any, tokenizer: Tokenizer, template: ChatFormat | None) -> None:
    named = tokenizer.id_of(tokenizer.files.token("bos_token"))
    begin = tokenizer.end_of_text_id if named is None else named
    writer.add_add_bos_token(bool(tokenizer.begin_ids))
    if begin is not None:
        writer.add_bos_token_id(begin)
    if template is not None or tokenizer.end_ids:
        writer.add_eos_token_id(tokenizer.end_ids[0] if template is None else template.end_id(tokenizer))
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    if template is not None:
        writer.add_eot_token_id(template.end_id(tokenizer))
        writer.add_chat_template(template.to_jinja())


def _tensors(model: GPTModel, family: GGUFFamily) -> Iterator[tuple[str, Tensor]]:
    """Tensors with llama.cpp's names, in its arrangement, one at a time."""
    config, state = model.config, model.state_dict()
    if (frequencies := rope_frequencies(config)) is not None:
        yield ROPE_FREQUENCIES, frequencies
    pieces: dict[str, list[Tensor]] = {}
    for name, where in stored_tensors(family, config).items():
        tensor = state[name] if name in state else unscaled_norm(config, name)
        parts = pieces.setdefault(where.name, [])
        parts.append(as_stored(family, config, name, tensor))
        if where.piece is None or len(parts) == len(where.sizes):
            yield where.name, where.join_rows(parts)


def _add_tensor(writer: Any, name: str, tensor: Tensor, kind: str) -> None:
    import gguf

    array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    # Vectors are few and sensitive to rounding, and positions are added to exact numbers. Both stay in float32.
    if kind == "f32" or array.ndim == 1 or name.startswith("position_embd"):
        writer.add_tensor(name, array)
    elif kind == "bf16" or (kind != "f16" and array.shape[-1] % 32 == 0):
        stored = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)
    else:
        require_range(name, tensor, torch.float16)
        writer.add_tensor(name, array.astype(np.float16))

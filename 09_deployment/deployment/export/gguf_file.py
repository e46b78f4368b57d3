"""Export to GGUF, one file that llama.cpp and Ollama run: model, tokenizer and chat template together.

The names of the tensors are those of llama.cpp. Two things have to be rearranged. llama.cpp's `llama` turns
neighbouring dimensions (0, 1), (2, 3), …, but this project and Hugging Face turn (0, d/2), (1, d/2 + 1), …. So the
rows of queries and keys are put in llama.cpp's order. And `gpt2` has queries, keys and values in one matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployment.export.huggingface import exportable_family, require_bpe
from finetuning.data.chat_format import ChatFormat
from groundwork.files import replacing
from groundwork.user_errors import UserError, require_package
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import Tokenizer
from tokenizer.interop import to_printable
from tokenizer.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

TYPES = ("f32", "f16", "q8_0")
# llama.cpp has these patterns built in, under these names.
PRE_TOKENIZERS = {GPT2_PATTERN: "gpt-2", CL100K_PATTERN: "llama-bpe", O200K_PATTERN: "gpt-4o"}
BLOCK = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
OUTSIDE = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "final_norm": "output_norm",
    "head": "output",
}


def export_gguf(
    model: GPTModel, tokenizer: Tokenizer, template: ChatFormat | None, path: Path, name: str, kind: str = "f16"
) -> Path:
    """Write a GGUF file.

    Args:
        model: a model with the parts of GPT-2, Llama or Qwen3.
        tokenizer: byte-level BPE with a pattern that llama.cpp knows.
        template: chat template of a model that was taught to chat.
        path: path of the file.
        name: name of the model.
        kind: `f32`, `f16`, or `q8_0`, which is 8 bits per weight and a float16 scale for each 32 weights.

    Raises:
        UserError: llama.cpp does not have a part of the model or the tokenizer, or `gguf` is missing.
    """
    require_package("gguf", "export", "an export to GGUF")
    import gguf

    if kind not in TYPES:
        raise UserError(f"the type must be one of {', '.join(TYPES)}, got {kind!r}")
    architecture = exportable_family(model, "GGUF").model_type
    config = _checked(model.config, architecture)
    bpe = require_bpe(tokenizer, "GGUF")
    if bpe.pattern not in PRE_TOKENIZERS:
        raise UserError("llama.cpp does not know the tokenizer's pattern; it knows GPT-2's, GPT-4's and GPT-4o's")
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        writer.add_name(name)
        _add_sizes(writer, config, architecture)
        types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
        writer.add_file_type(types.get(kind, gguf.LlamaFileType.MOSTLY_Q8_0))
        _add_tokenizer(writer, bpe, template, model.token_embedding.num_embeddings)
        for tensor_name, tensor in _tensors(model, architecture):
            _add_tensor(writer, tensor_name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _checked(config: GPTConfig, architecture: str) -> GPTConfig:
    if config.rope_scaling is not None and config.rope_scaling.kind not in ("linear", "ntk"):
        raise UserError(
            f"this GGUF export does not write rope_scaling {config.rope_scaling.kind!r}; "
            "export to hf and use llama.cpp's convert_hf_to_gguf.py"
        )
    if config.bias and architecture != "gpt2":
        raise UserError("this GGUF export writes biases for GPT-2 only; train with bias: false, or export to hf")
    if architecture == "gpt2" and config.feed_forward != "gelu_tanh":
        raise UserError(f"llama.cpp's GPT-2 computes gelu_tanh, the model {config.feed_forward!r}")
    return config


def _add_sizes(writer: Any, config: GPTConfig, architecture: str) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.num_heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_size)
    theta, scaling = config.rope_theta, config.rope_scaling
    if scaling is not None and scaling.kind == "ntk":  # a larger base has the same effect
        theta *= scaling.factor ** (config.head_size / (config.head_size - 2))
    writer.add_rope_freq_base(theta)
    if scaling is not None and scaling.kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)


def _add_tokenizer(writer: Any, tokenizer: BPETokenizer, template: ChatFormat | None, rows: int) -> None:
    import gguf

    special = {index: text for text, index in tokenizer.added_tokens.ids.items()}
    tokens, types = list[str](), list[int]()
    ordinary = set(tokenizer.ids) - special.keys()
    for index in range(rows):
        if index in special:
            tokens.append(special[index])
            is_special = special[index] in tokenizer.special_tokens
            types.append(gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED)
        elif index in ordinary:
            tokens.append(to_printable(tokenizer.decode_bytes([index])))
            types.append(gguf.TokenType.NORMAL)
        else:  # a row of the model without a token
            tokens.append(f"[UNUSED{index}]")
            types.append(gguf.TokenType.UNUSED)
    printable = [to_printable(token) for token in tokenizer.tokens]
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(PRE_TOKENIZERS[tokenizer.pattern])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{printable[left]} {printable[right]}" for left, right in tokenizer.merges])
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


def _tensors(model: GPTModel, architecture: str) -> list[tuple[str, Tensor]]:
    """Tensors with llama.cpp's names, in its arrangement."""
    config, out = model.config, list[tuple[str, Tensor]]()
    state = model.state_dict()
    if config.tie_embeddings:
        del state["head.weight"]  # llama.cpp uses the embedding if there is no output matrix
    if config.qk_norm and not config.qk_norm_weight:
        for layer in range(config.num_layers):
            for which in ("query", "key"):
                state[f"blocks.{layer}.attention.{which}_norm.weight"] = torch.ones(config.head_size)
    for name, stored in state.items():
        tensor = stored
        module, _, kind = name.rpartition(".")
        if not module.startswith("blocks."):
            out.append((f"{OUTSIDE[module]}.{kind}", tensor))
            continue
        _, block, part = module.split(".", 2)
        if architecture == "gpt2" and part in ("attention.key", "attention.value"):
            continue
        theirs = BLOCK[part]
        if architecture == "gpt2" and part == "attention.query":
            tensor = torch.cat([state[f"blocks.{block}.attention.{p}.{kind}"] for p in ("query", "key", "value")])
            theirs = "attn_qkv"
        elif architecture == "llama" and part in ("attention.query", "attention.key"):
            tensor = _neighbouring_pairs(tensor, config.head_size)
        out.append((f"blk.{block}.{theirs}.{kind}", tensor))
    return out


def _neighbouring_pairs(weight: Tensor, head_size: int) -> Tensor:
    """Move the rows of each head from pairs (i, i + d/2) to pairs (2i, 2i + 1)."""
    heads = weight.view(-1, 2, head_size // 2, weight.shape[-1])  # (heads, halves, d/2, in)
    return heads.transpose(1, 2).reshape(weight.shape)


def _add_tensor(writer: Any, name: str, tensor: Tensor, kind: str) -> None:
    import gguf

    array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    # Vectors are few and sensitive to rounding, and positions are added to exact numbers. Both stay in float32.
    if kind == "f32" or array.ndim == 1 or name.startswith("position_embd"):
        writer.add_tensor(name, array)
    elif kind == "q8_0" and array.shape[-1] % 32 == 0:
        quantized = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, array.astype(np.float16))

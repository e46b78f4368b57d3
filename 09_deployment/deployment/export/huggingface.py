"""Export to a Hugging Face folder. transformers, vLLM, peft and llama.cpp's converter can read it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from finetuning.data.chat_format import ChatFormat, ChatTemplate
from groundwork.files import read_json, write_atomically
from groundwork.tensor_files import require_range
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.huggingface_files import save_huggingface
from tokenizer.interface import Tokenizer
from tokenizer.pipeline.pipeline_tokenizer import PipelineTokenizer
from transformer.gpt_model import GPTModel
from transformer.pretrained import config_content, family_of_model, save_pretrained
from transformer.pretrained_family import Family, PretrainedError

TRAINING_TEMPLATE = "chat_template_training.jinja"  # with tags that only transformers reads


def exportable_family(model: GPTModel, where: str) -> Family:
    """The Hugging Face class that has the parts of a model.

    Args:
        model: any model.
        where: name of the format, for the message.

    Raises:
        UserError: no class has them; the message says why, and which formats are left.
    """
    try:
        return family_of_model(model.config)
    except PretrainedError as error:
        raise UserError(
            f"{where} cannot hold this model: {error}. onnx and torchscript can hold it: they record the "
            "computation itself. Or train with parts that a class has, such as those in configs/small_gpt.yaml"
        ) from None


def export_huggingface(
    model: GPTModel,
    tokenizer: Tokenizer,
    template: ChatFormat | None,
    folder: Path,
    name: str,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write configuration, weights, tokenizer, chat template and a model card.

    Args:
        model: a model with parts that a Hugging Face class has.
        tokenizer: byte-level BPE, or one that was read from a `tokenizer.json`.
        template: chat template of a model that was taught to chat.
        folder: where to write.
        name: name of the model, for the card.
        dtype: type of the stored weights.

    Raises:
        UserError: no class has the model's parts, or the tokenizer is of another kind.
    """
    family = exportable_family(model, "A Hugging Face folder")
    if not isinstance(tokenizer, BPETokenizer | PipelineTokenizer):
        raise UserError(
            f"A Hugging Face folder needs a byte-level BPE tokenizer, and this model's is of type {tokenizer.type_name!r}"
        )
    for name_of_tensor, tensor in model.state_dict().items():
        require_range(name_of_tensor, tensor, dtype)
    save_pretrained(model, folder, dtype)
    _write_tokenizer(model, tokenizer, template, folder)
    write_atomically(
        folder / "README.md",
        _model_card(model, family, name, template is not None, (folder / TRAINING_TEMPLATE).exists()),
    )
    return folder


def write_companions(model: GPTModel, tokenizer: Tokenizer, template: ChatFormat | None, folder: Path) -> None:
    """Write what belongs to a graph beside it: `config.json`, the tokenizer and its chat template, how to generate.

    They are Hugging Face's files where its format can hold them. Otherwise `config.json` has the fields of `GPTConfig`
    and the model type `nullm`, and `tokenizer.json` is as a checkpoint has it.

    Args:
        model: the model of the graph.
        tokenizer: its tokenizer, of any kind.
        template: chat template of a model that was taught to chat.
        folder: of the graph.
    """
    try:
        content = config_content(model.config, torch.float32)
    except PretrainedError:
        content = {"model_type": "nullm", **model.config.to_dict()}
    write_atomically(folder / "config.json", json.dumps(content, indent=2) + "\n")
    if isinstance(tokenizer, BPETokenizer | PipelineTokenizer):
        _write_tokenizer(model, tokenizer, template, folder)
    else:
        tokenizer.save(folder / "tokenizer.json")


def _write_tokenizer(
    model: GPTModel, tokenizer: BPETokenizer | PipelineTokenizer, template: ChatFormat | None, folder: Path
) -> None:
    save_huggingface(tokenizer, folder, model.config.context_length)
    if template is not None and template.to_jinja() != tokenizer.files.chat_template:
        _teach(tokenizer, template, folder)
    if not tokenizer.files.generation_config:
        _write_generation_config(tokenizer, template, folder)


def _teach(tokenizer: Tokenizer, template: ChatFormat, folder: Path) -> None:
    """Write a chat template that is not the one in the model's files, and the token that ends its answers."""
    if isinstance(template, ChatTemplate):
        write_atomically(folder / TRAINING_TEMPLATE, template.to_jinja(mark_learned=True))
    end_id = template.end_id(tokenizer)
    end = next(text for text, index in tokenizer.special_tokens.items() if index == end_id)
    if tokenizer.files:
        tokenizer.files.with_chat_template(template.to_jinja(), end, end_id).write(folder)
        return
    path = folder / "tokenizer_config.json"
    configuration = read_json(path) | {"chat_template": template.to_jinja(), "eos_token": end}
    write_atomically(path, json.dumps(configuration, ensure_ascii=False, indent=1) + "\n")


def _write_generation_config(tokenizer: Tokenizer, template: ChatFormat | None, folder: Path) -> None:
    begin, ends = tokenizer.end_of_text_id, list(tokenizer.end_ids)
    if template is not None:
        ends = list(dict.fromkeys([template.end_id(tokenizer), *ends]))
    ids = {"bos_token_id": begin, "eos_token_id": ends or None, "pad_token_id": begin}
    generation = {
        **{key: value for key, value in ids.items() if value is not None},
        "do_sample": True,
        "temperature": 0.8,
    }
    write_atomically(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")


def _model_card(model: GPTModel, family: Family, name: str, chat: bool, training: bool) -> str:
    use = 'tokenizer.apply_chat_template([{"role": "user", "content": "…"}], add_generation_prompt=True)'
    plain = 'tokenizer("<|endoftext|>…")  # every training document began with this token'
    further = (
        ""
        if not training
        else (
            f"`{TRAINING_TEMPLATE}` is the same chat template with tags around what the assistant says. Pass it to\n"
            "`apply_chat_template` as `chat_template` to get `return_assistant_tokens_mask` for further training.\n\n"
        )
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [nullm]
---

# {name}

Trained with nuLLM and exported as `{family.architecture}`: {model.num_parameters():,} parameters, a context of
{model.config.context_length} tokens{", taught to chat" if chat else ""}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
{use if chat else plain}
```

{further}To be written by the person who trained it: the training data, the evaluation, and what it must not be used for.
"""

"""What must be known about a Hugging Face class to read and write its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundwork.foreign_settings import ForeignSettings
from transformer.config import GPTConfig

# Fields of any class's `config.json` that do not change the logits: names and notes, the types and kernels that others
# compute with, token ids, how the model was trained, and how it generates.
HARMLESS = frozenset(
    [
        "architectures",
        "model_type",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "tokenizer_class",
        "prefix",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        "is_llama_config",
        "max_sequence_length",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "use_cache",
        "torchscript",
        "return_dict",
        "use_return_dict",
        "output_attentions",
        "output_hidden_states",
        "tie_last_hidden_states",
        "chunk_size_feed_forward",
        "gradient_checkpointing",
        "is_decoder",
        "pretraining_tp",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "unk_token_id",
        "mask_token_id",
        "decoder_start_token_id",
        "initializer_range",
        "attention_dropout",
        "id2label",
        "label2id",
        "num_labels",
        "_num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "max_length",
        "min_length",
        "max_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ]
)


class PretrainedError(ValueError):
    """A folder cannot be read, or no family has all parts of a model."""


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors is in the files.

    Args:
        name: name of the tensor in the file.
        transposed: whether the file has (in, out) instead of (out, in).
        third: which third of the rows of an (out, in) tensor that contains query, key and value; None for all rows.
    """

    name: str
    transposed: bool = False
    third: int | None = None


@dataclass(frozen=True)
class Family:
    """One Hugging Face class.

    Args:
        architecture: its name.
        model_type: its name in `config.json`.
        read_config: content of `config.json` → our configuration. Each field that it reads is obeyed or refused.
        write_config: our configuration → content of `config.json`.
        obstacles: what in a configuration this family cannot express, in words.
        tensors: our tensor names → where they are stored.
        ignored: ends of the names of stored tensors that contain nothing learned.
        harmless: fields of this class's `config.json` that do not change the logits, besides `HARMLESS`. A field that
            is neither read nor harmless is refused.
    """

    architecture: str
    model_type: str
    read_config: Callable[[ForeignSettings], GPTConfig]
    write_config: Callable[[GPTConfig], dict[str, Any]]
    obstacles: Callable[[GPTConfig], list[str]]
    tensors: Callable[[GPTConfig], dict[str, Stored]]
    ignored: tuple[str, ...] = ()
    harmless: frozenset[str] = frozenset()

    def configuration(self, hf: dict[str, Any]) -> GPTConfig:
        """Our configuration for the content of a `config.json`.

        Raises:
            ValueError: a field is missing, or would change the result and is not supported.
        """
        settings = ForeignSettings(hf, "config.json")
        config = self.read_config(settings)
        settings.refuse_others(HARMLESS | self.harmless)
        return config


def unwanted_parts(config: GPTConfig, wanted: dict[str, tuple[Any, ...]]) -> list[str]:
    """The fields whose value is not one of the wanted ones, each as text with its value."""
    return [
        f"{name} {getattr(config, name)!r}" for name, values in wanted.items() if getattr(config, name) not in values
    ]

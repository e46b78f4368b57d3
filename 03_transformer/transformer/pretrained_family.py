"""What must be known about a Hugging Face class to read and write its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import brief
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

    Some families store several of our matrices as one. Its rows are `groups` times the rows of all pieces: one group
    in GPT-2 (all queries, all keys, all values), one group a head in GPT-NeoX.

    Args:
        name: name of the tensor in the file.
        transposed: whether the file has (in, out) instead of (out, in).
        piece: which piece of the rows of the (out, in) tensor is ours; None for all rows.
        sizes: rows of each piece in a group.
        groups: how many groups.
    """

    name: str
    transposed: bool = False
    piece: int | None = None
    sizes: tuple[int, ...] = ()
    groups: int = 1

    def take(self, tensor: Tensor) -> Tensor:
        """Ours, out of the tensor in the file."""
        return self.take_rows(tensor.T if self.transposed else tensor)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The tensor in the file, made of all its pieces in their order."""
        tensor = self.join_rows(pieces)
        return (tensor.T if self.transposed else tensor).contiguous()

    def take_rows(self, tensor: Tensor) -> Tensor:
        """Our rows, out of those of all pieces."""
        if self.piece is None:
            return tensor
        grouped = tensor.unflatten(0, (self.groups, sum(self.sizes)))
        return grouped.split(self.sizes, dim=1)[self.piece].flatten(0, 1)

    def join_rows(self, pieces: Sequence[Tensor]) -> Tensor:
        """The rows of all pieces, in the order of the file."""
        if self.piece is None:
            return pieces[0]
        return torch.cat([piece.unflatten(0, (self.groups, -1)) for piece in pieces], dim=1).flatten(0, 1)


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
        for name in ("num_hidden_layers", "n_layer"):  # some fields have a value for each layer
            if isinstance(layers := hf.get(name), int) and layers > MOST_LAYERS:
                raise PretrainedError(
                    f"config.json has {name}: {brief(layers)}; the most that is read is {MOST_LAYERS:,}"
                )
        config = self.read_config(settings)
        settings.refuse_others(HARMLESS | self.harmless)
        return config


MOST_LAYERS = 10_000
ANY: tuple[Any, ...] = ()
# What a family may lack. Unless it says otherwise, it has the parts of Llama, which are the defaults of `GPTConfig`.
_PARTS = (
    *("norm", "norm_position", "parallel_residual", "feed_forward", "positions", "rope_fraction", "bias"),
    *("layers_without_positions", "sliding_window", "global_layers", "local_rope_theta", "attention_sinks"),
    *("attention_scale", "attention_softcap", "qk_norm", "qk_norm_across_heads", "biased_projections"),
    *("scale_embeddings", "logit_softcap"),
)


def unwanted_parts(config: GPTConfig, wanted: dict[str, tuple[Any, ...]]) -> list[str]:
    """The parts that a family does not have, each as text with its value.

    Args:
        config: the model.
        wanted: the values that the family has of a field, or `ANY`. Of fields that are not named, it has Llama's value.
    """
    llama = GPTConfig()
    found = []
    for name in dict.fromkeys((*wanted, *_PARTS)):
        values, value = wanted.get(name, (getattr(llama, name, None),)), getattr(config, name)
        if values is not ANY and value not in values:
            found.append(f"{name} {value!r}")
    return found


class Expresses(Protocol):
    """A file format's description of one kind of model."""

    @property
    def architecture(self) -> str:
        """Its name."""
        ...

    def obstacles(self, config: GPTConfig, /) -> list[str]:
        """What in a configuration it cannot express, in words."""
        ...


Kind = TypeVar("Kind", bound=Expresses)


def first_that_has_all_parts(kinds: Sequence[Kind], config: GPTConfig, none: str) -> Kind:
    """The first kind that a model can be written as.

    Args:
        kinds: the kinds of a file format.
        config: the model.
        none: the beginning of the message if there is none, such as "no Hugging Face class has these parts".

    Raises:
        PretrainedError: there is none; the message says which parts the nearest one lacks.
    """
    lacking = [(kind, kind.obstacles(config)) for kind in kinds]
    for kind, obstacles in lacking:
        if not obstacles:
            return kind
    nearest, obstacles = min(lacking, key=lambda pair: len(pair[1]))
    raise PretrainedError(f"{none}; the nearest, {nearest.architecture}, has no {', no '.join(obstacles)}")


def read_windows(hf: ForeignSettings, window: int | None, default: Callable[[int], bool]) -> dict[str, Any]:
    """Sliding windows, from `layer_types` (one word for each layer) or a family's own rule.

    Args:
        hf: content of `config.json`.
        window: tokens that a layer with a window sees.
        default: layer, from 0 → whether it has a window where the file has no `layer_types`.

    Raises:
        PretrainedError: a layer is of another type, or there is not one type for each layer.
    """
    num_layers, given = hf.whole("num_hidden_layers"), hf.value("layer_types", None)
    types = given or [("full", "sliding")[default(i)] + "_attention" for i in range(num_layers)]
    if not isinstance(types, list):
        raise PretrainedError(
            f"config.json has layer_types with {brief(types)}; it should be a list with a word a layer"
        )
    if len(types) != num_layers or (
        other := [brief(kind) for kind in types if kind not in ("full_attention", "sliding_attention")]
    ):
        what = (
            f"{len(types)} layer_types for {num_layers} layers"
            if len(types) != num_layers
            else f"layer_types with {other[0]}"
        )
        raise PretrainedError(
            f"config.json has {what}; supported are full_attention and sliding_attention, one a layer"
        )
    everywhere = tuple(layer for layer, kind in enumerate(types) if kind == "full_attention")
    if window is None and given and len(everywhere) < num_layers:
        raise PretrainedError("config.json has layer_types with 'sliding_attention', and no window for them")
    if window is None or len(everywhere) == num_layers:
        return {"sliding_window": None}
    return {"sliding_window": window, "global_layers": everywhere or None}


def write_windows(config: GPTConfig) -> dict[str, Any]:
    """What `read_windows` reads."""
    kinds = ["full_attention" if config.window_of(i) is None else "sliding_attention" for i in range(config.num_layers)]
    return {"sliding_window": config.sliding_window, "layer_types": kinds}


def unscaled_norm(config: GPTConfig, name: str) -> Tensor:
    """The weight of a norm of queries or keys that has none: its scale is 1."""
    heads = 1
    if config.qk_norm_across_heads:
        heads = config.num_heads if "query_norm" in name else config.kv_heads
    return torch.full((heads * config.head_size,), 0.0 if config.norm == "rmsnorm_plus_one" else 1.0)

"""How much memory a model needs for training and for inference, computed without using that memory.

Weights, gradients and optimizer state follow from the number of parameters. What the forward pass keeps
for the backward pass depends on the code of every layer, so it is counted, not estimated. The model runs
on fake tensors, which have shapes but no numbers, and the sizes of all saved tensors are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

Precision = Literal["float32", "bfloat16", "float16", "int8"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes needed while training.

    Args:
        weights: parameters in float32.
        gradients: the same number of bytes.
        optimizer: AdamW's two moments.
        activations: what one micro-batch keeps for the backward pass, up to the input of the head; the
            loss is computed in chunks and keeps no logits.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum. PyTorch itself and work space of the kernels need more memory in addition."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes needed while generating.

    Args:
        weights: parameters in the precision in which they are kept.
        cache: keys and values of every sequence at full length.
    """

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.weights + self.cache


def saved_activation_bytes(
    config: GPTConfig,
    batch_size: int,
    time: int | None = None,
    precision: Precision = "float32",
    checkpoint_blocks: bool = False,
) -> int:
    """Bytes that one forward pass keeps for the backward pass, without running it.

    Args:
        config: the model.
        batch_size: how many sequences.
        time: tokens of each sequence; None for the context length.
        precision: precision of the computation; parameters are float32 and autocast converts them.
        checkpoint_blocks: whether blocks are computed again in the backward pass.

    Raises:
        ValueError: training is not possible in this precision.
    """
    if precision not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"training computes in float32, bfloat16 or float16, got {precision!r}")
    with FakeTensorMode():
        model = GPTModel(config).train()
        model.checkpoint_blocks = checkpoint_blocks
        time = config.context_length if time is None else time
        token_ids = torch.zeros(batch_size, time, dtype=torch.long)
        return measure_saved_bytes(model, token_ids, precision)


def measure_saved_bytes(model: GPTModel, token_ids: torch.Tensor, precision: Precision = "float32") -> int:
    """Run a forward pass and count the bytes that autograd keeps; parameters and buffers are not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(token_ids.device.type, dtype, enabled=precision != "float32"),
    ):
        hidden = model.hidden_states(token_ids)
        total = sum(saved.values())
        del hidden  # the graph, and with it the tensors, must live until they are counted
    return total


def training_memory(
    config: GPTConfig,
    num_parameters: int,
    batch_size: int,
    precision: Precision = "float32",
    checkpoint_blocks: bool = False,
) -> TrainingMemory:
    """Memory to train with AdamW at the full context length.

    Args:
        config: the model.
        num_parameters: see `model_summary.count_parameters`.
        batch_size: how many sequences a micro-batch has.
        precision: precision of the computation; weights, gradients and moments stay float32.
        checkpoint_blocks: whether blocks are computed again in the backward pass.
    """
    weights = 4 * num_parameters
    activations = saved_activation_bytes(config, batch_size, None, precision, checkpoint_blocks)
    return TrainingMemory(weights, weights, 2 * weights, activations)


def inference_memory(
    config: GPTConfig, num_parameters: int, batch_size: int, precision: Precision = "float32"
) -> InferenceMemory:
    """Memory to generate with every sequence at the full context length.

    Args:
        config: the model.
        num_parameters: see `model_summary.count_parameters`.
        batch_size: how many sequences.
        precision: precision of weights, keys and values; with int8 weights, keys and values are bfloat16.
    """
    number = BYTES["bfloat16" if precision == "int8" else precision]
    tokens = min(config.context_length, (config.window_of_all or config.context_length) + config.attention_sinks)
    per_token = 2 * config.num_layers * config.kv_heads * config.head_size * number
    return InferenceMemory(num_parameters * BYTES[precision], batch_size * tokens * per_token)

"""The weights of all layers in one array for each kind of matrix, as the compiled loops read them.

A matrix lies in memory as (in, out), so that a row of it belongs to one input (`optimization.kernels.products` says why).
PyTorch's layers keep (out, in). That is the same memory, seen with its axes exchanged. So the layers of the model become
views of the stacked arrays: prompts are computed by PyTorch, tokens by the loops, and each weight exists once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimization.weights.huge_pages import move_to_huge_pages
from optimization.weights.packed_linear import packing_is_available
from optimization.weights.quantization import Int4Linear, Int8Embedding, Int8Linear, QuantizedLayer
from transformer.gpt_model import GPTModel
from transformer.layers import Embedding, LayerNorm, Linear, RMSNorm

if TYPE_CHECKING:
    from optimization.kernels.arrays import Floats, Matrix, Model, Shape

Layer = nn.Linear | Int8Linear | Int4Linear
LAYERS: set[type] = {
    nn.Linear,
    Linear,
    Int8Linear,
    Int4Linear,
}  # and no subclasses, whose weights may mean something else
EMBEDDINGS: set[type] = {nn.Embedding, Embedding, Int8Embedding}


class FloatProductLinear(nn.Module):
    """A layer in bfloat16 that multiplies in float32, for processors whose own products of bfloat16 are slow.

    Args:
        linear: its tensors are used.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.out_features, self.weight, self.bias = linear.out_features, linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)


def can_be_stacked(model: GPTModel, dtype: torch.dtype) -> bool:
    """Whether the compiled loops have all parts of a model.

    Args:
        model: on its device, quantized or not.
        dtype: of activations and of weights that are not quantized.
    """
    if model.device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16) or model.config.positions == "alibi":
        return False
    kinds = [{type(layer) for row in rows for layer in row} for rows in _matrices(model).values()]
    return type(model.token_embedding) in EMBEDDINGS and all(len(kind) == 1 and kind <= LAYERS for kind in kinds)


def _matrices(model: GPTModel) -> dict[str, list[list[Any]]]:
    """The layers by the matrix of `Model` that they are a part of: for each block, those that stand beside each other."""
    blocks: list[Any] = list(model.blocks)
    attention, feed_forward = [block.attention for block in blocks], [block.feed_forward for block in blocks]
    gated = hasattr(feed_forward[0], "gate")
    return {
        "qkv": [[a.query, a.key, a.value] for a in attention],
        "output": [[a.output] for a in attention],
        "up": [[f.gate, f.up] if gated else [getattr(f, "up", None)] for f in feed_forward],
        "down": [[getattr(f, "down", None)] for f in feed_forward],
        "head": [[model.head]],
    }


def stack_model(model: GPTModel) -> tuple[Shape, Model]:
    """Move the weights of a model into stacked arrays, of which its layers become views.

    Args:
        model: for inference, on the CPU; see `can_be_stacked`. Its layers change, the tensors that they had do not.
    """
    from optimization.kernels.arrays import Model, Shape, TokenTable
    from optimization.kernels.parts import FEED_FORWARDS

    config, layers = model.config, list[Any](model.blocks)
    attention = [block.attention for block in layers]
    matrices = {name: _stack(rows) for name, rows in _matrices(model).items()}
    embedding: Any = model.token_embedding
    if config.tie_embeddings:
        embedding.weight = model.head.weight
    vocab_size, d_model = embedding.weight.shape
    post = config.norm_position == "post"

    def norms(name: str, after_sum: bool = False) -> Floats:
        """The norms of one place; a block of a post-norm model has those before its parts after them."""
        return _norms([getattr(block, name) for block in layers if after_sum == post], d_model)

    arrays = Model(
        embedding=TokenTable(
            table=_numbers(_memory_of(embedding.weight)),
            scale=(embedding.scale if isinstance(embedding, Int8Embedding) else torch.ones(vocab_size)).numpy(),
            id_stride=embedding.weight.stride(0),
            width_stride=embedding.weight.stride(1),
            positions=_positions(model).numpy(),
        ),
        rotary=_rotary_tables(model).numpy(),
        rotary_table=torch.tensor([_table_of(model, layer) for layer in range(config.num_layers)]).numpy(),
        window=torch.tensor([config.window_of(n) or config.context_length for n in range(config.num_layers)]).numpy(),
        **matrices,
        attention_norm=norms("attention_norm"),
        attention_output_norm=_norms([block.attention_output_norm for block in layers], d_model),
        attention_sum_norm=norms("attention_norm", after_sum=True),
        feed_forward_norm=norms("feed_forward_norm"),
        feed_forward_output_norm=_norms([block.feed_forward_output_norm for block in layers], d_model),
        feed_forward_sum_norm=norms("feed_forward_norm", after_sum=True),
        query_norm=_norms([a.query_norm for a in attention], config.head_size),
        key_norm=_norms([a.key_norm for a in attention], config.head_size),
        final_norm=_norms([model.final_norm], d_model),
    )
    scale = torch.tensor(d_model**0.5 if config.scale_embeddings else 1.0, dtype=_activation_dtype(model))
    shape = Shape(
        num_layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.kv_heads,
        head_size=config.head_size,
        feed_forward_width=config.feed_forward_width,
        feed_forward=FEED_FORWARDS.index(config.feed_forward),
        centered_norms=config.norm == "layernorm",
        norm_eps=config.norm_eps,
        parallel_residual=config.parallel_residual,
        norm_across_heads=config.qk_norm_across_heads,
        sinks=config.attention_sinks,
        attention_scale=config.attention_scale or 1 / math.sqrt(config.head_size),
        attention_softcap=config.attention_softcap or 0.0,
        embedding_scale=float(scale),
    )
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not packing_is_available(model.device, module.weight.dtype):
            model.set_submodule(name, FloatProductLinear(module))
    move_to_huge_pages(torch.from_numpy(matrix.weight) for matrix in matrices.values())
    return shape, arrays


def _stack(layers: Sequence[Sequence[Layer]]) -> Matrix:
    """Stack layers; those of one row of the argument stand beside each other. They become views of the result."""
    from optimization.kernels.arrays import Matrix

    first = layers[0][0]
    outputs = sum(layer.out_features for layer in layers[0])
    count, quantized = len(layers), isinstance(first, QuantizedLayer)
    stored = {"weight": torch.empty(count, first.weight.shape[1], outputs, dtype=first.weight.dtype)}
    if isinstance(first, Int4Linear):
        for name, tensor in (("scale", first.scale), ("zero", first.zero)):
            stored[name] = torch.empty(count, tensor.shape[1], outputs, dtype=tensor.dtype)
    bias = torch.zeros(count, outputs)
    scale = torch.zeros(count, 1, outputs) if isinstance(first, Int8Linear) else torch.zeros(count, 1, 1)
    for index, row in enumerate(layers):
        start = 0
        for layer in row:
            stop = start + layer.out_features
            if layer.bias is not None:
                bias[index, start:stop] = layer.bias.detach()
            if isinstance(layer, Int8Linear):
                scale[index, 0, start:stop] = layer.scale
            for name, array in stored.items():
                view = array[index, :, start:stop].T
                view.copy_(getattr(layer, name).detach())
                setattr(layer, name, view if quantized else nn.Parameter(view, requires_grad=False))
            start = stop
    return Matrix(
        _numbers(stored["weight"]),
        _numbers(stored.get("scale", scale)),
        _numbers(stored.get("zero", scale)),
        bias.numpy(),
    )


def _numbers(tensor: Tensor) -> Any:
    """The memory of a tensor as an array; NumPy has no bfloat16, so its bits are integers there."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _memory_of(table: Tensor) -> Tensor:
    """A table (vocab, d_model) that is stored row by row or column by column, as one vector in the order of memory."""
    rows = table.detach() if table.is_contiguous() else table.detach().T
    return rows.reshape(-1)


def _activation_dtype(model: GPTModel) -> torch.dtype:
    embedding: Any = model.token_embedding
    return embedding.activation_dtype if isinstance(embedding, Int8Embedding) else embedding.weight.dtype


def _positions(model: GPTModel) -> Tensor:
    if model.position_embedding is not None:
        return model.position_embedding.weight.detach().float()
    return torch.empty(0, 1) if model.sinusoids is None else model.sinusoids.float()


def _rotary_tables(model: GPTModel) -> Tensor:
    """(tables, 2, context, rotary size)."""
    tables = [torch.stack([r.cos, r.signed_sin]) for r in (model.rotary, model.local_rotary) if r is not None]
    return torch.stack(tables).float() if tables else torch.empty(0, 2, 1, 1)


def _table_of(model: GPTModel, layer: int) -> int:
    """Which rotary table a layer uses, as in `GPTModel._rotations`."""
    config = model.config
    if model.rotary is None or layer in config.layers_without_positions:
        return -1
    return 1 if model.local_rotary is not None and config.window_of(layer) else 0


def _norms(modules: list[nn.Module | None], size: int) -> Floats:
    """(layers, 2, size): what the numbers are multiplied with, and what is added."""
    stacked = []
    for norm in modules:
        if not isinstance(norm, (LayerNorm, RMSNorm)):
            continue
        shape = norm.weight.shape if isinstance(norm, LayerNorm) else norm.shape
        scale = torch.ones(shape) if norm.weight is None else norm.weight.float()
        shift = norm.bias if isinstance(norm, LayerNorm) else None
        if isinstance(norm, RMSNorm) and norm.plus_one and norm.weight is not None:
            scale = scale + 1
        stacked.append(torch.stack([scale, torch.zeros(shape) if shift is None else shift.float()]))
    return (torch.stack(stacked) if stacked else torch.empty(0, 2, size)).detach().numpy()

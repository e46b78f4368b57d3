"""Load any checkpoint for inference, trained or quantized, and arrange its weights for the machine.

Weights are packed once, when they are loaded. If the CPU's matrix kernels support a layer, plain or quantized, it is
replaced by a packed layer that uses them. The unpacked layers are the reference.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from attention.multi_head_attention import MultiHeadAttention
from finetuning.base_model import is_foreign
from finetuning.imported_models import checkpoint_of
from optimization.weights.huge_pages import move_to_huge_pages
from optimization.weights.packed_linear import PackedLinear, packing_is_available
from optimization.weights.packed_quantized import PackedQuantizedLinear, pack_quantized_layer
from optimization.weights.quantization import QuantizedLayer
from optimization.weights.quantized_model import is_quantized, load_quantized
from training.checkpoints.checkpoint import LoadedModel, build_model, read_checkpoint, read_model
from transformer.gpt_model import GPTModel
from transformer.transformer_block import TransformerBlock


def load_for_inference(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """The model and tokenizer of a checkpoint, quantized or not, or of other people's weights.

    Args:
        path: a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub.
        device: where the model goes.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or inconsistent.
        PretrainedError, TokenizerError, UserError: the weights cannot be imported.
    """

    def read(folder: Path) -> LoadedModel:
        if not is_quantized(folder):
            return read_model(folder, device)
        model, tokenizer = build_model(folder)
        load_quantized(folder, model)
        return LoadedModel(model.to(device).eval(), tokenizer, folder)

    return read_checkpoint(checkpoint_of(path) if is_foreign(path) else path, read)


def inference_copy(model: GPTModel, dtype: torch.dtype, pack: bool = True, compiled: bool = False) -> GPTModel:
    """A model for decoding. The given model does not change.

    Args:
        model: on its device, quantized or not.
        dtype: the type of activations, and of weights that are not quantized. Tensors that have it already are shared.
        pack: whether to use the layers that are packed for the CPU's kernels.
        compiled: whether `torch.compile` fuses parts of the blocks.

    Raises:
        ValueError: packed layers cannot be compiled.
    """
    pack = pack and model.device.type == "cpu"
    if pack and compiled:
        raise ValueError(
            "compile cannot trace the weights that are packed for a CPU, which are faster there: "
            "leave it out, or set pack_weights to false"
        )
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    clone = copy.deepcopy(model, shared).eval()
    converted: dict[int, nn.Parameter] = {}  # a tied weight is converted once
    for module in clone.modules():
        if isinstance(module, QuantizedLayer):
            module.activation_dtype = dtype
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype != dtype:
                new = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                module._parameters[name] = converted.setdefault(id(parameter), new)
    if clone.sinusoids is not None:
        clone.sinusoids = clone.sinusoids.to(dtype)
    if pack:
        _join_projections(clone)
        move_to_huge_pages(_pack(clone))
    if compiled:
        compile_blocks(clone)
    return clone


def _join_projections(model: GPTModel) -> None:
    """Compute a block's queries, keys and values by one product instead of three: one large product is faster."""
    for module in model.modules():
        if not isinstance(module, MultiHeadAttention):
            continue
        parts = [module.query, module.key, module.value]
        first = parts[0]
        if any(type(part) is not type(first) for part in parts) or not isinstance(first, (nn.Linear, QuantizedLayer)):
            continue
        rows = sum(part.out_features for part in parts)
        tensors = [{**dict(part.named_parameters()), **dict(part.named_buffers())} for part in parts]
        if isinstance(first, nn.Linear):
            joint: nn.Module = nn.Linear(first.in_features, rows, first.bias is not None, dtype=first.weight.dtype)
        else:
            joint = type(first)(rows, first.in_features, first.bias is not None)
        with torch.no_grad():
            for name, tensor in [*joint.named_parameters(), *joint.named_buffers()]:
                tensor.copy_(torch.cat([part[name] for part in tensors]))
        module.joint = joint
        module.query = module.key = module.value = nn.Identity()  # type: ignore[assignment]


def _pack(model: GPTModel) -> list[Tensor]:
    """Replace the layers that can be packed, and return the packed weights."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLayer):
            model.set_submodule(name, pack_quantized_layer(module))
        elif isinstance(module, nn.Linear) and packing_is_available(module.weight.device, module.weight.dtype):
            model.set_submodule(name, PackedLinear(module))
    packed = (PackedLinear, PackedQuantizedLinear)
    return [module.packed for module in model.modules() if isinstance(module, packed)]


def compile_blocks(model: GPTModel, backend: str = "inductor") -> None:
    """Compile, in place, the norms and the feed-forward of every block. Each becomes a few fused kernels.

    On a GPU, a step for a few tokens spends most of its time launching hundreds of small kernels. Attention is not
    compiled, because its shapes change with every step, and each new shape would be compiled again. For the same reason
    the number of tokens in a step is compiled as a variable. The first step takes seconds to minutes longer.

    Args:
        model: its weights are not packed.
        backend: the backend of `torch.compile`.
    """
    for block in model.blocks:
        assert isinstance(block, TransformerBlock)
        for part in (block.attention_norm, block.feed_forward_norm, block.feed_forward):
            part.compile(backend=backend, dynamic=True)

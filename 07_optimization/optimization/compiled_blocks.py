"""`torch.compile` for what every block repeats: its norms and its feed-forward, each fused into a few kernels.

On a GPU a step for a few tokens is bound by the launches of hundreds of small kernels. Attention stays as it is:
over blocks its shapes change with every step, and each new one would be compiled anew. Shapes are compiled as
variables for the same reason: a step has as many tokens as there are requests.
"""

from __future__ import annotations

from transformer.gpt_model import GPTModel
from transformer.transformer_block import TransformerBlock


def compile_blocks(model: GPTModel, backend: str = "inductor") -> None:
    """Compile, in place; the first step takes seconds to minutes longer.

    Args:
        model: with weights that are not packed.
        backend: of `torch.compile`.
    """
    for block in model.blocks:
        assert isinstance(block, TransformerBlock)
        for part in (block.attention_norm, block.feed_forward_norm, block.feed_forward):
            part.compile(backend=backend, dynamic=True)

"""`GPTModel`: a decoder-only transformer whose configuration names its parts.

Token ids → embeddings → blocks → norm → one logit for every token of the vocabulary. With the parts
of GPT-2 (layer norm, GELU, learned positions, biases) it is GPT-2. With those of Llama (RMSNorm,
SwiGLU, rotary positions, no biases) it is Llama, and with QK-norm added to these it is Qwen3.

python -m transformer.gpt_model
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attention.multi_head_attention import KeyValueStore
from transformer.config import GPTConfig
from transformer.layers import Dropout, Embedding, Linear, build_norm, truncated_normal_
from transformer.positional_encoding import AlibiBias, RotaryEmbedding, Rotation, sinusoidal_table
from transformer.transformer_block import TransformerBlock


class GPTModel(nn.Module):
    """The language model.

    `checkpoint_blocks` may be set to True before training. Each block then keeps only its input and
    computes the rest again in the backward pass. That takes a third more arithmetic and a fraction of
    the memory (Chen et al., 2016: "Training Deep Nets with Sublinear Memory Cost").

    Args:
        config: parts and sizes of the model; `vocab_size` must be set.

    Raises:
        ValueError: the vocabulary size is not set.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("model.vocab_size is not set: it is the number of ids of the tokenizer")
        self.config = config
        self.checkpoint_blocks = False
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.position_embedding: nn.Embedding | None = None
        self.rotary: RotaryEmbedding | None = None
        self.local_rotary: RotaryEmbedding | None = None
        self.alibi: AlibiBias | None = None
        if config.positions == "learned":
            self.position_embedding = Embedding(config.context_length, config.d_model)
        elif config.positions == "rope":
            self.rotary, self.local_rotary = build_rotary(config)
        elif config.positions == "alibi":
            self.alibi = AlibiBias(config.num_heads)
        sinusoids = (
            sinusoidal_table(config.context_length, config.d_model) if config.positions == "sinusoidal" else None
        )
        self.sinusoids: Tensor | None
        self.register_buffer("sinusoids", sinusoids, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config, layer) for layer in range(config.num_layers))
        self.final_norm: nn.Module = nn.Identity()  # a post-norm block already ends with a norm
        if config.norm_position != "post":
            self.final_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        self.head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        self._initialise()

    def forward(
        self,
        token_ids: Tensor,
        store: KeyValueStore | None = None,
        last_only: bool = False,
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the next token at every position.

        Args:
            token_ids: (batch, time) int64, each below `vocab_size`.
            store: keys and values of earlier tokens, which come directly before `token_ids`.
            last_only: compute logits only for the last position, as decoding needs.
            positions: (batch, time) or (time,) position of each token in its text, for sequences that do not all
                begin in the first column; None counts on from the stored tokens.
            allowed: boolean (batch, 1, time, keys), the whole mask with causality and window; None is
                causal. See `attention.masks`. If only some layers have a window, they add it themselves.

        Returns:
            (batch, time, vocab_size), or (batch, 1, vocab_size) with `last_only`.

        Raises:
            ValueError: ids or positions have another shape, or the tokens and the stored ones are more than
                `context_length`.
        """
        hidden = self.hidden_states(token_ids, store, positions, allowed)
        return self.logits(hidden[:, -1:] if last_only else hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits from what `hidden_states` returns, with the softcap if the model has one."""
        logits: Tensor = self.head(hidden)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * (logits / cap).tanh()

    def hidden_states(
        self,
        token_ids: Tensor,
        store: KeyValueStore | None = None,
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Compute what the head reads: (batch, time) int64 → (batch, time, d_model). See `forward`."""
        if token_ids.ndim != 2:
            raise ValueError(
                f"token ids must be (batch, time), got the shape {tuple(token_ids.shape)}; for one text: ids[None]"
            )
        time = token_ids.shape[1]
        where: Tensor | slice
        if positions is None:
            start = store.length if store is not None else 0
            if start + time > self.config.context_length:
                raise ValueError(f"{start + time} tokens do not fit the context length of {self.config.context_length}")
            where = slice(start, start + time)
        else:
            if positions.shape[-1:] != (time,):
                raise ValueError(f"each of the {time} tokens needs a position, got the shape {tuple(positions.shape)}")
            where = positions.clamp(min=0)  # padding is before position 0
        x = self.token_embedding(token_ids)  # (batch, time, d_model)
        if self.config.scale_embeddings:
            x = x * torch.tensor(self.config.d_model**0.5, dtype=x.dtype)  # rounded to the weights' type, as in Gemma
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[where]
        if self.sinusoids is not None:
            x = x + self.sinusoids[where]
        x = self.dropout(x)
        for block, rotate in zip(self.blocks, self._rotations(where), strict=True):
            if self.checkpoint_blocks and self.training:
                x = checkpoint(block, x, rotate, None, allowed, self.alibi, use_reentrant=False)
            else:
                x = block(x, rotate, store, allowed, self.alibi)
        if store is not None:
            store.advance(time)
        return self.final_norm(x)

    def _rotations(self, where: Tensor | slice) -> list[Rotation | None]:
        """What encodes these positions in each layer."""
        config = self.config
        everywhere = self.rotary(where) if self.rotary is not None else None
        local = self.local_rotary(where) if self.local_rotary is not None else everywhere
        return [
            None if layer in config.layers_without_positions else local if config.window_of(layer) else everywhere
            for layer in range(config.num_layers)
        ]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    def num_parameters(self) -> int:
        """How many numbers are learned; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _initialise(self) -> None:
        """Draw weights with standard deviation 0.02 as in GPT-2; projections into the residual stream get less, or 0.

        Each block adds two outputs to the stream. Scaling them by 1 / sqrt(2 · layers) gives the stream
        the same variance at every depth of the model (Radford et al., 2019, section 2.3).
        """
        std = 0.02
        residual_std = 0.0 if self.config.zero_init_residual else std / (2 * self.config.num_layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                into_residual = name.endswith(("attention.output", "feed_forward.down"))
                truncated_normal_(module.weight, residual_std if into_residual else std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def build_rotary(config: GPTConfig) -> tuple[RotaryEmbedding, RotaryEmbedding | None]:
    """The rotary positions of a configuration, and those of its layers with a window if these differ."""
    size, length, local = config.rotary_size, config.context_length, config.local_rope_theta
    rotary = RotaryEmbedding(size, length, config.rope_theta, config.rope_scaling)
    return rotary, None if local is None else RotaryEmbedding(size, length, local)


def main() -> None:
    """Print the shapes inside a small model, and show that an untrained model knows nothing."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocab_size=1000, context_length=64, num_layers=2, d_model=128)).eval()
    ids = torch.randint(1000, (4, 64))
    print(f"{'token ids':26} {tuple(ids.shape)}")
    names = ("token_embedding", "blocks.0.attention.query", "blocks.0.attention", "blocks.0", "blocks.1", "head")
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: print(f"{name:26} {tuple(out.shape)}"))
    with torch.no_grad():
        logits = model(ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    print(f"\nloss of the untrained model {loss:.3f}; of a uniform guess ln 1000 = {math.log(1000):.3f}")


if __name__ == "__main__":
    main()

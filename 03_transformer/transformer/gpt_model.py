"""`GPTModel`: a decoder-only transformer whose parts are named by its configuration.

Token ids → embeddings → blocks → norm → one logit for every token of the vocabulary. With the parts
of GPT-2 (layer norm, GELU, learned positions, biases) it is GPT-2; with those of Llama (RMSNorm,
SwiGLU, rotary positions, no biases) it is Llama.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention.multi_head_attention import KeyValueStore
from transformer.config import GPTConfig
from transformer.layers import build_norm
from transformer.positional_encoding import RotaryEmbedding
from transformer.transformer_block import TransformerBlock


class GPTModel(nn.Module):
    """The language model.

    Args:
        config: its parts and sizes; `vocab_size` must be set.

    Raises:
        ValueError: the vocabulary size is not known.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("model.vocab_size is not set: it is the number of ids of the tokenizer")
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding: nn.Embedding | None = None
        self.rotary: RotaryEmbedding | None = None
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        else:
            self.rotary = RotaryEmbedding(config.head_dim, config.context_length, config.rope_theta)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config, layer) for layer in range(config.num_layers))
        self.final_norm = build_norm(config.norm, config.d_model, config.norm_eps, config.bias)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        self._initialise()

    def forward(self, token_ids: Tensor, store: KeyValueStore | None = None, last_only: bool = False) -> Tensor:
        """Logits of the next token at every position.

        Args:
            token_ids: (batch, time) int64, each below `vocab_size`.
            store: keys and values of earlier tokens; the given ones are taken to follow them.
            last_only: compute logits for the last position alone, as decoding needs.

        Returns:
            (batch, time, vocab_size), or (batch, 1, vocab_size) with `last_only`.

        Raises:
            ValueError: more tokens than `context_length`, stored ones included.
        """
        hidden = self.hidden_states(token_ids, store)
        return self.head(hidden[:, -1:] if last_only else hidden)

    def hidden_states(self, token_ids: Tensor, store: KeyValueStore | None = None) -> Tensor:
        """What the head reads: (batch, time) int64 → (batch, time, d_model). See `forward`."""
        start = store.length if store is not None else 0
        time = token_ids.shape[1]
        if start + time > self.config.context_length:
            raise ValueError(f"{start + time} tokens do not fit the context length of {self.config.context_length}")
        x = self.token_embedding(token_ids)  # (batch, time, d_model)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start : start + time]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self.rotary, store)
        if store is not None:
            store.advance(time)
        return self.final_norm(x)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    def num_parameters(self) -> int:
        """Learned numbers; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _initialise(self) -> None:
        """Normal(0, 0.02) as in GPT-2; projections back into the residual stream smaller, or zero.

        Each block adds two outputs to the stream. Scaling them by 1 / sqrt(2 · layers) keeps its
        variance the same whatever the depth (Radford et al., 2019, section 2.3).
        """
        std = 0.02
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        residual_std = 0.0 if self.config.zero_init_residual else std / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                nn.init.normal_(parameter, std=residual_std)

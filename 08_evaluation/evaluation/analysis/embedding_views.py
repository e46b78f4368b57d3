"""What a model's token embeddings hold: nearest neighbours, and a map of the most frequent tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from groundwork.user_errors import UserError
from transformer.gpt_model import GPTModel


def embedding_matrix(model: GPTModel) -> NDArray[np.float64]:
    """The token embeddings, (vocab_size, d_model); works for a quantized model too."""
    every = torch.arange(model.token_embedding.num_embeddings, device=model.device)
    with torch.inference_mode():
        return model.token_embedding(every).double().cpu().numpy()


def nearest_tokens(embeddings: NDArray[np.float64], token: int, count: int = 8) -> list[tuple[int, float]]:
    """The tokens whose embeddings have the most similar direction, with the cosine, the nearest first.

    Args:
        embeddings: (vocab_size, d_model).
        token: the token whose neighbours are wanted.
        count: how many neighbours.

    Raises:
        UserError: there is no such token.
    """
    if not 0 <= token < len(embeddings):
        raise UserError(f"token {token} is outside the vocabulary of {len(embeddings)}")
    lengths = np.maximum(np.linalg.norm(embeddings, axis=1), 1e-12)
    cosines = embeddings @ embeddings[token] / (lengths * lengths[token])
    cosines[token] = -np.inf
    return [(int(index), float(cosines[index])) for index in np.argsort(-cosines)[:count]]


def principal_map(embeddings: NDArray[np.float64], tokens: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Places of some tokens in the plane of their two main directions (principal component analysis).

    Args:
        embeddings: (vocab_size, d_model).
        tokens: ids of at least three tokens.

    Returns:
        (tokens, 2) coordinates, and the share of the variance that the plane keeps.

    Raises:
        UserError: fewer than three tokens.
    """
    if len(tokens) < 3:
        raise UserError(f"a map needs at least three tokens, got {len(tokens)}")
    chosen = embeddings[list(tokens)]
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    centred = chosen - chosen.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    kept = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))
    return left[:, :2] * sizes[:2], kept

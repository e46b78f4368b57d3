"""Teach a trained model new tokens: the marks of a chat template.

A pretrained vocabulary rarely has the tokens that a chat format needs. They are added at the end, and
the embedding (and the head) get a row for each. The new rows begin at the mean of the old ones: a random row
would be far from all others, and would disturb the model's first outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from finetuning.data.chat_format import ChatTemplate
from tokenizer.interface import Tokenizer
from transformer.gpt_model import GPTModel


@torch.no_grad()
def extend_vocabulary(model: GPTModel, vocab_size: int) -> None:
    """Give a model rows for more ids, in place.

    Args:
        model: whose embedding and head grow.
        vocab_size: new number of ids; not below the present one.

    Raises:
        ValueError: the vocabulary would shrink.
    """
    old_size = model.token_embedding.num_embeddings
    if vocab_size < old_size:
        raise ValueError(f"a vocabulary of {old_size} ids cannot become one of {vocab_size}: ids would lose their rows")
    if vocab_size == old_size:
        return
    model.token_embedding.weight = _extended(model.token_embedding.weight, vocab_size)
    model.token_embedding.num_embeddings = vocab_size
    if model.config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    else:
        model.head.weight = _extended(model.head.weight, vocab_size)
    model.head.out_features = vocab_size
    model.config = dataclasses.replace(model.config, vocab_size=vocab_size)


def add_special_tokens(model: GPTModel, tokenizer: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    """A tokenizer with more special tokens, and rows in the model for them.

    Ids that the model has rows for and the tokenizer does not use (vocabularies are often padded) are used first.

    Returns:
        The new tokenizer; the given one where nothing was missing.
    """
    new = [token for token in tokens if token not in tokenizer.special_tokens]
    if not new:
        return tokenizer
    extended = tokenizer.with_special_tokens(new)
    extend_vocabulary(model, max(extended.vocab_size, model.token_embedding.num_embeddings))
    return extended


def teach_template(model: GPTModel, tokenizer: Tokenizer, template: ChatTemplate) -> Tokenizer:
    """A tokenizer with the marks of one of this project's templates, which takes the place of the model's own.

    Returns:
        The new tokenizer. The files of its model, if it came with any, say how it converses now.
    """
    taught = add_special_tokens(model, tokenizer, template.special_tokens)
    if taught.files:
        taught.files = taught.files.with_chat_template(template.to_jinja(), template.end, template.end_id(taught))
    return taught


def _extended(weight: Tensor, rows: int) -> nn.Parameter:
    mean = weight.mean(dim=0, keepdim=True)
    grown = torch.cat([weight, mean.expand(rows - weight.shape[0], -1)])
    return nn.Parameter(grown, requires_grad=weight.requires_grad)

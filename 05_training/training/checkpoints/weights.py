"""The weights of a model by name, as a checkpoint keeps them: each once, whole, on the CPU."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from training.parallel.workers import spread_like, whole


def model_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model, whole and on the CPU; every process must call this.

    Where a part of the model is frozen, as with LoRA, only what is learned is included: the base has the rest. A weight
    with two names, such as an embedding that is also the head, is included once, under its first name.
    """
    learned, again = _learned_alone(model), _second_names(model)
    return {
        name: whole(tensor.detach()).cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name not in again and (not learned or name in learned)
    }


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill a model with what `model_weights` gave.

    Raises:
        RuntimeError, KeyError: the weights are not those of this model.
    """
    learned = _learned_alone(model)
    if learned and weights.keys() != learned:
        raise KeyError(min(weights.keys() ^ learned))
    again = {name: weights[first] for name, first in _second_names(model).items() if first in weights}
    weights = weights | again
    for name, parameter in model.state_dict().items():
        if name in weights:
            weights[name] = spread_like(parameter, weights[name])
    model.load_state_dict(weights, strict=not learned)


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 of the names and the values of all weights of a model that is not spread, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _learned_alone(model: nn.Module) -> set[str]:
    """Names of the parameters that are learned where others are frozen; empty where all are learned, or none."""
    parameters = dict(model.named_parameters())
    learned = {name for name, parameter in parameters.items() if parameter.requires_grad}
    return learned if len(learned) < len(parameters) else set()


def _second_names(model: nn.Module) -> dict[str, str]:
    """For parameters with several names: each further name, with the first one."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    names = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in names if name != first[id(parameter)]}

"""LoRA: fine-tune a large matrix by learning a small correction to it.

    W' = W + s · B A        A: (rank, in), B: (out, rank)        s = alpha / rank      (Hu et al., 2021)

W is frozen; only A and B are trained. With rank 8, a 768 × 768 matrix has 12,288 numbers to learn
instead of 589,824. B starts at zero, so that at first the model gives the same outputs as before.

Two variants:

- rank-stabilised: s = alpha / sqrt(rank), so that high ranks are not scaled away (Kalajdzievski, 2023);
- DoRA: the direction of each row of W' and its length are learned separately (Liu et al., 2024):
  W' = m · (W + s B A) / ‖W + s B A‖, row by row, with m starting at the lengths of W's rows.

A layer may hold several adapters, of which at most one is active.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_ALPHA = 1e6  # with a larger one, the correction of weights of any usual size would overflow


class AdapterError(ValueError):
    """An adapter that does not fit the model."""


@dataclass(frozen=True)
class LoRAConfig:
    """What to adapt, and how.

    Args:
        rank: rank of the correction; at most the smaller side of each matrix.
        alpha: size of the correction, independent of the rank.
        dropout: probability of dropping an input of the correction while training.
        pattern: names of the layers, with * for anything.
        rank_stabilised: divide alpha by the square root of the rank instead of the rank.
        dora: learn direction and length separately (DoRA).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    pattern: str = "blocks.*"
    rank_stabilised: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise AdapterError(f"lora.rank must be at least 1, got {self.rank}")
        if not 0.0 < self.alpha <= LARGEST_ALPHA:
            raise AdapterError(f"lora.alpha must be above 0 and at most {LARGEST_ALPHA:g}, got {self.alpha}")
        if not isinstance(self.pattern, str):
            raise AdapterError(f"lora.pattern must be one string such as 'blocks.*.attention.*', got {self.pattern!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise AdapterError(f"lora.dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def scale(self) -> float:
        """s in W + s · B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LoRAAdapter(nn.Module):
    """The correction of one layer.

    Args:
        base: the layer that is corrected.
        config: see `LoRAConfig`.

    Raises:
        AdapterError: the rank does not fit the matrix.
    """

    def __init__(self, base: nn.Linear, config: LoRAConfig):
        super().__init__()
        largest = min(base.in_features, base.out_features)
        if config.rank > largest:
            raise AdapterError(
                f"the LoRA rank must be between 1 and {largest} for a "
                f"{base.out_features} × {base.in_features} matrix, got {config.rank}"
            )
        self.config = config
        like = base.bias if base.bias is not None else base.weight
        dtype = like.dtype if like.dtype.is_floating_point else torch.float32  # a quantized weight is bytes
        self.lora_a = nn.Parameter(torch.empty(config.rank, base.in_features, dtype=dtype, device=like.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, dtype=dtype, device=like.device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear, and peft
        self.magnitude: nn.Parameter | None = None
        if config.dora:
            if not base.weight.dtype.is_floating_point:
                raise AdapterError("DoRA needs the lengths of the rows of the weights, which are quantized")
            self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1).to(dtype))  # (out,)

    def forward(self, x: Tensor, base: nn.Linear) -> Tensor:
        """Output of the corrected layer: (..., in) → (..., out)."""
        dropped = F.dropout(x, self.config.dropout, self.training)
        # Right to left: (x Aᵀ) has only `rank` numbers, where B A would be a full matrix.
        correction = self.config.scale * (dropped @ self.lora_a.T @ self.lora_b.T)
        if self.magnitude is None:
            return base(x) + correction
        # The norm is taken as a constant in the backward pass: nearly the same gradient for less memory.
        lengths = self.direction(base).norm(dim=1).detach()
        factor = self.magnitude / lengths
        unbiased = base(x) if base.bias is None else base(x) - base.bias
        if self.config.dropout and self.training:  # the factor acts on what the dropped input gives
            unbiased = F.linear(dropped, base.weight)
        out = factor * (unbiased + correction)
        return out if base.bias is None else out + base.bias

    def direction(self, base: nn.Linear) -> Tensor:
        """W + s · B A."""
        return base.weight + self.config.scale * (self.lora_b @ self.lora_a)

    def merged_weight(self, base: nn.Linear) -> Tensor:
        """W'."""
        weight = self.direction(base)
        if self.magnitude is None:
            return weight
        return weight * (self.magnitude / weight.norm(dim=1))[:, None]


class LoRALinear(nn.Module):
    """A frozen linear layer and its adapters.

    Args:
        base: the layer to adapt; frozen here.
    """

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self._original: Tensor | None = None  # of a merged layer

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        if self.active is None or self._original is not None:
            return self.base(x)
        return self.adapters[self.active](x, self.base)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the active correction to the weights, so that nothing extra has to be computed any more."""
        if self.active is not None and self._original is None:
            self._original = self.base.weight.detach().clone()
            adapter = self.adapters[self.active]
            assert isinstance(adapter, LoRAAdapter)
            self.base.weight.copy_(adapter.merged_weight(self.base))

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the weights bit by bit: subtracting the correction again would leave rounding errors."""
        if self._original is not None:
            self.base.weight.copy_(self._original)
            self._original = None


def add_lora(model: nn.Module, config: LoRAConfig, name: str = "default") -> list[str]:
    """Freeze a model, add an adapter to train to each linear layer whose name matches, and make it active.

    Args:
        model: changed in place. Layers may hold other adapters already.
        config: see `LoRAConfig`.
        name: of the adapter.

    Returns:
        Names of the layers.

    Raises:
        AdapterError: no layer matches, the rank does not fit a layer, or the name is taken or impossible. The model is
            unchanged then.
    """
    layers = adaptable_layers(model)
    chosen = [layer for layer in layers if fnmatch(layer, config.pattern)]
    if not chosen:
        raise AdapterError(f"no linear layer is called {config.pattern!r}; there are: {', '.join(layers)}")
    attach_adapters(model, dict.fromkeys(chosen, config), name)
    return chosen


def attach_adapters(model: nn.Module, configs: Mapping[str, LoRAConfig], name: str) -> None:
    """Like `add_lora`, with a configuration for each layer by its name."""
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise AdapterError(
            f"an adapter cannot be called {name!r}: PyTorch needs a name without a dot that is not its own"
        )
    layers = adaptable_layers(model)
    if any(name in layer.adapters for layer in layers.values() if isinstance(layer, LoRALinear)):
        raise AdapterError(f"the model has an adapter called {name!r} already")
    bases = {n: layer.base if isinstance(layer, LoRALinear) else layer for n, layer in layers.items()}
    _refuse_shared_weights(model, {n: bases[n] for n in configs})
    # Built before anything is changed: a rank that does not fit leaves the model as it was.
    adapters = {layer_name: LoRAAdapter(bases[layer_name], config) for layer_name, config in configs.items()}
    model.requires_grad_(False)
    for layer_name, adapter in adapters.items():
        layer = layers[layer_name]
        if not isinstance(layer, LoRALinear):
            layer = LoRALinear(layer)
            model.set_submodule(layer_name, layer)
        layer.adapters[name] = adapter
    activate_adapter(model, name)


def _refuse_shared_weights(model: nn.Module, chosen: Mapping[str, nn.Linear]) -> None:
    """Refuse a head that is the token embedding: to merge a correction into one would change the other too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, layer in chosen.items():
        if len(shared := names.get(id(layer.weight), [])) > 1:
            raise AdapterError(f"{name} cannot have an adapter: {' and '.join(shared)} are one matrix (tie_embeddings)")


def adaptable_layers(model: nn.Module) -> dict[str, nn.Linear | LoRALinear]:
    """Linear layers by name. Those that hold adapters have the name of the layer that they wrap."""
    found: dict[str, nn.Linear | LoRALinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear) or (
            isinstance(module, nn.Linear) and name.removesuffix(".base") not in found
        ):
            found[name] = module
    return found


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Name and layer of everything that holds adapters."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def activate_adapter(model: nn.Module, name: str | None) -> None:
    """Switch every layer to one adapter, or with None to the model as it was.

    Raises:
        AdapterError: no layer has such an adapter.
    """
    layers = [layer for _, layer in lora_layers(model)]
    known = sorted({known for layer in layers for known in layer.adapters})
    if name is not None and name not in known:
        raise AdapterError(f"there is no adapter {name!r}; there are: {', '.join(known) or 'none'}")
    for layer in layers:
        layer.unmerge()
        layer.active = name if name is not None and name in layer.adapters else None


def merge_adapter(model: nn.Module) -> None:
    """Add the active adapter into the weights of every layer; `unmerge_adapter` restores them exactly."""
    for _, layer in lora_layers(model):
        layer.merge()


def unmerge_adapter(model: nn.Module) -> None:
    """Restore the weights as they were before `merge_adapter`."""
    for _, layer in lora_layers(model):
        layer.unmerge()


def fold_adapter(model: nn.Module) -> None:
    """Merge the active adapter and put plain layers back: the model has its old shape, and is unfrozen."""
    merge_adapter(model)
    for name, layer in list(lora_layers(model)):
        model.set_submodule(name, layer.base)
    model.requires_grad_(True)

"""`adapter_config.json`: which layers a peft adapter adapts, and with what rank and alpha, by the rules of peft.

Settings go by name. A layer is a target if its name ends in one of `target_modules`, or if that is an expression that
matches the whole name. Its rank and alpha are those of the first key of `rank_pattern` and `alpha_pattern` that matches
the end of its name, as an expression. Whatever else a file may say changes what the adapter computes, so it is refused by
name: other initial weights, which change the base model too; whole layers or biases that are stored besides; adapters
that act on some tokens only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import regex

from finetuning.adapters.lora import AdapterError, LoRAConfig
from groundwork.files import read_json
from groundwork.foreign_settings import ForeignSettings
from groundwork.user_errors import brief, is_finite

CONFIG = "adapter_config.json"
MATCHING_SECONDS = 1.0  # an expression may take exponential time
# Ways to draw the first A and B that leave the base model as it is. What the file holds has replaced them.
PLAIN_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")
# What describes the file, or belongs to an initialisation or an option that is refused where it is on.
HARMLESS = frozenset(
    [
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "fan_in_fan_out",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    ]
)


@dataclass(frozen=True)
class PeftConfig:
    """What `adapter_config.json` says.

    Args:
        default: settings of a layer that no pattern names.
        ranks: pattern → rank.
        alphas: pattern → alpha.
        targets: ends of names, or an expression.
        excluded: the same, of layers that are left out.
        layers: numbers of the blocks with adapted layers; None for all.
        layers_names: expressions for what blocks are called, such as `layers`; empty for any name.
    """

    default: LoRAConfig
    ranks: dict[str, int]
    alphas: dict[str, float]
    targets: str | list[str]
    excluded: str | list[str]
    layers: list[int] | None
    layers_names: list[str]

    def is_target(self, module: str) -> bool:
        """Whether a layer is adapted.

        Args:
            module: its name in the Hugging Face class.
        """
        if _is_named(self.excluded, module):
            return False
        if isinstance(self.targets, str) and self.targets.lower() == "all-linear":
            return module not in ("lm_head", "head")
        if not _is_named(self.targets, module):
            return False
        if not self.layers:
            return True
        beginnings = [rf"(?:^|.*?\.){name}" for name in self.layers_names] or [r".*?\.[^.]*"]
        for beginning in beginnings:
            if found := _match(rf"{beginning}\.(?P<number>\d+)\.", module, whole=False):
                return int(found["number"]) in self.layers
        return False

    def of_layer(self, module: str) -> LoRAConfig:
        """Rank, alpha and variant of a layer, by its name in the Hugging Face class."""
        return replace(
            self.default,
            rank=_first_match(self.ranks, module, self.default.rank),
            alpha=_first_match(self.alphas, module, self.default.alpha),
        )


def read_peft_config(folder: Path) -> PeftConfig:
    """Read the configuration of an adapter.

    Raises:
        AdapterError: there is none, or it asks for something that is not supported; the message names it.
    """
    path = folder / CONFIG
    if not path.exists():
        raise AdapterError(f"{folder} is not an adapter: it has no {CONFIG}")
    try:
        settings = ForeignSettings(read_json(path), str(path))
        kind = settings.value("peft_type")
        if kind != "LORA":
            raise AdapterError(f"{folder} holds an adapter of type {brief(kind, quotes=False)}; only LORA is supported")
        _require_plain_lora(settings)
        config = PeftConfig(
            default=LoRAConfig(
                rank=settings.whole("r"),
                alpha=settings.number("lora_alpha"),
                dropout=settings.number("lora_dropout", 0.0),
                rank_stabilised=settings.flag("use_rslora", False),
                dora=settings.flag("use_dora", False),
            ),
            ranks=_pattern(settings, "rank_pattern", lambda x: type(x) is int and x > 0, "ranks"),
            alphas=_pattern(settings, "alpha_pattern", lambda x: is_finite(x) and x > 0, "numbers above 0"),
            targets=_names(settings, "target_modules"),
            excluded=_names(settings, "exclude_modules", []),
            layers=_layers(settings),
            layers_names=_listed(_names(settings, "layers_pattern", [])),
        )
        settings.refuse_others(HARMLESS)
        if (config.layers and isinstance(config.targets, str)) or (config.layers_names and not config.layers):
            raise AdapterError(
                f"{path}: layers_to_transform needs target_modules as a list, and layers_pattern needs layers_to_transform"
            )
        return config
    except AdapterError:
        raise
    except ValueError as error:
        raise AdapterError(str(error)) from None


def peft_config_content(
    config: LoRAConfig, layers: dict[str, tuple[int, float]], transposed: bool, base_model: str
) -> dict[str, Any]:
    """The content of `adapter_config.json`.

    Args:
        config: of one of the layers.
        layers: rank and alpha of each layer by its name in the file. They are written for each, so that no default and no
            expression decides.
        transposed: whether the base model stores its matrices as (in, out).
        base_model: name or path of the base model.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": sorted(layers),
        "rank_pattern": {module: rank for module, (rank, _) in sorted(layers.items())},
        "alpha_pattern": {module: alpha for module, (_, alpha) in sorted(layers.items())},
    }


def _require_plain_lora(settings: ForeignSettings) -> None:
    if settings.value("bias", "none") != "none" or settings.value("modules_to_save", None):
        raise AdapterError(
            f"{settings.file} says that biases or whole layers were trained besides (bias, modules_to_save); only LoRA "
            "matrices are supported"
        )
    start = settings.value("init_lora_weights", True)
    if not isinstance(start, bool) and not (isinstance(start, str) and start.lower() in PLAIN_INITIALISATIONS):
        raise AdapterError(
            f"{settings.file} has init_lora_weights: {brief(start)}, which changes the weights of the base model as well; "
            "convert the adapter with peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        )
    if settings.value("alora_invocation_tokens", None) is not None:
        raise AdapterError(
            f"{settings.file} has alora_invocation_tokens: the adapter acts only after these tokens (activated LoRA), which "
            "is not supported"
        )


def _pattern(settings: ForeignSettings, name: str, fits: Any, what: str) -> dict[str, Any]:
    found = settings.value(name, None) or {}
    if not isinstance(found, dict) or not all(fits(value) for value in found.values()):
        raise AdapterError(f"{settings.file} has {name}: {brief(found)}; it should give {what} by the names of layers")
    return found


def _names(settings: ForeignSettings, name: str, *default: Any) -> str | list[str]:
    found = settings.value(name, *default)
    found = default[0] if found is None and default else found
    if not isinstance(found, str) and not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        raise AdapterError(
            f"{settings.file} has {name}: {brief(found)}; it should be a list of names, or an expression"
        )
    return found


def _listed(names: str | list[str]) -> list[str]:
    return names if isinstance(names, list) else [names] if names else []


def _layers(settings: ForeignSettings) -> list[int] | None:
    found = settings.value("layers_to_transform", None)
    listed = [found] if type(found) is int else found
    if listed is not None and not (isinstance(listed, list) and all(type(layer) is int for layer in listed)):
        raise AdapterError(f"{settings.file} has layers_to_transform: {brief(found)}; it should be numbers of layers")
    return listed


def _is_named(names: str | list[str], module: str) -> bool:
    """Whether an expression matches a name, or one of several names is its end."""
    if isinstance(names, str):
        return bool(names) and _match(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _first_match(patterns: dict[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if _match(rf"(.*\.)?({key})", module)), default)


def _match(expression: str, name: str, whole: bool = True) -> regex.Match[str] | None:
    """Match an expression of the file with a name, or with its beginning.

    Raises:
        AdapterError: it is not an expression, or it takes too long.
    """
    try:
        re.compile(expression)  # what peft compiles; `regex` allows more, and it can be stopped
        return (regex.fullmatch if whole else regex.match)(expression, name, timeout=MATCHING_SECONDS)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise AdapterError(f"{CONFIG} has {brief(expression)}, which is not a regular expression: {error}") from None
    except TimeoutError:
        raise AdapterError(f"{CONFIG} has the expression {brief(expression)}, which takes too long to match") from None

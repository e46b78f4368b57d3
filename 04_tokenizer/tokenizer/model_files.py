"""The files beside a model that say how it is used: begin and end tokens, padding, chat template, sampling.

Hugging Face keeps them in `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and
`chat_template.jinja`. A checkpoint keeps them as they are, beside its `tokenizer.json`, so that they come out of an
export as they came in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundwork.files import read_json, write_atomically
from groundwork.text_sources import read_text

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
GENERATION_CONFIG, CHAT_TEMPLATE = "generation_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class ModelFiles:
    """What the files say.

    Args:
        tokenizer_config: names of the special tokens, `add_bos_token`, and more.
        special_tokens_map: names of the special tokens, in older folders.
        generation_config: ids that end a text, and how to sample; see `transformer.generation_config`.
        chat_template: a Jinja template that writes a conversation; None for a model that was not taught to converse.
    """

    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None

    @classmethod
    def read(cls, folder: Path) -> ModelFiles:
        """Read those that a folder has.

        Where a folder has no `generation_config.json`, the ids in `config.json` stand for it.

        Raises:
            TextError: a file is damaged.
        """
        tokenizer_config = _read(folder / TOKENIZER_CONFIG)
        generation = _read(folder / GENERATION_CONFIG)
        if not (folder / GENERATION_CONFIG).exists() and (folder / "config.json").exists():
            config = _read(folder / "config.json")
            names = ("bos_token_id", "eos_token_id", "pad_token_id")
            generation = {name: config[name] for name in names if config.get(name) is not None}
        path = folder / CHAT_TEMPLATE
        if path.exists():
            template: str | None = read_text(path)
        else:
            template = _template_in(tokenizer_config.get("chat_template"))
        return cls(tokenizer_config, _read(folder / SPECIAL_TOKENS_MAP), generation, template)

    def write(self, folder: Path) -> None:
        """Write them into a folder, as they are."""
        if self.tokenizer_config:
            _write(folder / TOKENIZER_CONFIG, self.tokenizer_config)
        if self.special_tokens_map:
            _write(folder / SPECIAL_TOKENS_MAP, self.special_tokens_map)
        if self.generation_config:
            _write(folder / GENERATION_CONFIG, self.generation_config)
        if (
            self.chat_template is not None
            and _template_in(self.tokenizer_config.get("chat_template")) != self.chat_template
        ):
            write_atomically(folder / CHAT_TEMPLATE, self.chat_template)

    def with_chat_template(self, template: str, end_token: str, end_id: int) -> ModelFiles:
        """The same files for a model that was taught another chat template, whose answers end with this token."""
        config = {name: value for name, value in self.tokenizer_config.items() if name != "chat_template"}
        ends = list(dict.fromkeys([end_id, *self.generation_ids("eos_token_id")]))
        return ModelFiles(
            {**config, "eos_token": end_token},
            {**self.special_tokens_map, "eos_token": end_token} if self.special_tokens_map else {},
            {**self.generation_config, "eos_token_id": ends},
            template,
        )

    def __bool__(self) -> bool:
        return bool(self.tokenizer_config or self.special_tokens_map or self.generation_config or self.chat_template)

    def token(self, name: str) -> str | None:
        """The text of `bos_token`, `eos_token`, `pad_token` or `unk_token`; None where there is none."""
        entry = self.tokenizer_config.get(name, self.special_tokens_map.get(name))
        if isinstance(entry, Mapping):  # with its options
            entry = entry.get("content")
        return entry if isinstance(entry, str) else None

    @property
    def named_tokens(self) -> dict[str, str]:
        """The special tokens that have a name, such as `bos_token`, as chat templates use them."""
        names = dict.fromkeys([*self.special_tokens_map, *self.tokenizer_config])
        return {name: text for name in names if name.endswith("_token") and (text := self.token(name)) is not None}

    @property
    def adds_begin_token(self) -> bool | None:
        """Whether a text begins with the begin token, for a tokenizer whose own file does not say it; None: not said."""
        adds = self.tokenizer_config.get("add_bos_token")
        return None if adds is None else bool(adds)

    def generation_ids(self, name: str) -> list[int]:
        """`bos_token_id`, `eos_token_id` or `pad_token_id` as a list; there may be several ids that end a text."""
        value = self.generation_config.get(name)
        return list(value) if isinstance(value, list) else [] if value is None else [value]


def _template_in(entry: Any) -> str | None:
    """The template in a `tokenizer_config.json`, which may hold several with names."""
    if isinstance(entry, list):
        named = {template["name"]: template["template"] for template in entry}
        entry = named.get("default")
    return entry if isinstance(entry, str) else None


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

"""What the server serves: an engine with a name, and how conversations and prompts become its tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from deployment.attention_look import AttentionLook
from deployment.errors import ApiError
from deployment.settings import ServerSettings
from finetuning.adapters.lora import fold_adapter
from finetuning.adapters.peft_format import load_adapter
from finetuning.base_model import find_template, is_foreign
from finetuning.data.chat_format import (
    TEMPLATES,
    ChatFormat,
    ConversationError,
    Message,
    require_tools_are_read,
)
from finetuning.data.jinja_template import JinjaTemplate
from groundwork.tensor_files import is_finite
from optimization.engine.engine import Engine
from optimization.engine.events import PromptError
from optimization.model_loading import load_for_inference
from tokenizer.interface import Tokenizer
from tokenizer.streaming import StreamingDecoder
from training.checkpoints.checkpoint import STEP_FOLDER, CheckpointError, find_checkpoint, newest_run, read_settings
from training.placement import choose_placement
from transformer.generation_config import recommended_sampling

Subject = Literal["python", "general"]


@dataclass
class ServedModel:
    """One name that clients may ask for.

    Args:
        name: the value of the field `model` in a request.
        engine: generates the tokens.
        template: how a conversation is written as text; None for a model that was not taught to converse.
        base: for an adapter, the name of the model that it belongs to.
        subject: what it has read, for the examples of the chat page.

    Raises:
        UserError: the model's `generation_config.json` says how to sample in a way that makes no sense.
    """

    name: str
    engine: Engine
    template: ChatFormat | None
    base: str | None = None
    subject: Subject = "general"
    created: int = field(default_factory=lambda: int(time.time()))
    recommended: dict[str, Any] = field(init=False)
    _texts: dict[int, str] = field(default_factory=dict)
    _look: AttentionLook = field(init=False)

    def __post_init__(self) -> None:
        self._look = AttentionLook(self.engine.model, self.engine.placement.precision)
        self.recommended = recommended_sampling(self.tokenizer.files.generation_config)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the engine."""
        return self.engine.tokenizer

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text: the end of a document, and the assistant's sign that it has finished."""
        ends = set(self.tokenizer.end_ids)
        if self.template is not None:
            ends.add(self.template.end_id(self.tokenizer))
        return frozenset(ends)

    def encode_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """A prompt as ids. Text comes after the begin token, as in training; ids are not changed."""
        return self.engine.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)

    def encode_conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation as ids, up to the place where the assistant answers.

        The roles need not take turns: a template writes two users in a row and a later system message as they are.

        Args:
            messages: the last one is what is answered.
            tools: functions that the model may call, for a template that reads them.

        Raises:
            ConversationError: the model has no chat format, or one that does not read what there is; or there is nothing
                to answer.
            PromptError: the conversation is longer than the context.
        """
        if self.template is None:
            raise ConversationError(
                f"the model {self.name!r} was not taught a chat format: its tokenizer has the special tokens of none of "
                f"{', '.join(TEMPLATES)}. Fine-tune it (stage 6), or use /v1/completions"
            )
        if messages[-1].role == "assistant":
            raise ConversationError(f"message {len(messages)} is from the assistant, it should be from the user")
        if all(message.role != "user" for message in messages):
            raise ConversationError("no message is from the user: there is nothing to answer")
        if len(messages) > self.engine.context_length:  # each has a token at least; to encode them would take long
            raise PromptError(
                f"the conversation has {len(messages)} messages, the model's context is {self.engine.context_length} "
                "tokens: leave out its oldest messages"
            )
        require_tools_are_read(self.template, messages, tools)
        if isinstance(self.template, JinjaTemplate):
            ids = self.template.encode(messages, self.tokenizer, generation_prompt=True, tools=tools or None).ids
        else:
            ids = self.template.encode(messages, self.tokenizer, generation_prompt=True).ids
        if len(ids) > self.engine.context_length:
            raise PromptError(
                f"the conversation has {len(ids)} tokens, the model's context is {self.engine.context_length}: "
                "shorten it or leave out its oldest messages"
            )
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id stands for."""
        return self.tokenizer.continue_bytes([token])

    def token_text(self, token: int) -> str:
        """The text of an id, for people. A part of a character is written as OpenAI writes it: `bytes:\\xe2\\x82`."""
        if token not in self._texts:  # an answer may name 250,000 alternatives
            data = self.token_bytes(token)
            try:
                self._texts[token] = data.decode("utf-8")
            except UnicodeDecodeError:
                self._texts[token] = "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        return self._texts[token]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each id completes. Joined, the pieces are the decoded text."""
        decoder = StreamingDecoder(self.tokenizer)
        pieces = [decoder.decode([token]) for token in tokens]
        if pieces:
            pieces[-1] += decoder.finish()
        return pieces

    def attention(self, tokens: Sequence[int], reader: str | None = None) -> Tensor:
        """The attention weights of the last token, (layers, heads, tokens); see `AttentionLook`.

        Raises:
            ApiError: the weights are nan, as those of a damaged model.
        """
        weights = self._look.weights(tokens, reader)
        if not is_finite(weights):
            raise ApiError(500, "the attention weights are not finite numbers: the model is damaged")
        return weights


def name_of(folder: Path) -> str:
    """The name of the model in a checkpoint folder or a GGUF file: the name of its run or file."""
    folder = folder.resolve()
    if folder.suffix == ".gguf":
        return folder.stem
    return folder.parent.name if STEP_FOLDER.fullmatch(folder.name) else folder.name


def load_models(settings: ServerSettings) -> dict[str, ServedModel]:
    """Load the model and the adapters that the settings name. The first one is the default.

    Each adapter gets its own engine, whose weights include the adapter's correction. So no token costs extra
    computation, but each name costs the memory of a model and its cache.

    Raises:
        ValueError: something is missing or damaged; a subclass says what.
    """
    path = settings.checkpoint or newest_run()
    placement = choose_placement(settings.device, settings.precision)
    name = settings.model_name or name_of(Path(path))
    models: dict[str, ServedModel] = {}
    for served, adapter in [(name, None), *settings.adapters.items()]:
        if served in models:
            raise ValueError(f"two models are called {served!r}; choose another name for the adapter")
        loaded = load_for_inference(path, placement.device)
        if adapter is not None:
            load_adapter(loaded.model, adapter)
            fold_adapter(loaded.model)
        engine = Engine(loaded.model, loaded.tokenizer, placement, settings.engine)
        template = find_template(loaded.tokenizer, settings.chat_template)
        base = None if adapter is None else name
        models[served] = ServedModel(served, engine, template, base, subject_of(loaded.folder))
    return models


def subject_of(folder: Path) -> Subject:
    """What a model has read: `python` for Python's documentation, by its own settings or those of the model it began as."""
    settings: dict[str, Any] = read_settings(folder)
    for _ in range(3):  # preferences after instructions after pretraining
        if "python_docs" in str(settings.get("data")):
            return "python"
        base = settings.get("base")
        if not isinstance(base, str) or is_foreign(base):
            break
        try:
            settings = read_settings(find_checkpoint(base))
        except CheckpointError:  # it has been moved or removed since
            break
    return "general"

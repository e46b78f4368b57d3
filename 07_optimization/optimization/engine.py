"""The engine: one object that owns the model and turns prompts into tokens.

The command line, the evaluator and the server all generate through it. This one decodes a single
sequence at a time with a key-value cache; callers from several threads wait for one another.
"""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from optimization.kv_cache import ContiguousKVCache
from tokenizer.interface import Tokenizer
from training.checkpoint import load_model
from training.placement import Placement, choose_placement
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, sample_next_token, shift_context
from transformer.stop_sequences import StopSequences

FinishReason = Literal["stop", "length"]


class PromptError(ValueError):
    """A prompt that the model cannot take."""


@dataclass
class GenerationStats:
    """Filled in while a generation runs.

    Args:
        prompt_tokens: tokens of the prompt.
        generated_tokens: tokens made so far.
        first_token_seconds: from the call to the first token.
        total_seconds: from the call to the last token so far.
        context_shifts: how often the context was full and its older half was dropped.
        finish_reason: `stop` at the end-of-text token or a stop string, `length` at `max_tokens`, None before.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0
    context_shifts: int = 0
    finish_reason: FinishReason | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token."""
        seconds = self.total_seconds - self.first_token_seconds
        return (self.generated_tokens - 1) / seconds if seconds > 0 else 0.0


class Engine:
    """Generates text.

    Args:
        model: in evaluation mode, on the placement's device.
        tokenizer: the model's.
        placement: device and precision.
    """

    def __init__(self, model: GPTModel, tokenizer: Tokenizer, placement: Placement):
        self.model, self.tokenizer, self.placement = model, tokenizer, placement
        self._lock = threading.Lock()

    @classmethod
    def from_checkpoint(cls, path: Path | str, device: str = "auto") -> Engine:
        """Load a checkpoint, in float32.

        Raises:
            CheckpointError: missing or damaged.
            DeviceError: the device is not there.
        """
        placement = choose_placement(device, "float32")
        loaded = load_model(path, placement.device)
        return cls(loaded.model, loaded.tokenizer, placement)

    @property
    def context_length(self) -> int:
        """The longest prompt, in tokens."""
        return self.model.config.context_length

    def encode_prompt(self, prompt: str) -> list[int]:
        """Prompt to ids, behind the end-of-text token that every training document begins with.

        Raises:
            PromptError: longer than the context.
            TokenizerError: a character that a character tokenizer does not know.
        """
        ids = self.tokenizer.encode(prompt)
        end_of_text = self.tokenizer.end_of_text_id
        if end_of_text is not None:
            ids = [end_of_text, *ids]
        if not ids:
            raise PromptError("the prompt is empty, and this tokenizer has no token to begin a text with")
        if len(ids) > self.context_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.context_length}: shorten the prompt"
            )
        return ids

    def generate_ids(
        self, prompt_ids: list[int], parameters: SamplingParameters, stats: GenerationStats | None = None
    ) -> Iterator[int]:
        """Generate ids with a key-value cache; the same ids as `transformer.sampling.generate`.

        Args:
            prompt_ids: at least one id, at most `context_length`.
            parameters: how to choose, and how many.
            stats: filled in as it goes.

        Yields:
            One id at a time, without the end-of-text token that may end it.
        """
        stats = stats if stats is not None else GenerationStats()
        stats.prompt_tokens = len(prompt_ids)
        start = time.perf_counter()
        generator = parameters.generator()
        cache = ContiguousKVCache(self.model.config, device=self.placement.device)
        window, new_ids, generated = list(prompt_ids), list(prompt_ids), list[int]()
        while stats.generated_tokens < parameters.max_tokens:
            # The lock is held for one forward pass, not while the caller does something with the token.
            with self._lock, torch.inference_mode():
                token_ids = torch.tensor([new_ids], device=self.placement.device)
                logits = self.model(token_ids, cache, last_only=True)[0, -1]
                token = sample_next_token(logits, parameters, generator, prompt_ids, generated)
            stats.total_seconds = time.perf_counter() - start
            if stats.generated_tokens == 0:
                stats.first_token_seconds = stats.total_seconds
            if token == self.tokenizer.end_of_text_id:
                stats.finish_reason = "stop"
                return
            stats.generated_tokens += 1
            yield token
            generated.append(token)
            kept = shift_context(window, self.context_length)
            if len(kept) < len(window):  # positions have moved: compute the kept part anew
                stats.context_shifts += 1
                cache.clear()
                new_ids = [*kept, token]
            else:
                new_ids = [token]
            window = [*kept, token]
        stats.finish_reason = "length"

    def generate(
        self, prompt: str, parameters: SamplingParameters, stats: GenerationStats | None = None
    ) -> Iterator[str]:
        """Generate text piece by piece, each piece whole characters.

        Raises:
            PromptError, TokenizerError: see `encode_prompt`; raised at the call, before the first piece.
        """
        return self._stream(self.encode_prompt(prompt), parameters, stats)

    def _stream(self, ids: list[int], parameters: SamplingParameters, stats: GenerationStats | None) -> Iterator[str]:
        # A character may be spread over several tokens; the decoder holds its first bytes back.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        stop = StopSequences(parameters.stop)
        stats = stats if stats is not None else GenerationStats()
        for token in self.generate_ids(ids, parameters, stats):
            if piece := stop.push(decoder.decode(self.tokenizer.decode_bytes([token]))):
                yield piece
            if stop.stopped:
                stats.finish_reason = "stop"
                return
        if piece := stop.push(decoder.decode(b"", final=True)) + stop.flush():
            yield piece

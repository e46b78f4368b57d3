"""Text from a model, for tasks with written answers and for a look at how the model fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groundwork.user_errors import UserError
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest, RequestHandle
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote.

    Args:
        text: the continuation, without the stop text.
        num_tokens: how many tokens were generated.
        ended: whether it ended by itself or at a stop text; otherwise the limit was reached.
        was_cut: whether the beginning of the prompt was dropped to fit the model.
    """

    text: str
    num_tokens: int
    ended: bool
    was_cut: bool


# (prompts, most tokens of each, texts that end it) → continuations
Generate = Callable[[Sequence[str], int, Sequence[str]], list[GeneratedText]]


def text_generator(
    model: GPTModel,
    tokenizer: Tokenizer,
    placement: Placement,
    parameters: SamplingParameters | None = None,
    begin_with_end_of_text: bool = True,
) -> Generate:
    """A function that continues prompts, many at once, with the engine of stage 7.

    A long prompt loses its beginning to leave room for the text, but at least half the context stays for the prompt.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        placement: device and precision.
        parameters: how to draw; None for greedy. Where a seed is set, prompt number i draws with seed + i.
        begin_with_end_of_text: put first what the model's texts begin with, such as `<|endoftext|>`.
    """
    drawing = parameters or SamplingParameters(temperature=0.0)
    end, context = tokenizer.end_of_text_id, model.config.context_length
    engine = Engine(model, tokenizer, placement)

    def submit(number: int, ids: list[int], max_tokens: int, stop: Sequence[str]) -> RequestHandle:
        seed = None if drawing.seed is None else drawing.seed + number
        parameters = dataclasses.replace(drawing, max_tokens=max_tokens, stop=tuple(stop), seed=seed)
        return engine.submit(GenerationRequest(ids, parameters))

    def continue_texts(prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[GeneratedText]:
        room = max(1, context // 2, context - max_tokens)
        encoded = []
        for prompt in prompts:
            ids = tokenizer.encode(prompt)
            if begin_with_end_of_text:
                ids = tokenizer.begin_ids + ids
            if not ids and end is not None:
                ids = [end]
            if not ids:
                raise UserError("an empty prompt cannot be continued: the tokenizer has no end-of-text token")
            encoded.append(ids)
        texts: list[GeneratedText] = []
        for first in range(0, len(encoded), engine.settings.max_waiting):
            part = encoded[first : first + engine.settings.max_waiting]
            handles = [submit(first + i, ids[-room:], max_tokens, stop) for i, ids in enumerate(part)]
            texts += [_collect(handle, len(ids) > room) for handle, ids in zip(handles, part, strict=True)]
        return texts

    return continue_texts


def _collect(handle: RequestHandle, was_cut: bool) -> GeneratedText:
    pieces, tokens, reason = list[str](), 0, None
    for event in handle:
        if event.error is not None:
            raise UserError(f"generation failed: {event.error}")
        pieces.append(event.text)
        tokens += event.token is not None
        reason = event.finish_reason or reason
    return GeneratedText("".join(pieces), tokens, reason == "stop", was_cut)

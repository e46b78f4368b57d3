"""Text from a model, for tasks that are answered by writing and for a look at how it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.errors import EvaluationError
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate
from transformer.stop_sequences import StopSequences


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote.

    Args:
        text: the continuation, without the text that ended it.
        num_tokens: how many tokens were generated.
        ended: whether it ended by itself or at a stop text; otherwise the limit was reached.
        was_cut: whether the beginning of the prompt was dropped to fit the model.
    """

    text: str
    num_tokens: int
    ended: bool
    was_cut: bool


# (prompt, most tokens, texts that end it) → continuation
Generate = Callable[[str, int, Sequence[str]], GeneratedText]


def text_generator(
    model: GPTModel,
    tokenizer: Tokenizer,
    placement: Placement,
    parameters: SamplingParameters | None = None,
    begin_with_end_of_text: bool = True,
) -> Generate:
    """A function that continues prompts with the plain decoder of stage 3.

    A prompt leaves room for the text where it can: its beginning is dropped down to half the context.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        placement: device and precision.
        parameters: how to draw; greedy if None.
        begin_with_end_of_text: put `<|endoftext|>` first, as every document began in training.
    """
    drawing = parameters or SamplingParameters(temperature=0.0)
    end, context = tokenizer.end_of_text_id, model.config.context_length

    def continue_text(prompt: str, max_tokens: int, stop: Sequence[str]) -> GeneratedText:
        ids = tokenizer.encode(prompt)
        if end is not None and (begin_with_end_of_text or not ids):
            ids = [end, *ids]
        if not ids:
            raise EvaluationError("an empty prompt cannot be continued: the tokenizer has no end-of-text token")
        room = max(1, context // 2, context - max_tokens)
        settings = dataclasses.replace(drawing, max_tokens=max_tokens)
        sequences, written, text, passed = StopSequences(stop), list[int](), "", 0
        with placement.autocast():
            for token in generate(model, ids[-room:], settings, () if end is None else (end,)):
                written.append(token)
                decoded = tokenizer.decode(written)
                if decoded.endswith("\ufffd"):
                    continue  # the rest of a character is still to come
                text += sequences.push(decoded[passed:])
                passed = len(decoded)
                if sequences.stopped:
                    break
        if not sequences.stopped:
            text += sequences.push(tokenizer.decode(written)[passed:]) + sequences.flush()
        return GeneratedText(text, len(written), sequences.stopped or len(written) < max_tokens, len(ids) > room)

    return continue_text

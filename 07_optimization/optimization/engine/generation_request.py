"""What a caller asks for: one prompt, and how to continue it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optimization.engine.events import PromptError, RequestError
from transformer.sampling import SamplingParameters


@dataclass(frozen=True)
class GenerationRequest:
    """One text to generate. `Engine.submit` takes it.

    Args:
        prompt_ids: at least one id, at most as many as the model's context has.
        parameters: how to choose tokens, and how many.
        priority: requests with a smaller number go first.
        end_ids: ids that end the text; None for the end-of-text token, an empty collection for none.
        logprobs: how many alternatives to report with each token; 0 for the probability of the token alone, None for
            no report.
        prompt_logprobs: report the tokens of the prompt too, in `RequestHandle.prompt_logprobs`.
    """

    prompt_ids: Sequence[int]
    parameters: SamplingParameters
    priority: int = 0
    end_ids: Collection[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False

    def check(self, vocab_size: int, context_length: int) -> None:
        """Refuse what a model of this size cannot compute.

        Args:
            vocab_size: ids that the tokenizer knows.
            context_length: the most tokens that the model sees at once.

        Raises:
            PromptError: the prompt is empty or too long, or has an id outside the vocabulary.
            RequestError: another field is outside its limits.
        """
        check_length(self.prompt_ids, context_length)
        if unknown := [token for token in self.prompt_ids if not 0 <= token < vocab_size]:
            raise PromptError(f"the prompt has id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if unknown := [token for token in self.parameters.logit_bias if not 0 <= token < vocab_size]:
            raise RequestError(f"logit_bias names id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if self.logprobs is not None and not 0 <= self.logprobs <= vocab_size:
            raise RequestError(f"logprobs must be between 0 and {vocab_size}, got {self.logprobs}")


def check_length(prompt_ids: Sequence[int], context_length: int) -> None:
    """Refuse a prompt that is empty or longer than the context.

    Raises:
        PromptError: it is.
    """
    if not prompt_ids:
        raise PromptError("the prompt is empty, and this tokenizer has no token to begin a text with")
    if len(prompt_ids) > context_length:
        raise PromptError(
            f"the prompt has {len(prompt_ids)} tokens, the model's context is {context_length}: shorten the prompt"
        )

"""From logits to text: how the next token is chosen, and the simplest loop that generates text."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attention.masks import left_padded_positions, left_padding_mask
from groundwork.tensor_files import is_finite
from groundwork.user_errors import require_texts
from transformer.gpt_model import GPTModel
from transformer.logits_processors import (
    COLD,
    add_logit_bias,
    apply_temperature,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_occurrences,
    penalise_repetition,
)

MAX_TOKENS = 1_000_000  # in one generation; a larger number is probably a typing error
MAX_BIAS = 1e9  # with a larger number, even float64 would round away what the logits say
# float32 has seven digits. Where parameters need more, float64 computes.
MAX_SHIFT = 100.0  # what is added to a logit
MIN_PENALTY = 0.01
MAX_SHARE = 0.9999  # a probability to keep that is less than 1


class LogitsError(ValueError):
    """Logits from which no token can be chosen."""


@dataclass(frozen=True)
class SamplingParameters:
    """How to choose tokens.

    Args:
        max_tokens: the most tokens to generate.
        temperature: divides the logits; below 1 sharpens, above 1 flattens, 0 is greedy.
        top_k: keep only the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens that together reach this probability; 1 keeps all.
        seed: seed of the random numbers; null for a different result every time.
        min_p: keep tokens at least this many times as likely as the most likely one; 0 keeps all.
        typical_p: keep the most typical tokens that together reach this probability; 1 keeps all.
        repetition_penalty: above 1 makes tokens of the prompt and the text less likely.
        presence_penalty: subtracted from the logit of every token that was generated.
        frequency_penalty: subtracted once for each time that a token was generated.
        logit_bias: added to the logits of some ids; -inf forbids an id.
        stop: strings that end the text; they are not part of it.
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int | None = None
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens must be between 1 and {MAX_TOKENS:,}, got {self.max_tokens:,}")
        if not 0.0 <= self.temperature <= 100.0:  # also false for nan
            raise ValueError(f"temperature must be between 0 and 100, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        for name in ("top_p", "typical_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be between 0 and 1, got {self.min_p}")
        if not 0.0 < self.repetition_penalty <= 100.0:
            raise ValueError(f"repetition_penalty must be above 0 and at most 100, got {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -100.0 <= getattr(self, name) <= 100.0:
                raise ValueError(f"{name} must be between -100 and 100, got {getattr(self, name)}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")
        for bias in self.logit_bias.values():
            if not (abs(bias) <= MAX_BIAS or bias == -math.inf):
                raise ValueError(
                    f"logit_bias values must be between {-MAX_BIAS:g} and {MAX_BIAS:g}, or -inf to forbid an id, got {bias}"
                )
        require_texts(self.stop)
        if any(not string for string in self.stop):
            raise ValueError("stop must not contain an empty string: it would stop before the first character")

    @functools.cached_property
    def needs_float64(self) -> bool:
        """Whether seven digits are too few for these parameters, however many tokens are generated."""
        shifts = [abs(bias) for bias in self.logit_bias.values() if bias != -math.inf]
        return (
            0.0 < self.temperature < COLD
            or self.repetition_penalty < MIN_PENALTY
            or max(shifts, default=0.0) > MAX_SHIFT
            or any(MAX_SHARE < share < 1.0 for share in (self.top_p, self.typical_p))
        )

    def generator(self) -> torch.Generator:
        """A source of randomness that starts from the seed.

        It is always on the CPU, so that a seed means the same on every device.
        """
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def process_logits(
    logits: Tensor, parameters: SamplingParameters, prompt: Sequence[int] = (), generated: Sequence[int] = ()
) -> Tensor:
    """Apply everything that the parameters ask for, in the order of Hugging Face's `generate`.

    Args:
        logits: (vocab,) float.
        parameters: applied in this order: bias and penalties, temperature, and what is kept. With
            temperature 0 nothing is done after the penalties.
        prompt: ids of the prompt, for the repetition penalty.
        generated: ids generated so far, for the penalties.

    Returns:
        (vocab,); its softmax is the distribution that is drawn from. It is in float64 if the parameters need it.
    """
    penalty = abs(parameters.presence_penalty) + abs(parameters.frequency_penalty) * len(generated)
    if parameters.needs_float64 or penalty > MAX_SHIFT:
        logits = logits.double()
    logits = add_logit_bias(logits, parameters.logit_bias)
    if parameters.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, [*prompt, *generated], parameters.repetition_penalty)
    logits = penalise_occurrences(logits, generated, parameters.presence_penalty, parameters.frequency_penalty)
    if parameters.temperature == 0.0:
        return logits
    logits = keep_top_k(apply_temperature(logits, parameters.temperature), parameters.top_k)
    logits = keep_min_p(keep_top_p(logits, parameters.top_p), parameters.min_p)
    return keep_typical(logits, parameters.typical_p)


def sample_next_token(
    logits: Tensor,
    parameters: SamplingParameters,
    generator: torch.Generator,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
) -> int:
    """Choose one token.

    Args:
        logits: (vocab,) of any float type, on any device.
        parameters: how to choose.
        generator: on the CPU; see `SamplingParameters.generator`.
        prompt: see `process_logits`.
        generated: see `process_logits`.

    Raises:
        ValueError: the logits do not have exactly one axis.
        LogitsError: they are nan or infinite, or every token is forbidden.
    """
    if logits.ndim != 1:
        raise ValueError(f"one token is chosen from logits (vocab,), got the shape {tuple(logits.shape)}")
    logits = logits.float().cpu()
    require_finite(logits)
    logits = process_logits(logits, parameters, prompt, generated)
    if parameters.temperature == 0.0:
        return most_likely(logits)
    return draw_token(logits.softmax(dim=-1), generator)


def require_finite(logits: Tensor) -> None:
    """Refuse what a model with damaged weights predicts, or one whose numbers are too large for their type.

    Args:
        logits: of any shape, as the model gave them.

    Raises:
        LogitsError: some are nan or infinite.
    """
    if not is_finite(logits):
        wrong = int(logits.isfinite().logical_not().sum())
        raise LogitsError(
            f"no token can be drawn: {wrong} of {logits.numel()} logits are nan or infinite; the model's weights are "
            "damaged, or its numbers are too large for its precision"
        )


def most_likely(logits: Tensor) -> int:
    """The id with the largest logit; the first of several that are equal.

    Args:
        logits: (vocab,), processed.

    Raises:
        LogitsError: every token is forbidden.
    """
    largest, token = logits.max(dim=-1)
    if not math.isfinite(largest):
        raise LogitsError(f"no token can be drawn: the largest logit is {float(largest)}; is every token forbidden?")
    return int(token)


def draw_token(probabilities: Tensor, generator: torch.Generator) -> int:
    """Draw from a distribution with one random number, for a vocabulary of any size.

    The number chooses a place in the cumulative sum. `torch.multinomial` draws one number for every token,
    which takes a millisecond for 50,000 tokens.

    Args:
        probabilities: (vocab,), not negative; their sum need not be 1.
        generator: on the CPU.

    Raises:
        LogitsError: the sum is nan, infinite or 0, so that nothing can be drawn.
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    total = float(cumulative[-1])
    if not 0.0 < total < math.inf:
        raise LogitsError(f"no token can be drawn: the probabilities sum to {total}; is every token forbidden?")
    place = torch.rand((), dtype=torch.float64, generator=generator) * total
    place = place.clamp(max=math.nextafter(total, 0.0))  # the product may be rounded up to the sum
    # Take the first token whose sum is above the place. A token of probability 0 adds nothing, so it is never taken.
    return int(torch.searchsorted(cumulative, place, right=True))


def shift_context(window: list[int], context_length: int) -> list[int]:
    """Make room when the context is full: keep the newer half.

    Dropping one token at a time would keep more. But every key and value depends on the position of its
    token in the window, so a cache would have to be rebuilt for every token. With half of the window
    dropped, it is rebuilt once in context_length / 2 tokens.
    """
    return window if len(window) < context_length else window[-(context_length // 2) or -1 :]


def _require_prompt(ids: Sequence[int], model: GPTModel) -> None:
    if not 1 <= len(ids) <= model.config.context_length:
        raise ValueError(f"a prompt needs from 1 to {model.config.context_length} ids, got {len(ids)}")


def generate(
    model: GPTModel, prompt_ids: list[int], parameters: SamplingParameters, end_ids: Collection[int] = ()
) -> Iterator[int]:
    """Generate token ids with the plain forward pass, which computes every position again for each token.

    This is the simplest correct decoder, and the reference for the cached one of stage 7. The text may
    become longer than the context; see `shift_context`.

    Args:
        model: in evaluation mode.
        prompt_ids: at least one id, at most `context_length`.
        parameters: how to choose, and how many tokens.
        end_ids: ids that end the text; they are not yielded.

    Yields:
        One id at a time.

    Raises:
        ValueError: the prompt has no ids, or more than the context.
    """
    _require_prompt(prompt_ids, model)
    window, generated = list(prompt_ids), list[int]()
    generator = parameters.generator()
    while len(generated) < parameters.max_tokens:
        with torch.inference_mode():
            logits = model(torch.tensor([window], device=model.device), last_only=True)
        token = sample_next_token(logits[0, -1], parameters, generator, prompt_ids, generated)
        if token in end_ids:
            return
        yield token
        generated.append(token)
        window = [*shift_context(window, model.config.context_length), token]


def generate_batch(
    model: GPTModel,
    prompts: Sequence[list[int]],
    parameters: SamplingParameters | Sequence[SamplingParameters],
    end_ids: Collection[int] = (),
) -> list[list[int]]:
    """Generate for several prompts at once, padding the shorter ones on the left.

    Each prompt gets the tokens that `generate` alone would give it.

    Args:
        model: in evaluation mode.
        prompts: each with at least one id and at most `context_length`.
        parameters: one for all, or one for each.
        end_ids: ids that end a text; they are not returned.

    Returns:
        The generated ids of each prompt.

    Raises:
        ValueError: a prompt has no ids or more than the context, or there are not as many parameters as prompts.
    """
    for prompt in prompts:
        _require_prompt(prompt, model)
    each = [parameters] * len(prompts) if isinstance(parameters, SamplingParameters) else list(parameters)
    if len(each) != len(prompts):
        raise ValueError(f"give parameters once for all prompts or once for each, got {len(each)} for {len(prompts)}")
    generators = [p.generator() for p in each]
    windows, outputs = [list(prompt) for prompt in prompts], [list[int]() for _ in prompts]
    running = list(range(len(prompts)))
    while running:
        lengths = torch.tensor([len(windows[i]) for i in running])
        time = int(lengths.max())
        padded = torch.tensor([[0] * (time - len(windows[i])) + windows[i] for i in running], device=model.device)
        positions = left_padded_positions(lengths, time).to(model.device)
        allowed = left_padding_mask(positions, time, model.config.window_of_all, model.config.attention_sinks)
        with torch.inference_mode():
            logits = model(padded, last_only=True, positions=positions, allowed=allowed)[:, -1]
        still_running = []
        for row, i in zip(logits, running, strict=True):
            token = sample_next_token(row, each[i], generators[i], prompts[i], outputs[i])
            if token in end_ids:
                continue
            outputs[i].append(token)
            windows[i] = [*shift_context(windows[i], model.config.context_length), token]
            if len(outputs[i]) < each[i].max_tokens:
                still_running.append(i)
        running = still_running
    return outputs

"""What can be done to logits before a token is drawn: each function is one idea.

All take logits (..., vocab) and return new ones; a token that may not be drawn has logit -inf.

python -m transformer.logits_processors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

FEW = 1024  # `keep_top_p` looks at this many of the most likely tokens before it sorts all
COLD = 0.01  # below this temperature, float32 would round away the differences that decide
SMALLEST = 1e-250  # a smaller divisor gives the same probabilities, but the quotients would overflow


def add_logit_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add a number to the logits of some tokens; -inf forbids a token.

    Raises:
        ValueError: an id is outside the vocabulary.
    """
    if not bias:
        return logits
    vocab_size = logits.shape[-1]
    for token in bias:
        if not 0 <= token < vocab_size:
            raise ValueError(f"logit_bias names id {token}; the vocabulary has ids 0 to {vocab_size - 1}")
    logits = logits.clone()
    logits[..., list(bias)] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    return logits


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Make tokens less likely if they have occurred: positive logits are divided, negative ones multiplied.

    Args:
        logits: (vocab,).
        seen: ids of the prompt and of what was generated.
        penalty: above 0; 1 changes nothing (Keskar et al., 2019: "CTRL").

    Raises:
        ValueError: the penalty is 0 or below.
    """
    if not penalty > 0.0:
        raise ValueError(f"the penalty must be above 0, got {penalty}")
    if penalty == 1.0 or len(seen) == 0:
        return logits
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    scores, penalty = logits[ids], max(penalty, SMALLEST)
    return logits.scatter(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits by the temperature: below 1 the likely tokens become more likely, above 1 less.

    At a very low temperature, quotients overflow, and their rounding is larger than the differences between them. A
    number that is added to all logits changes no probability, so there the largest logit is subtracted first.

    Args:
        logits: (..., vocab); float64 below `COLD`.
        temperature: above 0.

    Raises:
        ValueError: the temperature is 0 or below.
    """
    if not temperature > 0.0:
        raise ValueError(f"logits are divided by a temperature above 0, got {temperature}")
    if temperature < COLD:
        logits = logits - logits.amax(dim=-1, keepdim=True)
    return logits / max(temperature, SMALLEST)


def penalise_occurrences(logits: Tensor, generated: Sequence[int], presence: float, frequency: float) -> Tensor:
    """Subtract `presence` from the logits of tokens that were generated, and `frequency` once for each occurrence.

    Args:
        logits: (vocab,).
        generated: ids generated so far, without the prompt, as OpenAI's API defines it.
        presence: 0 turns it off.
        frequency: 0 turns it off.
    """
    if len(generated) == 0 or presence == frequency == 0.0:
        return logits
    counts = torch.bincount(torch.tensor(generated, device=logits.device), minlength=logits.shape[-1]).to(logits.dtype)
    return logits - presence * counts.clamp(max=1) - frequency * counts


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits (Fan et al., 2018), and those that equal the k-th.

    Args:
        logits: (..., vocab).
        k: how many to keep; 0 or more than the vocabulary keeps all.
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    kth = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al., 2020).

    Args:
        logits: (..., vocab).
        p: above 0; the most likely token always stays; 1 keeps all.

    Raises:
        ValueError: p is 0 or below.
    """
    if not p > 0.0:
        raise ValueError(f"p must be above 0, got {p}: no token would be left")
    if p >= 1.0:
        return logits
    if logits.shape[-1] > FEW:  # sorting a large vocabulary takes milliseconds, and usually a few tokens reach p
        top, indices = logits.topk(FEW, dim=-1)
        probabilities = (top - logits.logsumexp(dim=-1, keepdim=True)).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        if bool((before[..., -1] >= p).all()):
            kept = top.masked_fill(_reached(before, p), -torch.inf)
            return torch.full_like(logits, -torch.inf).scatter(-1, indices, kept)
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # probability of the more likely tokens
    reached = _reached(before, p)
    return logits.masked_fill(reached.scatter(-1, indices, reached), -torch.inf)


def _reached(before: Tensor, p: float) -> Tensor:
    """Where more likely tokens have reached p. The most likely token has none before it, even if p rounds to 0."""
    return (before >= p) & (before > 0)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the most likely one (Nguyen et al., 2024: "Min-p Sampling").

    Args:
        logits: (..., vocab).
        p: between 0, which keeps all, and 1.

    Raises:
        ValueError: p is out of range.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must be between 0 and 1, got {p}")
    if p == 0.0:
        return logits
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def keep_typical(logits: Tensor, mass: float) -> Tensor:
    """Keep tokens whose surprise -ln p is nearest to its expected value, up to a probability mass.

    People rarely write the most likely word every time (Meister et al., 2022: "Locally Typical
    Sampling"). So the most likely token may be dropped.

    Args:
        logits: (..., vocab).
        mass: above 0; 1 keeps all.

    Raises:
        ValueError: the mass is 0 or below.
    """
    if not mass > 0.0:
        raise ValueError(f"the mass must be above 0, got {mass}")
    if mass >= 1.0:
        return logits
    log_probabilities = logits.log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).nansum(dim=-1, keepdim=True)  # 0 · -inf counts as 0
    distance = (-log_probabilities - entropy).abs()
    ordered, indices = distance.sort(dim=-1, stable=True)
    cumulative = probabilities.gather(-1, indices).cumsum(dim=-1)
    last = (cumulative < mass).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(distance > ordered.gather(-1, last), -torch.inf)


def main() -> None:
    """Show what each processor leaves of one distribution."""
    logits = torch.tensor([3.0, 2.5, 2.3, 1.5, 1.2, 1.0, 0.4, 0.0, -1.0, -2.0])
    rows = {
        "as predicted": logits,
        "temperature 0.5": logits / 0.5,
        "temperature 2": logits / 2,
        "top-k 3": keep_top_k(logits, 3),
        "top-p 0.9": keep_top_p(logits, 0.9),
        "min-p 0.15": keep_min_p(logits, 0.15),
        "typical 0.3": keep_typical(logits, 0.3),
        "repetition 1.5 of 0, 1": penalise_repetition(logits, [0, 1], 1.5),
        "presence 1 of 0, 1": penalise_occurrences(logits, [0, 1], 1.0, 0.0),
    }
    print("probability of each of ten tokens, in percent\n")
    for name, processed in rows.items():
        cells = "".join(f"{100 * p:6.1f}" if p else "     ·" for p in processed.softmax(-1).tolist())
        print(f"{name:23}{cells}")


if __name__ == "__main__":
    main()

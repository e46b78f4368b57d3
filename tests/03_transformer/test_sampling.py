"""Stage 3: from logits to text. Each processor against transformers, frequencies, stops, batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.logits_processors import (
    add_logit_bias,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_occurrences,
    penalise_repetition,
)
from transformer.sampling import (
    SamplingParameters,
    generate,
    generate_batch,
    process_logits,
    sample_next_token,
    shift_context,
)
from transformer.stop_sequences import StopSequences

VOCABULARY = 40


def small_model(**changes: object) -> GPTModel:
    sizes = {"vocab_size": VOCABULARY, "context_length": 16, "num_layers": 2, "num_heads": 4, "d_model": 32}
    model = GPTModel(GPTConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # logits that differ enough to be interesting
    return model


def theirs(name: str, *arguments: object):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(*arguments)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "name", "values"),
    [
        (keep_top_k, "TopKLogitsWarper", (1, 3, 39)),
        (keep_top_p, "TopPLogitsWarper", (0.01, 0.5, 0.9, 0.99)),
        (keep_min_p, "MinPLogitsWarper", (0.01, 0.2, 1.0)),
        (keep_typical, "TypicalLogitsWarper", (0.05, 0.5, 0.95)),
    ],
)
def test_processors_equal_those_of_transformers(ours, name, values, seed):
    torch.manual_seed(seed)
    logits = torch.randn(3, VOCABULARY) * 3
    for value in values:
        assert torch.equal(ours(logits, value), theirs(name, value)(None, logits))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_the_repetition_penalty_equals_that_of_transformers(penalty):
    logits = torch.randn(VOCABULARY)
    seen = [3, 5, 3, 0, 39]
    expected = theirs("RepetitionPenaltyLogitsProcessor", penalty)(torch.tensor([seen]), logits[None])[0]
    assert torch.equal(penalise_repetition(logits, seen, penalty), expected)


def test_a_logit_bias_equals_the_sequence_bias_of_transformers():
    logits = torch.randn(VOCABULARY)
    bias = {3: 2.5, 7: -1.0, 39: float("-inf")}
    expected = theirs("SequenceBiasLogitsProcessor", {(token,): value for token, value in bias.items()})
    torch.testing.assert_close(add_logit_bias(logits, bias), expected(torch.tensor([[1]]), logits[None])[0])
    with pytest.raises(ValueError, match="names id 40; the vocabulary has ids 0 to 39"):
        add_logit_bias(logits, {40: 1.0})


def test_occurrence_penalties_are_those_of_openais_definition():
    logits = torch.zeros(5)
    assert penalise_occurrences(logits, [1, 1, 3], 0.5, 0.25).tolist() == [0, -1.0, 0, -0.75, 0]


def test_all_processors_together_are_in_the_order_of_transformers():
    transformers = pytest.importorskip("transformers")
    parameters = SamplingParameters(
        temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, typical_p=0.95, repetition_penalty=1.2
    )
    logits, prompt, generated = torch.randn(VOCABULARY) * 3, [1, 2, 3], [2, 9]
    chain = transformers.LogitsProcessorList(
        [
            transformers.RepetitionPenaltyLogitsProcessor(1.2),
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(20),
            transformers.TopPLogitsWarper(0.9),
            transformers.MinPLogitsWarper(0.02),
            transformers.TypicalLogitsWarper(0.95),
        ]
    )
    expected = chain(torch.tensor([prompt + generated]), logits[None])[0]
    torch.testing.assert_close(process_logits(logits, parameters, prompt, generated), expected)


@given(k=st.integers(1, 12), logits=st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True))
def test_top_k_keeps_the_k_largest(k, logits):
    kept = keep_top_k(torch.tensor(logits, dtype=torch.float32), k).isfinite()
    expected = sorted(logits)[-k:]
    assert [value for value, keep in zip(logits, kept.tolist(), strict=True) if keep] == [
        v for v in logits if v in expected
    ]


@settings(deadline=None)
@given(p=st.floats(0.01, 1.0), logits=st.lists(st.floats(-8, 8), min_size=1, max_size=12))
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, logits):
    tensor = torch.tensor(logits, dtype=torch.float64)
    probabilities = tensor.softmax(-1)
    kept = keep_top_p(tensor, p).isfinite()
    mass = probabilities[kept].sum().item()
    assert mass >= p - 1e-9
    assert probabilities[kept].max() == probabilities.max()
    if p < 1.0:  # without its least likely member the set would be too small
        assert mass - probabilities[kept].min().item() < p + 1e-9


def test_temperature_zero_takes_the_largest_and_a_seed_repeats_the_draw():
    logits = torch.randn(100)
    assert sample_next_token(logits, SamplingParameters(temperature=0), torch.Generator()) == int(logits.argmax())
    parameters = SamplingParameters(seed=7, temperature=1.0, top_p=1.0)
    draws = [
        [sample_next_token(logits, parameters, g) for _ in range(20)]
        for g in (parameters.generator(), parameters.generator())
    ]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_sampled_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    parameters = SamplingParameters(temperature=0.5, top_p=1.0, seed=1)
    generator = parameters.generator()
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sample_next_token(logits, parameters, generator)] += 1
    expected = (logits / 0.5).softmax(-1) * 4000
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.3  # 99.9 % quantile for 3 degrees of freedom


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"seed": -1},
        {"min_p": 1.5},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": 1e6},
        {"logit_bias": {1: float("inf")}},
        {"stop": ("a", "")},
    ],
)
def test_impossible_sampling_values_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParameters(**wrong)


def test_generation_runs_past_the_context_by_dropping_the_older_half():
    model = small_model()
    ids = list(itertools.islice(generate(model, [1, 2, 3], SamplingParameters(max_tokens=50, seed=0)), 50))
    assert len(ids) == 50
    assert shift_context([1, 2, 3], 4) == [1, 2, 3]
    assert shift_context([1, 2, 3, 4], 4) == [3, 4]
    assert shift_context([1], 1) == [1]


MIXED = {"sliding_window": 4, "global_layers": (1,), "local_rope_theta": 50.0, "attention_softcap": 3.0}


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "learned"}, {"positions": "alibi"}, {"sliding_window": 4}, MIXED]
)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(changes):
    """It also works beyond the context: 30 new tokens with a context of 16."""
    model = small_model(**changes)
    prompts = [[1, 2, 3], [4], list(range(5, 20))]
    each = [
        SamplingParameters(max_tokens=30, temperature=0),
        SamplingParameters(max_tokens=7, temperature=1.0, seed=5),
        SamplingParameters(max_tokens=30, temperature=0.8, seed=6, repetition_penalty=1.3, frequency_penalty=0.2),
    ]
    alone = [list(generate(model, prompt, parameters)) for prompt, parameters in zip(prompts, each, strict=True)]
    assert generate_batch(model, prompts, each) == alone
    end = {alone[0][4]}
    ended = [list(generate(model, prompt, parameters, end)) for prompt, parameters in zip(prompts, each, strict=True)]
    assert generate_batch(model, prompts, each, end) == ended
    assert len(ended[0]) <= 4


@given(
    text=st.text("ab\n", max_size=40),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_streamed_text_stops_where_the_whole_text_would(text, stops, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stop = StopSequences(stops)
    pieces = [stop.push(text[a:b]) for a, b in itertools.pairwise(edges)]
    streamed = "".join(pieces) + stop.flush()
    # The text grows, and the first moment when a stop string is complete decides.
    expected = text
    for end in range(len(text) + 1):
        found = [position for string in stops if (position := text[:end].find(string)) >= 0]
        if found:
            expected = text[: min(found)]
            break
    assert stop.stopped == (expected != text or any(string in text for string in stops))
    if len(edges) == len(text) + 1:  # one character at a time
        assert streamed == expected
    assert streamed == expected or (stop.stopped and any(text[len(streamed) :].startswith(string) for string in stops))


def test_stop_strings_end_what_the_engine_streams_across_tokens():
    stop = StopSequences(["END"])
    assert [stop.push(piece) for piece in ("fine E", "N", "O", " EN", "D more")] == ["fine ", "", "ENO", " ", ""]
    assert stop.stopped and stop.flush() == ""
    with pytest.raises(ValueError, match="must not be empty"):
        StopSequences([""])


def test_top_p_of_a_large_vocabulary_keeps_what_sorting_all_of_it_keeps(monkeypatch):
    from transformer import logits_processors

    logits = torch.randn(4, 3000) * torch.tensor([[0.1], [1.0], [3.0], [8.0]])
    for row in logits:
        for p in (0.1, 0.5, 0.9, 0.99):
            kept = keep_top_p(row, p)
            monkeypatch.setattr(logits_processors, "FEW", 10_000)
            assert torch.equal(kept, keep_top_p(row, p))
            monkeypatch.undo()


@pytest.mark.slow
def test_drawing_follows_the_probabilities_and_never_takes_an_impossible_token():
    from transformer.sampling import draw_token

    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    n = 20_000
    counts = torch.bincount(torch.tensor([draw_token(probabilities, generator) for _ in range(n)]), minlength=6)
    assert counts[probabilities == 0].sum() == 0
    # Four standard deviations of a count
    assert ((counts - n * probabilities).abs() <= 4 * (n * probabilities * (1 - probabilities)).sqrt() + 1e-9).all()

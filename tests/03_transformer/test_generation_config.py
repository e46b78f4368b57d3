"""Stage 3: how a model's authors sample from it, as their file says."""

from __future__ import annotations

import pytest

from groundwork.user_errors import UserError
from transformer.generation_config import recommended_sampling


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": 2, "temperature": None}, {}),
        (
            {"temperature": 0.2, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "typical_p": 0.5, "repetition_penalty": 1.1},
            {"temperature": 0.2, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "typical_p": 0.5, "repetition_penalty": 1.1},
        ),
        ({"do_sample": True, "temperature": 1}, {"temperature": 1.0}),
        # Greedy decoding draws nothing, but a penalty changes which token is the likeliest.
        ({"do_sample": False, "temperature": 0.2, "top_k": 50}, {"temperature": 0.0}),
        ({"do_sample": False, "repetition_penalty": 1.2}, {"temperature": 0.0, "repetition_penalty": 1.2}),
    ],
)
def test_the_parameters_of_a_file_have_our_names(config, expected):
    found = recommended_sampling(config)
    assert found == expected and {type(value) for value in found.values()} <= {float, int}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": "hot"}, "temperature: 'hot'; it should be a finite number"),
        ({"top_k": 1.5}, "top_k: 1.5; it should be a whole number"),
        ({"do_sample": "no"}, "do_sample: 'no'; it should be true or false"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"do_sample": False, "repetition_penalty": -1}, "repetition_penalty must be above 0"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(config, message):
    with pytest.raises(UserError, match=r"generation_config\.json") as refused:
        recommended_sampling(config)
    assert message in str(refused.value)

"""Stage 3: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import pytest
import torch

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.layers import Dropout
from transformer.logits_processors import keep_min_p, keep_top_p, keep_typical, penalise_repetition
from transformer.model_memory import saved_activation_bytes, training_memory
from transformer.model_summary import forward_flops_per_token
from transformer.positional_encoding import RotaryEmbedding, alibi_slopes, sinusoidal_table
from transformer.presets import preset
from transformer.sampling import SamplingParameters, generate, generate_batch, sample_next_token
from transformer.stop_sequences import StopSequences


def test_positions_of_one_axis_turn_every_sequence_alike():
    rotary, heads = RotaryEmbedding(8, 16), torch.randn(3, 2, 5, 8)
    positions = torch.tensor([0, 1, 7, 3, 15])
    expected = rotary(positions.expand(3, 5))(heads)
    assert torch.equal(rotary(positions)(heads), expected)
    assert torch.equal(rotary(torch.arange(5))(heads), rotary(slice(0, 5))(heads))


@pytest.mark.parametrize("shape", [(), (1, 2, 5)])
def test_positions_of_other_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"positions must be \(time,\) or \(batch, time\)"):
        RotaryEmbedding(8, 16)(torch.zeros(shape, dtype=torch.long))


def test_positions_past_the_table_are_refused_and_not_left_out():
    with pytest.raises(ValueError, match="position 16 is past the 16 that were prepared"):
        RotaryEmbedding(8, 16)(slice(16, 17))


@pytest.mark.parametrize("size", [-2, 0, 5])
def test_sizes_that_cannot_be_paired_up_are_refused(size):
    for table in (lambda: sinusoidal_table(4, size), lambda: RotaryEmbedding(size, 4)):
        with pytest.raises(ValueError, match=f"must be even, and theta above 0, got {size}"):
            table()


def test_rotary_speeds_need_a_base_above_0():
    with pytest.raises(ValueError, match="theta above 0, got 8 and -1"):
        RotaryEmbedding(8, 4, theta=-1.0)


@pytest.mark.parametrize("heads", [0, -1])
def test_alibi_needs_a_head(heads):
    with pytest.raises(ValueError, match=f"num_heads must be at least 1, got {heads}"):
        alibi_slopes(heads)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(GPTConfig(vocab_size=11, context_length=8, num_layers=1, num_heads=2, d_model=8)).eval()


def test_ids_without_a_batch_are_refused_with_the_way_out(model):
    with pytest.raises(
        ValueError, match=r"token ids must be \(batch, time\), got the shape \(2,\); for one text: ids\[None\]"
    ):
        model(torch.tensor([1, 2]))


def test_fewer_positions_than_tokens_are_refused(model):
    with pytest.raises(ValueError, match="each of the 2 tokens needs a position"):
        model(torch.tensor([[1, 2]]), positions=torch.tensor([[0]]))
    counted = model(torch.tensor([[1, 2]]), positions=torch.tensor([0, 1]))
    torch.testing.assert_close(counted, model(torch.tensor([[1, 2]])))


@pytest.mark.parametrize(
    "setting", [{"positions": "Rope"}, {"norm_position": "Pre"}, {"norm": "rms"}, {"feed_forward": "glu"}]
)
def test_a_part_that_nobody_knows_is_not_taken_for_another(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} must be one of .*; got '{value}'"):
        GPTConfig(**setting)


@pytest.mark.parametrize("setting", ["norm_eps", "rope_theta", "logit_softcap"])
def test_nan_is_no_setting(setting):
    with pytest.raises(ValueError, match="must be a finite number"):
        GPTConfig(**{setting: float("nan")})


def test_prompts_and_parameters_that_do_not_match_are_refused(model):
    parameters = SamplingParameters(max_tokens=2, seed=0)
    for prompt in ([], [1] * 9):
        message = f"a prompt needs from 1 to 8 ids, got {len(prompt)}"
        with pytest.raises(ValueError, match=message):
            list(generate(model, prompt, parameters))
        with pytest.raises(ValueError, match=message):
            generate_batch(model, [[1], prompt], parameters)
    with pytest.raises(ValueError, match="got 3 for 2"):
        generate_batch(model, [[1], [2]], [parameters] * 3)


@pytest.mark.parametrize("logits", [[float("nan")] * 3, [-float("inf")] * 3])
def test_nothing_is_drawn_from_no_distribution(logits):
    parameters = SamplingParameters(seed=0)
    with pytest.raises(ValueError, match="no token can be drawn"):
        sample_next_token(torch.tensor(logits), parameters, parameters.generator())


def test_a_batch_of_logits_is_not_one_token():
    greedy = SamplingParameters(temperature=0.0)
    with pytest.raises(ValueError, match=r"logits \(vocab,\), got the shape \(2, 4\)"):
        sample_next_token(torch.randn(2, 4), greedy, greedy.generator())


def test_one_stop_string_is_not_taken_for_its_characters():
    for take in (StopSequences, lambda stop: SamplingParameters(stop=stop)):
        with pytest.raises(ValueError, match="got the single text"):
            take("abc")


def test_limits_that_leave_no_token_are_refused():
    logits = torch.randn(5)
    for keep, value in ((keep_top_p, 0.0), (keep_top_p, float("nan")), (keep_min_p, 1.5), (keep_typical, -1.0)):
        with pytest.raises(ValueError, match="must be"):
            keep(logits, value)
    with pytest.raises(ValueError, match="penalty must be above 0"):
        penalise_repetition(logits, [1], 0.0)
    torch.testing.assert_close(
        penalise_repetition(logits, torch.tensor([1, 3]), 1.5), penalise_repetition(logits, [1, 3], 1.5)
    )


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_share_to_drop_is_a_probability(p):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Dropout(p)


def test_a_context_of_no_tokens_is_not_the_whole_context():
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        forward_flops_per_token(preset("tiny"), 0)
    assert saved_activation_bytes(preset("tiny"), 1, 0) == 0
    with pytest.raises(ValueError, match="float32, bfloat16 or float16, got 'fp8'"):
        training_memory(preset("tiny"), 10, 1, "fp8")

"""Stage 6: losses of instruction tuning, preferences and rewards, each against its definition."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from finetuning.adapters.lora import LoRAConfig, add_lora
from finetuning.classification import LabelledBatches, SequenceClassifier, classification_loss
from finetuning.data.chat_format import Message, chat_template
from finetuning.data.conversation_batches import ConversationBatches
from finetuning.data.record_shapes import Example, Preference
from finetuning.dpo import (
    PreferenceBatches,
    PreferenceConfig,
    PreferenceLoss,
    encode_preferences,
    preference_accuracy,
    preference_loss,
    reference_log_probabilities,
)
from finetuning.grpo import (
    GRPOConfig,
    GRPOLoss,
    RolloutBatches,
    VerifiableTask,
    group_advantages,
    grpo_loss,
)
from finetuning.reward_model import bradley_terry_loss
from finetuning.supervised_finetuning import conversation_loss, encode_examples, mean_conversation_loss
from tokenizer.bpe_tokenizer import BPETokenizer
from training.data.batches import IGNORED
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CPU = Placement(torch.device("cpu"), torch.float32)
TEMPLATE = chat_template("nullm")
TOKENIZER = BPETokenizer([], TEMPLATE.special_tokens)
COLOURS = ["red", "green", "blue", "grey", "black", "white"]


def talk(number: int) -> Example:
    turns = [(f"What is {COLOURS[number % 6]}?", f"It is {COLOURS[(number + 1) % 6]}." * (1 + number % 3))]
    turns += [("And then?", "Nothing.")] * (number % 2)
    messages = [m for question, answer in turns for m in (Message("user", question), Message("assistant", answer))]
    return Example(tuple(messages))


EXAMPLES = [talk(i) for i in range(12)]


@pytest.fixture(params=["rope", "learned"])
def model(request) -> GPTModel:
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=TOKENIZER.vocab_size,
        context_length=192,
        num_layers=2,
        num_heads=2,
        d_model=32,
        positions=request.param,
    )
    model = GPTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def plain_loss(model: GPTModel, encoded) -> tuple[float, int]:
    """The sum of -ln p of the learned tokens of a single conversation, and their number."""
    ids = torch.tensor([encoded.ids])
    logits = model(ids[:, :-1])[0]
    learned = torch.tensor(encoded.learned[1:])
    return F.cross_entropy(logits[learned], ids[0, 1:][learned], reduction="sum").item(), int(learned.sum())


# --- supervised fine-tuning -------------------------------------------------------------------


@torch.no_grad()
def test_packed_conversations_have_the_loss_they_have_alone(model: GPTModel):
    encoded, problems = encode_examples(EXAMPLES, TEMPLATE, TOKENIZER, 192)
    assert not problems
    sums = [plain_loss(model, one) for one in encoded]
    expected = sum(nats for nats, _ in sums) / sum(count for _, count in sums)
    for pack in (True, False):
        batches = ConversationBatches(encoded, 192, seed=1, pack=pack)
        rows = batches.rows_per_epoch
        assert (rows < len(encoded)) == pack
        batch = batches.next_batch(rows)
        assert batch.weight == sum(count for _, count in sums)
        assert conversation_loss(model, batch.tensors).item() == pytest.approx(expected, rel=1e-5)
    assert mean_conversation_loss(model, encoded, CPU, batch_size=5) == pytest.approx(expected, rel=1e-5)


def test_every_epoch_has_each_conversation_once_and_resumes_at_the_exact_row():
    encoded, _ = encode_examples(EXAMPLES, TEMPLATE, TOKENIZER, 192)

    def learned_tokens(batch) -> list[int]:
        return sorted(batch.tensors["targets"][batch.tensors["targets"] != IGNORED].tolist())

    everything = sorted(i for one in encoded for i, learn in zip(one.ids, one.learned, strict=True) if learn)
    batches = ConversationBatches(encoded, 192, seed=1)
    assert learned_tokens(batches.next_batch(batches.rows_per_epoch)) == everything
    second = len(batches._rows_of(1))
    state = batches.state_dict()
    later = batches.next_batch(second)
    assert learned_tokens(later) == everything
    resumed = ConversationBatches(encoded, 192, seed=1)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.next_batch(second).tensors["inputs"], later.tensors["inputs"])
    ranks = [ConversationBatches(encoded, 192, 1, rank=rank, world_size=2).next_batch(2) for rank in (0, 1)]
    together = ConversationBatches(encoded, 192, seed=1).next_batch(4)
    assert torch.equal(torch.cat([rank.tensors["inputs"] for rank in ranks]), together.tensors["inputs"])


def test_gradients_come_from_the_assistants_tokens_alone(model: GPTModel):
    encoded, _ = encode_examples(EXAMPLES[:1], TEMPLATE, TOKENIZER, 192)
    batch = ConversationBatches(encoded, 192, seed=0).next_batch(1)
    targets = batch.tensors["targets"][0]
    learned = targets[targets != IGNORED].tolist()
    assert TOKENIZER.decode(learned) == "It is green.<|end|>"


def test_conversations_that_do_not_fit_are_counted_with_their_reason():
    encoded, problems = encode_examples(EXAMPLES, TEMPLATE, TOKENIZER, 40)
    assert 0 < len(encoded) < 12 and len(problems) == 12 - len(encoded)
    assert "tokens with its marks, the context is 40" in problems[0]
    with pytest.raises(ValueError, match="there is no conversation to learn from"):
        ConversationBatches([], 40, 0)
    with pytest.raises(ValueError, match="a row has room for 11"):
        ConversationBatches(encoded, 10, 0)


def train(
    model: torch.nn.Module, loss_function, batches, steps: int, lr: float = 3e-3, batch_size: int = 6
) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss = loss_function(model, batches.next_batch(batch_size).tensors)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_classifier_learns_and_padding_does_not_matter():
    torch.manual_seed(0)
    texts = [TOKENIZER.encode(f"{'good' if i % 2 else 'bad'} {COLOURS[i % 6] * (i % 4)}") for i in range(24)]
    base = GPTModel(
        GPTConfig(vocab_size=TOKENIZER.vocab_size, context_length=64, num_layers=1, num_heads=2, d_model=32)
    )
    classifier = SequenceClassifier(base, 2)
    batches = LabelledBatches(texts, [i % 2 for i in range(24)], seed=0)
    losses = train(classifier, classification_loss, batches, 40)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: both classes equally likely at first
    assert losses[-1] < 0.1
    ids = torch.tensor([texts[0]])
    alone = classifier(ids, torch.tensor([len(texts[0])]))
    padded = F.pad(ids, (0, 9), value=7)
    torch.testing.assert_close(classifier(padded, torch.tensor([len(texts[0])])), alone)
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        LabelledBatches(texts[:2], [0], 0)


# --- preferences ------------------------------------------------------------------------------

PREFERENCES = [
    Preference((Message("user", f"Name a colour, {i}."),), f"{COLOURS[i % 6]} it is", f"number {i}") for i in range(12)
]


def test_dpo_and_ipo_are_their_formulas():
    pc, pr, rc, rr = (torch.randn(16, dtype=torch.float64) for _ in range(4))
    beta, smoothing = 0.3, 0.1
    margin = beta * ((pc - pr) - (rc - rr))
    expected = -(1 - smoothing) * torch.log(torch.sigmoid(margin)) - smoothing * torch.log(torch.sigmoid(-margin))
    config = PreferenceConfig("dpo", beta, smoothing)
    torch.testing.assert_close(preference_loss(pc, pr, rc, rr, config), expected.mean())
    expected = ((pc - pr) - (rc - rr) - 1 / (2 * beta)) ** 2
    torch.testing.assert_close(preference_loss(pc, pr, rc, rr, PreferenceConfig("ipo", beta)), expected.mean())
    for wrong in ({"beta": 0.0}, {"label_smoothing": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PreferenceConfig(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_preferences_are_learned_from_where_the_reference_stands(model: GPTModel, loss):
    pairs, problems = encode_preferences(PREFERENCES, TEMPLATE, TOKENIZER, 192)
    assert not problems
    config = PreferenceConfig(loss, beta=0.2)
    reference = reference_log_probabilities(model, pairs, config, CPU, batch_size=5)
    for pair, (chosen, rejected) in zip(pairs, reference.tolist(), strict=True):
        for encoded, found in ((pair.chosen, chosen), (pair.rejected, rejected)):
            with torch.no_grad():
                nats, count = plain_loss(model, encoded)
            assert found == pytest.approx(-nats / (count if loss == "ipo" else 1), rel=1e-4)
    losses = train(model.train(), PreferenceLoss(config), PreferenceBatches(pairs, reference, seed=0), 25)
    first = 0.6931 if loss == "dpo" else (1 / (2 * 0.2)) ** 2  # no margin yet
    assert losses[0] == pytest.approx(first, rel=1e-3)
    assert losses[-1] < 0.7 * first
    assert preference_accuracy(model.eval(), pairs, reference, config, CPU) == 1.0


def test_pairs_whose_answers_have_the_same_tokens_are_left_out():
    same = Preference(PREFERENCES[0].prompt, "yes", " yes ")
    pairs, problems = encode_preferences([same, PREFERENCES[0]], TEMPLATE, TOKENIZER, 192)
    assert len(pairs) == 1 and problems == ["preference 1: both answers have the same tokens"]


def test_preferences_that_do_not_fit_are_counted():
    pairs, problems = encode_preferences(PREFERENCES, TEMPLATE, TOKENIZER, 20)
    assert not pairs and "the context is 20" in problems[0]
    with pytest.raises(ValueError, match="there is no preference"):
        PreferenceBatches(pairs, torch.empty(0, 2), 0)


def test_the_loss_of_a_reward_model_is_bradley_and_terrys():
    chosen, rejected = torch.randn(8), torch.randn(8)
    expected = -torch.log(torch.exp(chosen) / (torch.exp(chosen) + torch.exp(rejected))).mean()
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), expected)


# --- rewards that a program checks ------------------------------------------------------------


def test_the_grpo_loss_is_its_formula():
    torch.manual_seed(1)
    config = GRPOConfig(clip=0.2, beta=0.5)
    new, old, reference = (torch.randn(3, 5, dtype=torch.float64) * 0.3 for _ in range(3))
    advantages = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)
    lengths = [5, 2, 4]
    counted = torch.tensor([[t < n for t in range(5)] for n in lengths])
    total = 0.0
    for i, n in enumerate(lengths):
        tokens = []
        for t in range(n):
            ratio = torch.exp(new[i, t] - old[i, t]).item()
            gain = min(ratio * advantages[i].item(), min(max(ratio, 0.8), 1.2) * advantages[i].item())
            d = (reference[i, t] - new[i, t]).item()
            tokens.append(gain - 0.5 * (torch.tensor(d).exp().item() - d - 1))
        total -= sum(tokens) / n / 3
    assert grpo_loss(new, old, reference, advantages, counted, config).item() == pytest.approx(total, rel=1e-6)
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(
        group_advantages(rewards), torch.tensor([[1.0, -1, -1, 1], [0, 0, 0, 0]]), atol=1e-5, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False])
def test_grpo_makes_rewarded_answers_likelier(lora):
    torch.manual_seed(1)
    config = GPTConfig(vocab_size=TOKENIZER.vocab_size, context_length=64, num_layers=1, num_heads=2, d_model=32)
    model = GPTModel(config)
    with torch.no_grad():
        model.token_embedding.weight.mul_(8)  # tied: logits that the blocks can move
    reference = None if lora else copy.deepcopy(model).eval()
    if lora:
        add_lora(model, LoRAConfig(rank=8, alpha=32))
    tasks = [
        VerifiableTask(
            (Message("user", f"Say {colour}."),), lambda text: sum(c.isalpha() and c.isascii() for c in text) / 8
        )
        for colour in COLOURS[:2]
    ]
    grpo = GRPOConfig(group_size=8, max_tokens=8, beta=0.01)
    batches = RolloutBatches(model, TOKENIZER, TEMPLATE, tasks, grpo, CPU, seed=1, reference=reference)
    batch = batches.next_batch(2)
    assert batch.tensors["advantages"].shape == (16,)
    first_loss = GRPOLoss(grpo)(model, batch.tensors).item()
    assert first_loss == pytest.approx(0.0, abs=1e-4)  # no weight has moved yet, so ratios are 1 and advantages cancel
    if lora:  # B is zero, so the reference equals the policy
        torch.testing.assert_close(batch.tensors["old"], batch.tensors["reference"])
    rewards = []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(25):
        batch = batches.next_batch(2)
        rewards.append(batches.mean_reward)
        GRPOLoss(grpo)(model, batch.tensors).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 1.0


def test_impossible_rollouts_are_refused():
    with pytest.raises(ValueError, match="one answer has no rival"):
        GRPOConfig(group_size=1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        GRPOConfig(temperature=0)
    model = GPTModel(GPTConfig(vocab_size=TOKENIZER.vocab_size))
    task = VerifiableTask((Message("user", "x"),), lambda text: 0.0)
    with pytest.raises(ValueError, match="a frozen copy of itself"):
        RolloutBatches(model, TOKENIZER, TEMPLATE, [task], GRPOConfig(), CPU, 0)
    with pytest.raises(ValueError, match="no question"):
        RolloutBatches(model, TOKENIZER, TEMPLATE, [], GRPOConfig(), CPU, 0)

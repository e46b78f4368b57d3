"""Training steps compared with `transformers`' GPT-2: the same shape, the same weights, the same batches.

Ours is `GPTModel` with GPT-2's parts. Its weights are copied from theirs through the Hugging Face format. Both train in
float32 with PyTorch's fused AdamW and without dropout. So only the model's code and the loss differ: ours never
holds the logits of all positions at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from harness import Comparison, Contender, compare
from training.loss import linear_cross_entropy
from training.placement import choose_placement
from transformer.pretrained import load_pretrained

SHAPES = [
    ("4 layers × 128, context 128, batch 8", 4, 128, 128, 8, 4),
    ("6 layers × 384, context 256, batch 4", 6, 384, 256, 4, 1),
]
VOCABULARY = 8192


def run(quick: bool) -> list[Comparison]:
    """Compare at a small and a medium shape; when quick, only at the small one."""
    choose_placement("cpu", "float32")  # the allocator's settings, for both sides
    return [_compare(*shape, rounds=2 if quick else 5) for shape in SHAPES[: 1 if quick else 2]]


def _compare(name: str, layers: int, width: int, context: int, batch: int, steps: int, rounds: int) -> Comparison:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=context, n_embd=width, n_layer=layers, n_head=4, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa", bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).train()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_pretrained(folder).train()
    ids = torch.randint(VOCABULARY, (batch, context + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def our_loss() -> torch.Tensor:
        return linear_cross_entropy(ours.hidden_states(inputs), ours.head.weight, targets)

    def their_loss() -> torch.Tensor:
        logits = theirs(inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    torch.testing.assert_close(our_loss(), their_loss(), atol=1e-4, rtol=1e-4)

    def stepper(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def work() -> None:
            for _ in range(steps):
                loss = loss_of()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                loss.item()

        return work

    return compare(
        f"Train GPT-2 in float32: {name}, vocabulary {VOCABULARY:,}",
        "tokens/s",
        steps * batch * context,
        [Contender("ours", stepper(ours, our_loss)), Contender("transformers", stepper(theirs, their_loss))],
        rounds,
    )

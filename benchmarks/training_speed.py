"""Training steps compared with a plain PyTorch loop, at three shapes.

The baseline is what a careful person writes with PyTorch's layers, and what nanoGPT documents for a CPU: float32,
eager, one linear layer for queries, keys and values, `F.scaled_dot_product_attention`, GELU, learned positions,
tied head, `torch.optim.AdamW` with its defaults, batches from random offsets into a memory map, all logits at once.
We wrote it ourselves, and its speed is the same as that of nanoGPT's own files. Ours has the same shape and is
trained by the project's `Trainer` with its defaults for the machine.

The third contender is the limit of bfloat16. It computes only the products of the linear layers in a step, forward and
backward, on weights and activations that are already in bfloat16. It has no attention, no norms and no optimizer.

Each side runs in a separate process, because ours changes settings of the memory allocator.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Comparison, Contender, compare
from training.data.token_files import Tokens

WARM_UP_STEPS = 4  # until the allocators hold the memory of a step and the libraries have chosen their kernels
SETTLE_SECONDS = 0.5  # between turns: threads of the previous side stay busy for a while before they sleep


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    name: str
    vocab_size: int
    context_length: int
    num_layers: int
    num_heads: int
    d_model: int
    batch_size: int
    steps: int  # in one timed run
    quick_steps: int


SHAPES = [
    Shape("4 layers × 128, context 64, batch 12 (nanoGPT's CPU run)", 65, 64, 4, 4, 128, 12, 40, 15),
    Shape("6 layers × 384, context 256, batch 8", 65, 256, 6, 6, 384, 8, 3, 1),
    Shape("124M: 12 layers × 768, context 512, batch 1", 50304, 512, 12, 12, 768, 1, 1, 1),
]


class PlainAttention(nn.Module):
    """Causal self-attention with one projection for queries, keys and values."""

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.inputs = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, d_model) → the same."""
        batch, time, width = x.shape
        heads = (part.view(batch, time, self.num_heads, -1).transpose(1, 2) for part in self.inputs(x).chunk(3, dim=-1))
        read = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.output(read.transpose(1, 2).reshape(batch, time, width))


class PlainBlock(nn.Module):
    """Attention and feed-forward with layer norms before them."""

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(d_model, bias=False) for _ in range(2))
        self.attention = PlainAttention(d_model, num_heads)
        self.up, self.down = nn.Linear(d_model, 4 * d_model, bias=False), nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, d_model) → the same."""
        x = x + self.attention(self.norms[0](x))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class PlainGPT(nn.Module):
    """A GPT-2 without biases."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.config = shape  # `total_loss` asks a model for its context length
        self.tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.context_length, shape.d_model)
        self.blocks = nn.ModuleList(PlainBlock(shape.d_model, shape.num_heads) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.d_model, bias=False)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape.num_layers) if into_stream else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of (batch, time) ids."""
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def plain_optimizer(model: PlainGPT) -> torch.optim.AdamW:
    """AdamW with its defaults, and with weight decay for the matrices."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))


def random_windows(tokens: Tokens, shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs and targets (batch, time) from random places of a text."""
    length = shape.context_length
    starts = torch.randint(len(tokens) - length, (shape.batch_size,))
    windows = torch.stack([torch.from_numpy(tokens[start : start + length + 1].astype(np.int64)) for start in starts])
    return windows[:, :-1], windows[:, 1:]


def plain_update(model: PlainGPT, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    """One step of plain training; returns the loss."""
    loss = model(inputs, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def plain_step(shape: Shape, file: Path) -> Callable[[], float]:
    """A step of the baseline."""
    torch.manual_seed(0)
    model = PlainGPT(shape)
    optimizer = plain_optimizer(model)

    def step() -> float:
        tokens = np.memmap(file, dtype=np.uint16, mode="r")  # opened again each time, because memmap leaks memory
        return plain_update(model, optimizer, *random_windows(tokens, shape))

    return step


def our_step(shape: Shape, file: Path) -> Callable[[], float]:
    """A step of the project's trainer on the same shape."""
    from training.data.data_loader import WindowLoader
    from training.loss import next_token_loss
    from training.optimizers.parameter_groups import OptimizerConfig
    from training.placement import choose_placement
    from training.recipe import Recipe, TrainingConfig
    from training.trainer import Run, Trainer
    from transformer.config import GPTConfig
    from transformer.gpt_model import GPTModel

    placement = choose_placement("cpu", "auto")
    torch.manual_seed(0)
    config = GPTConfig(
        shape.vocab_size,
        shape.context_length,
        shape.num_layers,
        shape.num_heads,
        d_model=shape.d_model,
        norm="layernorm",
        feed_forward="gelu",
        positions="learned",
    )
    trainer: Any = Trainer(
        GPTModel(config).train(),
        next_token_loss(),
        WindowLoader({"text": np.memmap(file, dtype=np.uint16, mode="r")}, shape.context_length, seed=0),
        recipe=Recipe(
            OptimizerConfig(lr=1e-3, beta2=0.99),
            training=TrainingConfig(max_steps=10**6, batch_size=shape.batch_size),
        ),
        placement=placement,
        run=Run(file.parent, None),  # type: ignore[arg-type]  # no checkpoint is written
    )
    return lambda: trainer.take_step()[0]


def products_step(shape: Shape, file: Path) -> Callable[[], float]:
    """The products of the linear layers of a step, in bfloat16."""
    from training.placement import choose_placement

    choose_placement("cpu", "auto")  # the same settings of the allocator as ours
    d, rows = shape.d_model, shape.batch_size * shape.context_length
    sizes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)] * shape.num_layers + [(d, shape.vocab_size)]
    weights = [torch.randn(out, into, dtype=torch.bfloat16) for into, out in sizes]
    numbers = {width: torch.randn(rows, width, dtype=torch.bfloat16) for size in sizes for width in size}

    def step() -> float:
        for (into, out), weight in zip(sizes, weights, strict=True):
            _ = numbers[into] @ weight.T  # forward
            _ = numbers[out] @ weight  # the gradient of the inputs
            _ = numbers[out].T @ numbers[into]  # the gradient of the weights
        return 0.0

    return step


def _serve(build: Callable[[Shape, Path], Callable[[], float]], shape: Shape, file: Path, pipe: Connection) -> None:
    step = build(shape, file)
    for _ in range(WARM_UP_STEPS):
        step()
    while steps := pipe.recv():
        for _ in range(steps):
            step()
        pipe.send(True)


def run(quick: bool) -> list[Comparison]:
    """Compare at each shape. The largest takes about ten seconds per step with the baseline; quick leaves it out."""
    comparisons = []
    context = multiprocessing.get_context("spawn")
    for shape in SHAPES[:2] if quick else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "tokens.bin"
            np.random.default_rng(0).integers(0, min(shape.vocab_size, 65), 200_000).astype(np.uint16).tofile(file)
            steps = shape.quick_steps if quick else shape.steps
            contenders, processes, pipes = [], [], []
            builds = {
                "ours": our_step,
                "plain PyTorch, as nanoGPT documents": plain_step,
                "the linear layers' products alone, bfloat16": products_step,
            }
            for name, build in builds.items():
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(build, shape, file, there), daemon=True)
                process.start()
                processes.append(process)
                pipes.append(here)

                def work(pipe: Connection = here, steps: int = steps) -> None:
                    pipe.send(steps)
                    pipe.recv()

                contenders.append(Contender(name, work, setup=lambda: time.sleep(SETTLE_SECONDS)))
            tokens = steps * shape.batch_size * shape.context_length
            title = f"Train a GPT: {shape.name}"
            comparisons.append(compare(title, "tokens/s", tokens, contenders, rounds=2 if quick else 9))
            for pipe in pipes:
                pipe.send(0)
            for process in processes:
                process.join()
    return comparisons

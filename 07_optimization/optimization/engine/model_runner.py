"""One forward pass for the requests of a step: it takes the tokens of many requests and gives the needed logits.

`Runner` is what the engine needs. `PyTorchRunner` works everywhere. On a CPU, `optimization.engine.compiled_runner` takes
the tokens after the prompts, which are few in each step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from groundwork.compiled import kernels_are_compiled
from groundwork.user_errors import notice
from optimization.engine.paged_kv_cache import BlockStorage, RaggedBatch, RaggedRow
from optimization.engine.scheduler import ScheduledRequest
from optimization.settings import EngineSettings
from optimization.weights.packed_linear import FEWEST_ROWS
from optimization.weights.stacked_model import can_be_stacked, stack_model
from training.placement import Placement
from transformer.gpt_model import GPTModel

CACHES = (torch.float32, torch.bfloat16, torch.int8)  # types of keys and values that the compiled loops read


class Runner(Protocol):
    """Computes the steps that the scheduler plans. `storage` has the tensors of the blocks."""

    storage: BlockStorage

    def run(self, scheduled: list[ScheduledRequest]) -> list[Tensor]:
        """Compute a step.

        Args:
            scheduled: the requests; each one's table has room for the tokens that are computed.

        Returns:
            For each request (rows, vocab) float32 on the CPU. If the request reports on its prompt, these are the
            logits after every token. Otherwise, if the step completes its tokens, they are the logits after its last
            token and after each proposed one. Otherwise there are no rows.
        """
        ...


class PyTorchRunner:
    """Runs a model on the cache's blocks.

    Args:
        model: made by `inference_copy`.
        storage: the tensors of the blocks.
        placement: where the model is, and the type of its activations.
        vocab_size: ids that the tokenizer knows; a model may have a few more, which are never drawn.
    """

    def __init__(self, model: GPTModel, storage: BlockStorage, placement: Placement, vocab_size: int):
        self.model, self.storage, self.placement, self._vocab_size = model, storage, placement, vocab_size

    def run(self, scheduled: list[ScheduledRequest]) -> list[Tensor]:
        """See `Runner.run`."""
        rows, ids, wanted = list[RaggedRow](), list[int](), list[int]()
        counts = []
        for item in scheduled:
            start = item.request.table.length
            tokens = item.request.tokens[start : start + item.count] + item.proposal.tokens
            end = len(ids) + len(tokens)
            if item.request.wants_prompt_logits:
                needed = range(len(ids), end)
            else:
                needed = range(end - 1 - len(item.proposal.tokens) if item.completes else end, end)
            rows.append(RaggedRow(item.request.table, start, len(tokens)))
            ids += tokens
            wanted += needed
            counts.append(len(needed))
        device, dtype = self.placement.device, self.placement.precision
        batch = RaggedBatch(self.storage, rows, self.model.config, dtype, device)
        # Each packed layer needs at least four rows and adds the missing ones. Adding them once here costs nothing.
        filling = [0] * (FEWEST_ROWS - len(ids) if device.type == "cpu" else 0)
        token_ids = torch.tensor([ids + filling], device=device)
        positions = torch.tensor([batch.positions() + filling], device=device)
        hidden = self.model.hidden_states(token_ids, batch, positions)
        if not wanted:
            return [hidden.new_empty(0, self._vocab_size)] * len(scheduled)
        if len(wanted) < hidden.shape[1]:
            hidden = hidden[:, torch.tensor(wanted, device=device)]
        logits = self.model.logits(hidden)[0, :, : self._vocab_size].cpu()
        return list(logits.to(torch.promote_types(dtype, torch.float32)).split(counts))


def suits_kernels(model: GPTModel, placement: Placement, settings: EngineSettings, cache: torch.dtype) -> bool:
    """Whether the compiled loops can decode with a model on this machine.

    Args:
        model: quantized or not.
        placement: where it will be, and the type of its activations.
        settings: of the engine.
        cache: the type of keys and values.
    """
    if not settings.pack_weights or settings.compile or cache not in CACHES:
        return False
    return can_be_stacked(model, placement.precision) and kernels_are_compiled()


def build_runner(
    model: GPTModel,
    storage: BlockStorage,
    placement: Placement,
    vocab_size: int,
    settings: EngineSettings,
    kernels: bool,
) -> Runner:
    """The runner of an engine.

    Args:
        model: made by `inference_copy`; with `kernels` not packed.
        storage, placement, vocab_size: see `PyTorchRunner`.
        settings: of the engine.
        kernels: from `suits_kernels`.
    """
    runner = PyTorchRunner(model, storage, placement, vocab_size)
    if not kernels:
        return runner
    from optimization.engine.compiled_runner import CompiledRunner

    compiled = CompiledRunner(runner, stack_model(model), storage, settings.block_size, model.config, vocab_size)
    try:
        compiled.warm_up()  # now, and not when somebody waits for the first answer
    except Exception as error:  # whatever the compiler cannot do on this machine, PyTorch can
        reason = " ".join(str(error).split())[:200]
        notice(f"the compiled loops do not work here ({type(error).__name__}: {reason}); decoding goes on without them")
        return runner
    return compiled

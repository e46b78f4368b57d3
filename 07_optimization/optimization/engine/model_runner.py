"""One forward pass for the requests of a step: it takes the tokens of many requests and gives the needed logits."""

from __future__ import annotations

import torch
from torch import Tensor

from optimization.engine.paged_kv_cache import BlockStorage, RaggedBatch, RaggedRow
from optimization.engine.scheduler import ScheduledRequest
from optimization.weights.packed_linear import FEWEST_ROWS
from training.placement import Placement
from transformer.gpt_model import GPTModel


class ModelRunner:
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
        """Compute a step.

        Args:
            scheduled: the requests; each one's table has room for the tokens that are computed.

        Returns:
            For each request (rows, vocab) float32 on the CPU. If the request reports on its prompt, these are the
            logits after every token. Otherwise, if the step completes its tokens, they are the logits after its last
            token and after each proposed one. Otherwise there are no rows.
        """
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

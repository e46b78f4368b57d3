"""The engine: one object that owns the model, the cache and the schedule, and turns requests into tokens.

Requests are submitted from any thread; `step` computes one token, or one piece of a prompt, for everybody at
once. Who calls `step` is free: a thread of the engine's own after `start`, or else whoever waits for an event.

    engine = Engine.from_checkpoint("checkpoints/small_gpt")
    handles = [engine.submit(engine.encode_prompt(text), parameters) for text in texts]
    for event in handles[0]:
        print(event.text, end="")
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import torch

from optimization.engine.block_pool import BlockPool, BlockTable
from optimization.engine.decoding import advance
from optimization.engine.events import (
    EngineFullError,
    EngineStats,
    GenerationStats,
    PromptError,
    RequestError,
    TokenEvent,
)
from optimization.engine.model_runner import ModelRunner
from optimization.engine.paged_kv_cache import build_storage
from optimization.engine.request import Request, RequestHandle
from optimization.engine.scheduler import Scheduler, Work
from optimization.engine.speculative import NO_PROPOSAL, Proposal, Proposer
from optimization.model_loading import inference_copy, load_for_inference
from optimization.settings import EngineSettings
from optimization.weights.quantized_model import count_weights
from tokenizer.interface import Tokenizer
from training.placement import Placement, choose_placement
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters


class Engine:
    """Generates text for many requests at once.

    Args:
        model: its weights are shared or copied, never changed.
        tokenizer: the model's.
        placement: device, and precision of weights and activations.
        settings: limits.
        proposer: guesses tokens for speculative decoding; None for none.
    """

    def __init__(
        self,
        model: GPTModel,
        tokenizer: Tokenizer,
        placement: Placement,
        settings: EngineSettings | None = None,
        proposer: Proposer | None = None,
    ):
        self.settings = settings or EngineSettings()
        self.tokenizer, self.placement, self.config = tokenizer, placement, model.config
        self.num_parameters = count_weights(model)
        self.model = inference_copy(model, placement.precision, self.settings.pack_weights, self.settings.compile)
        self.proposer = proposer
        dtype = self.settings.storage_dtype(placement.precision, placement.device)
        self.pool = BlockPool(self.settings.num_blocks(self.config, dtype), self.settings.block_size)
        slots = self.pool.num_blocks * self.pool.block_size
        storage = build_storage(self.config, slots, dtype, placement.device)
        self._runner = ModelRunner(self.model, storage, placement, tokenizer.vocab_size)
        self._scheduler = Scheduler(self.pool, self.settings, self._propose)
        self._lock = threading.Lock()  # held for one step
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = self._steps = 0

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        device: str = "auto",
        precision: str = "float32",
        settings: EngineSettings | None = None,
        proposer: Proposer | None = None,
    ) -> Engine:
        """Load a checkpoint, quantized or not.

        Args:
            path: a run's folder, a checkpoint's, or one that `quantize.py` wrote.
            device: `auto`, `cpu`, `cuda` or `mps`.
            precision: `auto`, `float32` or `bfloat16`.
            settings: limits.
            proposer: for speculative decoding.

        Raises:
            CheckpointError: missing or damaged.
            DeviceError: the device is not there.
        """
        placement = choose_placement(device, precision)
        loaded = load_for_inference(path, placement.device)
        return cls(loaded.model, loaded.tokenizer, placement, settings, proposer)

    @property
    def context_length(self) -> int:
        """The longest prompt, in tokens."""
        return self.config.context_length

    @property
    def is_started(self) -> bool:
        """Whether the engine has a thread of its own."""
        return self._thread is not None

    def encode_prompt(self, prompt: str) -> list[int]:
        """Prompt to ids, behind the end-of-text token that every training document begins with.

        Raises:
            PromptError: longer than the context.
            TokenizerError: a character that a character tokenizer does not know.
        """
        ids = self.tokenizer.encode(prompt)
        end_of_text = self.tokenizer.end_of_text_id
        if end_of_text is not None:
            ids = [end_of_text, *ids]
        self._check_prompt(ids)
        return ids

    def submit(
        self,
        prompt_ids: Sequence[int],
        parameters: SamplingParameters,
        *,
        priority: int = 0,
        end_ids: Collection[int] | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        on_event: Callable[[TokenEvent], object] | None = None,
    ) -> RequestHandle:
        """Hand in a request. Returns at once, from any thread.

        Args:
            prompt_ids: at least one id, at most `context_length`.
            parameters: how to choose tokens, and how many.
            priority: smaller goes first.
            end_ids: ids that end the text; None for the end-of-text token.
            logprobs: alternatives to report with each token, 0 for the token's own probability alone; None
                for nothing.
            prompt_logprobs: report the prompt's tokens too, in `RequestHandle.prompt_logprobs`.
            on_event: see `RequestHandle`.

        Raises:
            PromptError: an empty or too long prompt, or an id outside the vocabulary.
            RequestError: it can never be served.
            EngineFullError: too many are waiting.
        """
        prompt = list(prompt_ids)
        self._check_prompt(prompt)
        vocab_size = self.tokenizer.vocab_size
        if unknown := [token for token in prompt if not 0 <= token < vocab_size]:
            raise PromptError(f"the prompt has id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if unknown := [token for token in parameters.logit_bias if not 0 <= token < vocab_size]:
            raise RequestError(f"logit_bias names id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if logprobs is not None and not 0 <= logprobs <= vocab_size:
            raise RequestError(f"logprobs must be between 0 and {vocab_size}, got {logprobs}")
        longest = min(len(prompt) + parameters.max_tokens, self.context_length)
        room = self.pool.num_blocks * self.pool.block_size
        if longest > room:
            raise RequestError(
                f"the request may need {longest} tokens of cache, which has room for {room}: "
                "shorten it, or give the engine more cache_tokens"
            )
        if self._inbox.qsize() + len(self._scheduler.waiting) >= self.settings.max_waiting:
            raise EngineFullError(f"{self.settings.max_waiting} requests are waiting already; try again later")
        handle = RequestHandle(self, next(self._numbers), on_event)
        handle.stats.prompt_tokens = len(prompt)
        if end_ids is None:
            end_ids = () if self.tokenizer.end_of_text_id is None else (self.tokenizer.end_of_text_id,)
        self._inbox.put(
            Request(
                handle=handle,
                prompt=prompt,
                tokenizer=self.tokenizer,
                parameters=parameters,
                priority=priority,
                end_ids=frozenset(end_ids),
                logprobs=0 if prompt_logprobs and logprobs is None else logprobs,
                prompt_logprobs=prompt_logprobs,
                # Shared blocks are not computed, and would leave their tokens without logits to report.
                table=BlockTable(self.pool, self.settings.prefix_sharing and not prompt_logprobs),
            )
        )
        self._wake.set()
        return handle

    def step(self) -> bool:
        """Compute the next token or piece of prompt of everybody; False where there was nothing to do."""
        with self._lock, torch.inference_mode():
            self._take_in()
            work = self._scheduler.plan()
            if work:
                try:
                    self._compute(work)
                except Exception as error:  # out of memory, say: these requests fail, the engine goes on
                    for item in work:
                        item.request.finish("error", error=f"{type(error).__name__}: {error}")
                self._scheduler.remove_finished()
            return bool(work or self._scheduler.waiting)

    def start(self) -> None:
        """Give the engine a thread of its own, which computes while there is something to do."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Cancel all requests and end the thread."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._wake.set()
        if thread is not None:
            thread.join()
        with self._lock:
            self._take_in()
            for request in [*self._scheduler.running, *self._scheduler.waiting]:
                request.finish("cancelled")
            self._scheduler.remove_finished()

    def wake(self) -> None:
        """Look at what has changed: free the blocks of cancelled requests now, unless a step is under way."""
        self._wake.set()
        if self._lock.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._lock.release()

    def stats(self) -> EngineStats:
        """A snapshot; may be called from any thread."""
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + self._inbox.qsize(),
            used_blocks=self.pool.num_used,
            total_blocks=self.pool.num_blocks,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._scheduler.num_preemptions,
            steps=self._steps,
        )

    def generate_ids(
        self, prompt_ids: Sequence[int], parameters: SamplingParameters, stats: GenerationStats | None = None
    ) -> Iterator[int]:
        """Generate ids for one prompt; the same ids as `transformer.sampling.generate`.

        Args:
            prompt_ids: see `submit`.
            parameters: see `submit`.
            stats: filled in as it goes.

        Yields:
            One id at a time, without the end-of-text token that may end it.
        """
        for event in self._submit_with(prompt_ids, parameters, stats):
            if event.token is not None:
                yield event.token

    def generate(
        self, prompt: str, parameters: SamplingParameters, stats: GenerationStats | None = None
    ) -> Iterator[str]:
        """Generate text piece by piece, each piece whole characters.

        Raises:
            PromptError, TokenizerError: see `encode_prompt`; raised at the call, before the first piece.
        """
        handle = self._submit_with(self.encode_prompt(prompt), parameters, stats)
        return (event.text for event in handle if event.text)

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters | Sequence[SamplingParameters]
    ) -> list[list[int]]:
        """Generate ids for several prompts at once, each as it would be alone.

        Args:
            prompts: ids of each.
            parameters: one for all, or one for each.
        """
        each = [parameters] * len(prompts) if isinstance(parameters, SamplingParameters) else parameters
        outputs, pending = list[list[int]](), deque[RequestHandle]()
        for prompt, one in zip(prompts, each, strict=True):
            if len(pending) == self.settings.max_waiting:
                outputs.append(pending.popleft().tokens())
            pending.append(self.submit(prompt, one))
        return outputs + [handle.tokens() for handle in pending]

    def _submit_with(
        self, prompt_ids: Sequence[int], parameters: SamplingParameters, stats: GenerationStats | None
    ) -> RequestHandle:
        handle = self.submit(prompt_ids, parameters)
        if stats is not None:
            stats.prompt_tokens = handle.stats.prompt_tokens
            handle.stats = stats
        return handle

    def _check_prompt(self, ids: Sequence[int]) -> None:
        if not ids:
            raise PromptError("the prompt is empty, and this tokenizer has no token to begin a text with")
        if len(ids) > self.context_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.context_length}: shorten the prompt"
            )

    def _take_in(self) -> None:
        """Queue what was submitted, and drop what was cancelled."""
        while not self._inbox.empty():
            self._scheduler.add(self._inbox.get_nowait())
        for request in [*self._scheduler.running, *self._scheduler.waiting]:
            if request.handle.cancelled.is_set():
                request.finish("cancelled")
                if self.proposer is not None:
                    self.proposer.forget(request)
        self._scheduler.remove_finished()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if not self.step():
                self._wake.wait()

    def _propose(self, request: Request, limit: int) -> Proposal:
        # The last proposal must still have a place in the context.
        limit = min(limit, self.context_length - len(request.window))
        return self.proposer.propose(request, limit) if self.proposer is not None and limit > 0 else NO_PROPOSAL

    def _compute(self, work: list[Work]) -> None:
        """One forward pass, and what follows from it for each request."""
        logits = self._runner.run(work)
        self._steps += 1
        for item, rows in zip(work, logits, strict=True):
            request, before = item.request, len(item.request.generated)
            try:
                advance(item, rows, self.config)
            except Exception as error:  # this request's own fault; the others go on
                request.finish("error", error=f"{type(error).__name__}: {error}")
            self._generated_tokens += len(request.generated) - before
            if before == 0 and (request.generated or request.finished):  # its prompt is through
                self._prompt_tokens += request.handle.stats.prompt_tokens
                self._cached_tokens += request.handle.stats.cached_tokens
            if request.finished and self.proposer is not None:
                self.proposer.forget(request)

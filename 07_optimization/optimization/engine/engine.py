"""The engine: one object that owns the model, the cache and the schedule, and turns requests into tokens.

Any thread may submit requests. `step` computes one token, or one piece of a prompt, for all of them at once. After
`start`, the engine's own thread calls `step`. Without `start`, the thread that waits for an event calls it.

    engine = Engine.from_checkpoint("checkpoints/small_gpt")
    requests = [GenerationRequest(engine.encode_prompt(text), parameters) for text in texts]
    handles = [engine.submit(request) for request in requests]
    for event in handles[0]:
        print(event.text, end="")
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from optimization.engine.block_pool import BlockPool, BlockTable
from optimization.engine.decoding import apply_logits
from optimization.engine.events import EngineFullError, EngineStats, GenerationStats, RequestError, TokenEvent
from optimization.engine.model_runner import build_runner, suits_kernels
from optimization.engine.paged_kv_cache import build_storage
from optimization.engine.request import GenerationRequest, Request, RequestHandle, check_length
from optimization.engine.scheduler import ScheduledRequest, Scheduler
from optimization.engine.speculative import Proposer
from optimization.kv_cache import bytes_per_token
from optimization.model_loading import inference_copy, load_for_inference
from optimization.settings import EngineSettings
from optimization.weights.quantized_model import count_weights
from tokenizer.interface import Tokenizer
from training.placement import Placement, choose_placement
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

MOST_FAILED_STEPS = 3  # one after the other; then something is wrong that does not pass by itself


class Engine:
    """Generates text for many requests at once.

    An error that concerns one request ends that request. After any other error all running requests fail, or all waiting
    ones if none is running, and the engine continues with an empty cache. So nobody waits for an answer that will not come.

    Args:
        model: its weights are shared or copied, never changed.
        tokenizer: the tokenizer of the model.
        placement: device, and precision of weights and activations.
        settings: limits.
        proposer: guesses tokens for speculative decoding; None to decode without guesses.

    Raises:
        ValueError: this machine does not have the memory for the cache.
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
        dtype = self.settings.storage_dtype(placement.precision, placement.device)
        kernels = suits_kernels(model, placement, self.settings, dtype)
        pack = self.settings.pack_weights and not kernels
        self.model = inference_copy(model, placement.precision, pack, self.settings.compile)
        num_blocks = self.settings.num_blocks(self.config, dtype, placement.free_memory())
        self.pool = BlockPool(num_blocks, self.settings.block_size)
        self.cache_bytes = self.cache_tokens * bytes_per_token(self.config, dtype)
        storage = build_storage(self.config, self.cache_tokens, dtype, placement.device)
        self._runner = build_runner(self.model, storage, placement, tokenizer.vocab_size, self.settings, kernels)
        self._scheduler = Scheduler(self.pool, self.settings, self.config.context_length, proposer)
        self._lock = threading.Lock()  # held for one step
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = self._steps = 0
        self._failed_steps = 0  # since the last one that did not fail

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
            path: the folder of a run or a checkpoint, or one that `quantize.py` wrote.
            device: `auto`, `cpu`, `cuda` or `mps`.
            precision: `auto`, `float32` or `bfloat16`.
            settings: limits.
            proposer: for speculative decoding.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
            DeviceError: this machine does not have the device.
        """
        placement = choose_placement(device, precision)
        loaded = load_for_inference(path, placement.device)
        return cls(loaded.model, loaded.tokenizer, placement, settings, proposer)

    @property
    def context_length(self) -> int:
        """The longest prompt, in tokens."""
        return self.config.context_length

    @property
    def cache_tokens(self) -> int:
        """The tokens that the cache has room for. Its memory is taken as it is used."""
        return self.pool.num_blocks * self.pool.block_size

    @property
    def is_working(self) -> bool:
        """Whether requests can be served: False after several failed steps, until one succeeds."""
        thread = self._thread
        return self._failed_steps < MOST_FAILED_STEPS and (thread is None or thread.is_alive())

    def encode_prompt(self, prompt: str) -> list[int]:
        """The ids of a prompt, after those that the model's texts begin with.

        Raises:
            PromptError: the prompt is empty, or longer than the context.
            TokenizerError: it has a character that a character tokenizer does not know.
        """
        ids = self.tokenizer.begin_ids + self.tokenizer.encode(prompt)
        check_length(ids, self.context_length)
        return ids

    def submit(
        self,
        request: GenerationRequest,
        on_event: Callable[[TokenEvent], object] | None = None,
        stats: GenerationStats | None = None,
    ) -> RequestHandle:
        """Hand in a request. Returns at once, from any thread.

        Args:
            request: what to generate.
            on_event: called with each event; see `RequestHandle`. With None, the events are read from the handle.
            stats: filled in while the request runs; None for a new object.

        Raises:
            PromptError: the prompt is empty or too long, or has an id outside the vocabulary.
            RequestError: the request can never be served.
            EngineFullError: too many are waiting.
        """
        request.check(self.tokenizer.vocab_size, self.context_length)
        longest = min(len(request.prompt_ids) + request.parameters.max_tokens, self.context_length)
        if longest > self.cache_tokens:
            raise RequestError(
                f"the request may need {longest} tokens of cache, which has room for {self.cache_tokens}: "
                "shorten it, or give the engine more cache_tokens"
            )
        if self._inbox.qsize() + len(self._scheduler.waiting) >= self.settings.max_waiting:
            raise EngineFullError(f"{self.settings.max_waiting} requests are waiting already; try again later")
        stats = stats or GenerationStats()
        stats.prompt_tokens = len(request.prompt_ids)
        handle = RequestHandle(next(self._numbers), stats, on_event, self._drop_cancelled, self._step_unless_started)
        # The tokens of shared blocks are not computed, so they would have no logits to report.
        share = self.settings.prefix_sharing and not request.prompt_logprobs
        table = BlockTable(self.pool, share, request.cache_salt)
        self._inbox.put(Request(request, self.tokenizer, table, handle))
        self._wake.set()
        return handle

    def step(self) -> bool:
        """Compute the next token or piece of prompt of every request. False if nothing is left to do."""
        with self._lock, self._beginning_again(), torch.inference_mode():
            self._take_in()
            scheduled = self._scheduler.plan()
            computed = self._run(scheduled)
            self._apply(computed)
            self._scheduler.retire()
            if computed:
                self._failed_steps = 0
        return bool(self._scheduler.requests) or not self._inbox.empty()

    @contextlib.contextmanager
    def _beginning_again(self) -> Iterator[None]:
        """After an error inside, begin again with an empty cache, because nobody knows what the blocks hold."""
        try:
            yield
        except BaseException as error:
            self._failed_steps += 1
            self._scheduler.abandon(error)
            self.pool.clear()
            # Ctrl-C is meant for the thread that called; the engine's own thread has no caller, and must go on.
            if not isinstance(error, Exception) and threading.current_thread() is not self._thread:
                raise

    def _take_in(self) -> None:
        """Queue the submitted requests, and remove the cancelled ones."""
        while not self._inbox.empty():
            request = self._inbox.get_nowait()
            with request.own_failure():
                self._scheduler.add(request)
        for request in self._scheduler.requests:
            if request.handle.cancelled.is_set():
                request.finish("cancelled")
        self._scheduler.retire()

    def _run(self, scheduled: list[ScheduledRequest]) -> list[tuple[ScheduledRequest, torch.Tensor]]:
        """Do one forward pass. Return each request with its logits, or nothing if the pass failed."""
        if not scheduled:
            return []
        try:
            logits = self._runner.run(scheduled)
        except Exception as error:  # for example out of memory: these requests fail, the engine continues
            self._failed_steps += 1
            for item in scheduled:
                item.request.fail(error)
            return []
        self._steps += 1
        return list(zip(scheduled, logits, strict=True))

    def _apply(self, computed: list[tuple[ScheduledRequest, torch.Tensor]]) -> None:
        """Give each request its next tokens, or finish it."""
        for item, logits in computed:
            request, before = item.request, len(item.request.generated)
            with request.own_failure():
                apply_logits(item, logits, self.config)
            self._generated_tokens += len(request.generated) - before
            if before == 0 and (request.generated or request.finished):  # its prompt has been computed
                self._prompt_tokens += request.handle.stats.prompt_tokens
                self._cached_tokens += request.handle.stats.cached_tokens

    def start(self) -> None:
        """Give the engine its own thread, which computes while there is something to do."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._step_until_stopped, name="engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Cancel all requests and end the thread."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._wake.set()
        if thread is not None:
            thread.join()
        with self._lock, self._beginning_again():
            self._take_in()
            for request in self._scheduler.requests:
                request.finish("cancelled")
            self._scheduler.retire()

    def _step_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if not self.step():
                self._wake.wait()

    def _step_unless_started(self) -> bool:
        """Compute a step for an owner who waits for an event. False if the engine's own thread computes."""
        if self._thread is None:
            self.step()
            return True
        return False

    def _drop_cancelled(self) -> None:
        """Free the blocks of cancelled requests now. If a step is running, the next one frees them."""
        self._wake.set()
        if self._lock.acquire(blocking=False):
            try:
                with self._beginning_again():
                    self._take_in()
            finally:
                self._lock.release()

    def stats(self) -> EngineStats:
        """The state at this moment. Any thread may call this."""
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
        """Generate ids for one prompt. They are the same as those of `transformer.sampling.generate`.

        Args:
            prompt_ids: see `GenerationRequest`.
            parameters: how to choose tokens, and how many.
            stats: filled in while it runs.

        Yields:
            One id at a time, without the end-of-text token that may end it.
        """
        handle = self.submit(GenerationRequest(prompt_ids, parameters), stats=stats)
        yield from (event.token for event in handle if event.token is not None)

    def generate(
        self, prompt: str, parameters: SamplingParameters, stats: GenerationStats | None = None
    ) -> Iterator[str]:
        """Generate text piece by piece. Each piece has whole characters only.

        Raises:
            PromptError, TokenizerError: see `encode_prompt`. They are raised by the call, before the first piece.
        """
        handle = self.submit(GenerationRequest(self.encode_prompt(prompt), parameters), stats=stats)
        return (event.text for event in handle if event.text)

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], parameters: SamplingParameters | Sequence[SamplingParameters]
    ) -> list[list[int]]:
        """Generate ids for several prompts at once. Each result is the same as for that prompt alone.

        Args:
            prompts: the ids of each prompt.
            parameters: one object for all prompts, or one for each.
        """
        each = [parameters] * len(prompts) if isinstance(parameters, SamplingParameters) else parameters
        outputs, pending = list[list[int]](), deque[RequestHandle]()
        for prompt, one in zip(prompts, each, strict=True):
            if len(pending) == self.settings.max_waiting:
                outputs.append(pending.popleft().result())
            pending.append(self.submit(GenerationRequest(prompt, one)))
        return outputs + [handle.result() for handle in pending]

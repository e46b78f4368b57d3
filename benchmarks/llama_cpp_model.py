"""A model in llama.cpp, called through its C interface. Decoding and the choice of the largest logit are timed.

It needs the package llama-cpp-python (the extra `llama_cpp`), which is built from source. If it is not installed, the
comparisons leave llama.cpp out.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from deployment.export.gguf_file import export_gguf
from tokenizer.bpe_tokenizer import BPETokenizer
from transformer.gpt_model import GPTModel

BATCH = 512  # the most tokens of one call


def llama_cpp_is_installed() -> bool:
    """Whether llama.cpp is installed."""
    return find_spec("llama_cpp") is not None


class LlamaCppModel:
    """The same weights in llama.cpp.

    Args:
        model: a model with a vocabulary of 256 to 65,792 ids.
        kind: `f32`, `f16` or `q8_0`.
        streams: how many sequences at a time.
        length: tokens of each sequence, prompt and answer.
    """

    def __init__(self, model: GPTModel, kind: str, streams: int, length: int):
        import llama_cpp

        assert model.config.vocab_size is not None
        self._lib, self._vocab_size = llama_cpp, model.config.vocab_size
        # The weights mean nothing, so the tokens need not mean anything either: each id is a pair of bytes.
        merges = [divmod(number, 256) for number in range(model.config.vocab_size - 256)]
        llama_cpp.llama_backend_init()
        with tempfile.TemporaryDirectory() as folder:
            path = export_gguf(model, BPETokenizer(merges), None, Path(folder) / "model.gguf", "random", kind)
            parameters = llama_cpp.llama_model_default_params()
            parameters.use_mmap = False  # the file will soon be deleted
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = length * streams, BATCH, streams
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, streams)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuations of all prompts at once."""
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        # Each entry is a token, its position, its sequence, and whether its logits are wanted.
        entries = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        for count in range(new_tokens):
            self._decode(entries)
            wanted = [index for index, entry in enumerate(entries) if entry[3]]
            for sequence, index in enumerate(wanted):
                logits = lib.llama_get_logits_ith(self._context, index)
                answers[sequence].append(int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax()))
            entries = [(answer[-1], len(prompts[s]) + count, s, True) for s, answer in enumerate(answers)]
        return answers

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(entries)
        for index, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode failed with status {status}")

    def close(self) -> None:
        """Free the memory of weights and cache."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

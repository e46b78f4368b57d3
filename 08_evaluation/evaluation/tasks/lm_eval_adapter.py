"""This project's models in lm-evaluation-harness (Gao et al., 2021), the tool that published figures come from.

python -m evaluation.tasks.lm_eval_adapter --model nullm --model_args checkpoint=checkpoints/small_gpt \
    --tasks docs_description --include_path 08_evaluation/tasks/lm_eval

The harness (0.4.13) knows only the models in its own package, and has no entry point for models of other
packages. So this module does the least that is needed: it registers the model under the name `nullm` and
calls the harness's own command. Every option of that command works.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    raise SystemExit('error: lm-evaluation-harness is not installed: pip install -e ".[eval]"') from None

from evaluation.sliding_window import score_documents
from evaluation.tasks.answer_scoring import score_continuations
from evaluation.text_generation import text_generator
from groundwork.user_errors import UserError, report_user_errors
from optimization.model_loading import load_for_inference
from training.placement import choose_placement
from transformer.sampling import SamplingParameters

DEFAULT_MAX_TOKENS = 256  # the harness's own default, for tasks that do not set it
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class NullmLM(LM):  # type: ignore[misc]  # the harness has no types
    """A checkpoint with the methods that the harness calls: log-likelihoods and continuations of texts.

    Args:
        checkpoint: folder of a run or of one checkpoint.
        device: auto, cpu, cuda or mps. The harness passes cuda:0 by default; without a GPU, that means auto.
        precision: auto, float32 or bfloat16.
        add_bos_token: put `<|endoftext|>` before every context, as before every document in training. The harness's
            `hf` model has the same option, off for most models.
        batch_size: accepted because the harness passes it, and not used: the memory for logits sets the batch size.
        max_batch_size: the same.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "auto",
        precision: str = "float32",
        add_bos_token: bool = True,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        del batch_size, max_batch_size
        kind = device.partition(":")[0]
        self._placement = choose_placement(
            "auto" if kind == "cuda" and not torch.cuda.is_available() else kind, precision
        )
        loaded = load_for_inference(checkpoint, self._placement.device)
        self._model, self._tokenizer, self._add_bos_token = loaded.model, loaded.tokenizer, add_bos_token
        self._device = self._placement.device

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """ln p of each continuation after its context, and whether greedy decoding would write it.

        Args:
            requests: each with the arguments (context, continuation).
            disable_tqdm: there is no progress bar in any case.
        """
        pairs = [request.args for request in requests]
        scores = score_continuations(self._model, self._tokenizer, pairs, self._placement, self._add_bos_token)
        return [(score.log_probability, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """ln p of each whole text, in windows that do not overlap, as the harness's own models measure it.

        Args:
            requests: each with the argument (text,).
            disable_tqdm: there is no progress bar in any case.
        """
        stride = self._model.config.context_length
        return [
            -score_documents(self._model, self._tokenizer, [request.args[0]], self._placement, stride).total_nats
            for request in requests
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop text or the largest number of tokens.

        Args:
            requests: each with the arguments (context, settings).
            disable_tqdm: there is no progress bar in any case.

        Raises:
            UserError: there is a setting that this project's decoder does not have.
        """
        texts: dict[int, str] = {}
        alike: dict[str, list[int]] = {}  # requests with the same settings run together
        for index, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        for group in alike.values():
            parameters, max_tokens, stop = read_settings(requests[group[0]].args[1])
            generate = text_generator(self._model, self._tokenizer, self._placement, parameters, self._add_bos_token)
            written = generate([requests[index].args[0] for index in group], max_tokens, stop)
            texts |= {index: text.text for index, text in zip(group, written, strict=True)}
        return [texts[index] for index in range(len(requests))]


register_model("nullm")(NullmLM)  # not a decorator, because the site shows the class and is built without the harness


def read_settings(settings: dict[str, Any]) -> tuple[SamplingParameters, int, list[str]]:
    """The settings of the harness for a generation: how to draw, the most tokens, stop texts.

    Args:
        settings: for example {"until": ["\\n"], "max_gen_toks": 32, "do_sample": False, "temperature": 0.0}.

    Raises:
        UserError: a setting is unknown.
    """
    rest = dict(settings)
    until = rest.pop("until", None) or []
    lengths = [rest.pop(name) for name in _LENGTH_NAMES if name in rest]
    sampled = rest.pop("do_sample", float(rest.get("temperature", 0.0)) > 0)
    drawing: dict[str, Any] = {
        name: rest.pop(name) for name in ("temperature", "top_k", "top_p", "min_p") if name in rest
    }
    if rest:
        raise UserError(f"generation settings that this model does not have: {', '.join(sorted(rest))}")
    drawing = {"temperature": 1.0, "top_p": 1.0, **drawing} if sampled else {"temperature": 0.0}
    stop = [until] if isinstance(until, str) else list(until)
    return SamplingParameters(**drawing), int(lengths[0]) if lengths else DEFAULT_MAX_TOKENS, [s for s in stop if s]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the harness's command with this model registered; returns the exit status.

    Args:
        arguments: arguments of `lm_eval`; None for those of the command line.
    """
    import sys

    from lm_eval.__main__ import cli_evaluate

    if arguments is not None:
        sys.argv[1:] = arguments

    def run() -> int:
        cli_evaluate()
        return 0

    return report_user_errors(run)


if __name__ == "__main__":
    raise SystemExit(main())

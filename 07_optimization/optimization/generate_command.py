"""`generate.py` as a command."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from finetuning.base_model import template_of
from finetuning.data.chat_format import ChatFormat, Message
from groundwork.command_line import with_dashes
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from optimization.engine.engine import Engine
from optimization.engine.events import GenerationStats, PromptError
from optimization.engine.request import GenerationRequest
from optimization.engine.speculative import DraftModel, PromptLookup, Proposer
from optimization.memory_bandwidth import bytes_read_per_token, measure_read_bandwidth
from optimization.model_loading import load_for_inference
from optimization.settings import EngineSettings
from tokenizer.interface import Tokenizer, TokenizerError
from training.checkpoints.checkpoint import newest_run
from training.placement import choose_placement
from transformer.generation_config import recommended_sampling
from transformer.sampling import SamplingParameters

_DRAWING = (
    ("temperature", float, "0 is greedy, 1 as trained"),
    ("top_k", int, "keep the k likeliest tokens; 0: all"),
    ("top_p", float, "keep this much probability; 1: all"),
    ("min_p", float, "keep tokens at least this fraction as likely as the best; 0: all"),
    ("typical_p", float, "keep the most typical tokens; 1: all"),
    ("repetition_penalty", float, "1: none"),
    ("presence_penalty", float, "0: none"),
    ("frequency_penalty", float, "0: none"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, generate, and return the exit status."""
    defaults = SamplingParameters()
    parser = argparse.ArgumentParser(
        prog="generate.py",
        description="Continue a prompt, or talk to a model that was taught to. Without --prompt it asks again and again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--prompt", help="text to continue, or what to say; default: interactive")
    parser.add_argument("--mode", choices=["auto", "chat", "completion"], default="auto", help="auto: as it was taught")
    parser.add_argument("--system", help="in a chat, what the model is told first")
    parser.add_argument("--max-tokens", type=int, default=defaults.max_tokens, help="most tokens to generate")
    for name, kind, meaning in _DRAWING:
        meaning += f"; default: as the model's authors recommend, or else {getattr(defaults, name):g}"
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, help=meaning)
    parser.add_argument("--stop", action="append", default=[], help="end before this string; may be repeated")
    parser.add_argument("--seed", type=int, help="repeat the same draw")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    parser.add_argument("--cache-dtype", choices=["auto", "float32", "bfloat16", "int8"], default="auto")
    parser.add_argument(
        "--draft", help="checkpoint of a smaller model that guesses ahead, or `lookup` to guess from the text"
    )
    parser.add_argument("--stats", action="store_true", help="say how much of the memory's bandwidth was used")
    add_threads(parser)
    return report_user_errors(lambda: _run(parser.parse_args(with_dashes(arguments))))


def _run(options: argparse.Namespace) -> int:
    names = [field.name for field in dataclasses.fields(SamplingParameters) if hasattr(options, field.name)]
    given = {name: getattr(options, name) for name in names} | {"stop": tuple(options.stop)}
    SamplingParameters(**given)  # refuses what makes no sense before anything is loaded
    path = Path(options.checkpoint) if options.checkpoint else newest_run()
    placement = choose_placement(options.device, options.precision)
    loaded = load_for_inference(path, placement.device)
    parameters = SamplingParameters(**(recommended_sampling(loaded.tokenizer.files.generation_config) | given))
    template = None if options.mode == "completion" else template_of(loaded.folder)
    if options.mode == "chat" and template is None:
        raise PromptError(f"{path} was not taught to chat; fine-tune it first (stage 6), or use --mode completion")
    settings = EngineSettings(cache_dtype=options.cache_dtype, max_running=1)
    engine = Engine(loaded.model, loaded.tokenizer, placement, settings, _proposer(options.draft, loaded.tokenizer))
    bytes_per_pass = bytes_read_per_token(loaded.model, placement.precision) if options.stats else None
    session = _Session(engine, parameters, template, options.system, bytes_per_pass)
    if options.prompt is not None:
        session.answer(options.prompt)
        return 0
    hint = "Say something" if template else "Type the beginning of a text"
    print(f"{hint} and press Enter; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return 0
        if not prompt:
            return 0
        try:
            session.answer(prompt)
        except (PromptError, TokenizerError) as error:  # this prompt only; the next may be fine
            print(f"error: {error}", file=sys.stderr)


def _proposer(draft: str | None, tokenizer: Tokenizer) -> Proposer | None:
    if draft is None:
        return None
    if draft == "lookup":
        return PromptLookup()
    loaded = load_for_inference(draft)
    if loaded.tokenizer.sha256() != tokenizer.sha256():
        raise PromptError(f"the draft model {draft} has another tokenizer; both models need the same one")
    return DraftModel(loaded.model, vocab_size=tokenizer.vocab_size)


class _Session:
    """Answers prompts one after the other. In a chat, the model also sees what was said before."""

    def __init__(
        self,
        engine: Engine,
        parameters: SamplingParameters,
        template: ChatFormat | None,
        system: str | None,
        bytes_per_pass: int | None,
    ):
        self._engine, self._parameters, self._template = engine, parameters, template
        self._messages = [Message("system", system)] if system and template else []
        self._bytes_per_pass = bytes_per_pass
        self._bandwidth = measure_read_bandwidth(device=engine.placement.device) if bytes_per_pass else 0.0

    def answer(self, prompt: str) -> None:
        """Print the continuation or the answer as it comes, then how long it took."""
        engine, template, messages = self._engine, self._template, [*self._messages, Message("user", prompt)]
        if template is None:
            ids, end_ids = engine.encode_prompt(prompt), None
            print(prompt, end="", flush=True)
        else:
            ids = template.encode(messages, engine.tokenizer, generation_prompt=True).ids
            end_ids = [template.end_id(engine.tokenizer), *engine.tokenizer.end_ids]
        handle = engine.submit(GenerationRequest(ids, self._parameters, end_ids=end_ids))
        text = ""
        for event in handle:
            text += event.text
            print(event.text, end="", flush=True)
        print()
        if template is not None and text.strip():
            self._messages = [*messages, Message("assistant", text)]
        print(f"[{self._describe(handle.stats)}]", file=sys.stderr)

    def _describe(self, stats: GenerationStats) -> str:
        parts = [f"{stats.prompt_tokens} + {stats.generated_tokens} tokens"]
        if stats.cached_tokens:
            parts.append(f"{stats.cached_tokens} of the prompt known")
        parts.append(f"first after {stats.first_token_seconds * 1000:.0f} ms")
        parts.append(f"then {stats.tokens_per_second:.0f} tokens/s")
        if self._bytes_per_pass is not None:
            used = self._bytes_per_pass * stats.passes_per_second
            share = f"{used / self._bandwidth:.0%} of {self._bandwidth / 1e9:.0f}"
            parts.append(f"weights read at {used / 1e9:.1f} GB/s, {share} GB/s")
        if stats.proposed_tokens:
            parts.append(f"{stats.accepted_tokens} of {stats.proposed_tokens} guesses right")
        if stats.context_shifts:
            parts.append(f"context shifted {stats.context_shifts} ×")
        return ", ".join([*parts, str(stats.finish_reason)])

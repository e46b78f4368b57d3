"""`answers.py` as a command."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.significance import Interval, bootstrap_interval
from evaluation.tasks.question_answering import (
    AnswerScores,
    ask_model,
    nearest_question_answers,
    retrieved_answers,
    score_answers,
)
from finetuning.adapters.lora import fold_adapter
from finetuning.adapters.peft_format import load_adapter
from finetuning.base_model import template_of
from finetuning.config import FinetuningConfig, FinetuningDataConfig
from finetuning.data.finetuning_data import load_data
from finetuning.data.python_docs_qa import first_sentence
from finetuning.data.record_shapes import Example
from groundwork.files import write_atomically
from groundwork.user_errors import UserError, report_user_errors
from neural_networks.python_docs import gather_symbols
from optimization.engine.engine import Engine
from optimization.model_loading import load_for_inference
from training.checkpoints.checkpoint import newest_run
from training.placement import choose_placement


@dataclass(frozen=True)
class Questions:
    """What is asked, and what may be looked up.

    Args:
        learned: the conversations that a fine-tuning run with the same settings learns from.
        asked: held-out conversations; the last message is the reference answer.
        documents: pairs of a text and its answer sentence, for retrieval; none for a user's file.
    """

    learned: Sequence[Example]
    asked: Sequence[Example]
    documents: Sequence[tuple[str, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ask, print, and return the exit status."""
    data = FinetuningDataConfig()
    parser = argparse.ArgumentParser(
        prog="answers.py",
        description="Exact match and ROUGE-L of a chat model on held-out questions, beside looking the answers up. Give "
        "--source, --held-out-fraction, --max-examples and --seed as fine-tuning had them: then nothing that is asked was "
        "learned.",
    )
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter of that model, in peft's format")
    parser.add_argument("--source", default=data.source, help="python_docs_qa, or a file or folder of conversations")
    parser.add_argument("--held-out-fraction", type=float, default=data.held_out_fraction)
    parser.add_argument("--max-examples", type=int, help="the most that was learned from; default: all")
    parser.add_argument("--seed", type=int, default=FinetuningConfig().seed, help="seed of the split and of all draws")
    parser.add_argument("--few-shot", type=int, default=0, help="answered questions before each question")
    parser.add_argument("--limit", type=int, default=128, help="the most questions, drawn by the seed")
    parser.add_argument("--max-tokens", type=int, default=64, help="the most tokens of an answer")
    parser.add_argument("--output", type=Path, help="JSON file for the scores and all answers")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    for name, least in (("few_shot", 0), ("limit", 1), ("max_tokens", 1)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    placement = choose_placement(options.device, "float32")
    loaded = load_for_inference(options.checkpoint or newest_run(), placement.device)
    template = template_of(loaded.folder)
    if template is None:
        raise UserError(f"{loaded.folder} has no chat template: it was not taught to answer; fine-tune it first")
    if options.adapter is not None:
        load_adapter(loaded.model, options.adapter)
        fold_adapter(loaded.model)
    questions = choose_questions(options, console)
    shots = draw_shots(questions.learned, options.few_shot, options.seed)
    console.print(f"{loaded.folder}: {len(questions.asked)} questions, {len(shots)} examples", highlight=False)
    start = time.perf_counter()
    engine = Engine(loaded.model, loaded.tokenizer, placement)
    answering = ask_model(engine, template, questions.asked, options.max_tokens, shots)
    said = list(track(answering, "Answering", len(questions.asked), console=console))
    seconds = time.perf_counter() - start
    answers = {"this model": said, "nearest question": nearest_question_answers(questions.learned, questions.asked)}
    if questions.documents:
        answers["retrieval (open book)"] = retrieved_answers(questions.documents, questions.asked)
    scores = {name: score_answers(texts, questions.asked) for name, texts in answers.items()}
    references = [example.messages[-1].content.strip() for example in questions.asked]
    exact = {name: _exact_interval(texts, references) for name, texts in answers.items()}
    _print(scores, exact, console)
    if options.output is not None:
        content = {
            "settings": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
            "seconds": seconds,
            "scores": {name: {**asdict(scores[name]), "exact_interval": asdict(exact[name])} for name in scores},
            "answers": [
                {"question": [m.content for m in example.messages[:-1]], "reference": reference, "answer": answer}
                for example, reference, answer in zip(questions.asked, references, said, strict=True)
            ],
        }
        write_atomically(options.output, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return 0


def choose_questions(options: argparse.Namespace, console: Console) -> Questions:
    """The held-out questions of a fine-tuning run with the same settings."""
    data = FinetuningDataConfig(options.source, options.held_out_fraction, options.max_examples)
    split = load_data(FinetuningConfig(seed=options.seed, data=data), console)
    if not split.held_out:
        raise UserError(f"{options.source} has no held-out conversations; raise --held-out-fraction")
    count = min(options.limit, len(split.held_out))
    asked = random.Random(options.seed).sample(list(split.held_out), count)
    documents: list[tuple[str, str]] = []
    if options.source == "python_docs_qa":
        documents = [
            (f"{s.name} {s.docstring}", found) for s in gather_symbols() if (found := first_sentence(s.docstring))
        ]
    return Questions(split.examples, asked, documents)


def draw_shots(learned: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Answered questions to show before every question: single ones, the same for all, from what may be learned.

    Raises:
        UserError: there are too few.
    """
    single = [example for example in learned if [m.role for m in example.messages] == ["user", "assistant"]]
    if count > len(single):
        raise UserError(f"--few-shot must be at most {len(single)}, the single questions to learn from; got {count}")
    return random.Random(seed).sample(single, count)


def _exact_interval(answers: Sequence[str], references: Sequence[str]) -> Interval:
    return bootstrap_interval([float(a.strip() == r) for a, r in zip(answers, references, strict=True)])


def _print(scores: dict[str, AnswerScores], exact: dict[str, Interval], console: Console) -> None:
    table = Table("", "exact", "95 % interval", "ROUGE-L", "F1")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, score in scores.items():
        interval = f"{exact[name].low:.1%} – {exact[name].high:.1%}"
        table.add_row(name, f"{score.exact:.1%}", interval, f"{score.rouge_l:.3f}", f"{score.f1:.3f}")
    console.print(table)

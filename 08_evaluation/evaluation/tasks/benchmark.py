"""Running a task: it takes questions, and gives results with intervals and a log of every answer."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.calibration import calibrate
from evaluation.significance import Interval, bootstrap_interval
from evaluation.tasks.answer_scoring import ContinuationScore, score_continuations
from evaluation.tasks.layouts import Item
from evaluation.tasks.task import Task
from evaluation.text_generation import Generate, text_generator
from evaluation.text_overlap import exact_match, token_f1
from groundwork.files import to_json, write_atomically, write_json
from groundwork.user_errors import UserError
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel


@dataclass(frozen=True)
class TaskResult:
    """The results of a model on a task.

    Args:
        task: name of the task.
        questions: how many questions were asked.
        metrics: metrics by name, each with its 95 % interval.
        chance: accuracy of guessing; None where there is nothing to guess from.
        calibration_error: ECE of the softmax over the candidates; None where there are none.
        cut: questions whose prompt did not fit the model and lost its beginning.
        settings: few-shot examples, seed and limit.
        samples: one log entry for each question.
    """

    task: str
    questions: int
    metrics: dict[str, Interval]
    chance: float | None
    calibration_error: float | None
    cut: int
    settings: dict[str, Any]
    samples: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Evaluator:
    """A model with everything that is needed to ask it questions.

    Args:
        model: a model in evaluation mode.
        tokenizer: the model's tokenizer.
        placement: device and precision.
        begin_with_end_of_text: put `<|endoftext|>` before every prompt, as before every document in training.
        generate: how to write text; None for greedy decoding with the engine of stage 7.
    """

    model: GPTModel
    tokenizer: Tokenizer
    placement: Placement
    begin_with_end_of_text: bool = True
    generate: Generate | None = None

    def run(self, task: Task, few_shot: int | None = None, limit: int | None = None, seed: int = 0) -> TaskResult:
        """Ask the questions of a task.

        Args:
            task: the task.
            few_shot: solved examples before each question; None for the number in the task.
            limit: the most questions to ask, drawn by the seed.
            seed: seed for the draw of questions and examples.

        Raises:
            UserError, CorpusError: the task's data cannot be used.
        """
        shots = task.few_shot if few_shot is None else few_shot
        items = task.items()
        asked = list(range(len(items)))
        if limit is not None and limit < len(items):
            asked = sorted(random.Random(seed).sample(asked, limit))
        prompted = with_examples(task, items, asked, shots, seed)
        answer = {"choice": self._choose, "cloze": self._complete, "generation": self._write}[task.reader.kind]
        samples = answer(task, prompted)
        for sample, index in zip(samples, asked, strict=True):
            sample["question"] = index
        settings = {"few_shot": shots, "limit": limit, "seed": seed, "kind": task.reader.kind}
        return _summarise(task, prompted, samples, settings)

    def _score(self, items: Sequence[Item]) -> list[list[ContinuationScore]]:
        pairs = [pair for item in items for pair in zip(item.contexts, item.continuations, strict=True)]
        flat = iter(score_continuations(self.model, self.tokenizer, pairs, self.placement, self.begin_with_end_of_text))
        return [[next(flat) for _ in item.contexts] for item in items]

    def _choose(self, task: Task, items: Sequence[Item]) -> list[dict[str, Any]]:
        samples = []
        for item, scores in zip(items, self._score(items), strict=True):
            sums = np.array([score.log_probability for score in scores])
            picked = {
                "accuracy": int(sums.argmax()),
                "accuracy_per_token": int((sums / [score.num_tokens for score in scores]).argmax()),
                # The space before an answer belongs to the prompt; it does not count in the answer's length.
                "accuracy_per_byte": int((sums / [len(c.strip().encode()) for c in item.continuations]).argmax()),
            }
            samples.append(
                {
                    "context": item.contexts[item.answer],
                    "choices": item.continuations if len(set(item.continuations)) > 1 else item.contexts,
                    "answer": item.answer,
                    "log_probabilities": sums.tolist(),
                    "picked": picked,
                    "cut": any(score.was_cut for score in scores),
                    **{name: int(choice == item.answer) for name, choice in picked.items()},
                }
            )
        return samples

    def _complete(self, task: Task, items: Sequence[Item]) -> list[dict[str, Any]]:
        return [
            {
                "context": item.contexts[0],
                "answer": item.continuations[0],
                "log_probability": score.log_probability,
                "cut": score.was_cut,
                "accuracy": int(score.is_greedy),
            }
            for item, (score,) in zip(items, self._score(items), strict=True)
        ]

    def _write(self, task: Task, items: Sequence[Item]) -> list[dict[str, Any]]:
        generate = self.generate or text_generator(
            self.model, self.tokenizer, self.placement, begin_with_end_of_text=self.begin_with_end_of_text
        )
        samples = []
        texts = generate([item.contexts[0] for item in items], task.max_tokens, task.stop)
        for item, written in zip(items, texts, strict=True):
            found = extract_answer(written.text, task.answer_pattern)
            expected = extract_answer(item.continuations[0], task.answer_pattern)
            if expected is None:
                raise UserError(
                    f"task {task.name}: field 'answer_pattern' {task.answer_pattern!r} finds nothing in the reference "
                    f"answer {item.continuations[0].strip()[:60]!r}"
                )
            samples.append(
                {
                    "context": item.contexts[0],
                    "answer": expected,
                    "written": written.text,
                    "extracted": found,
                    "cut": written.was_cut,
                    "exact_match": int(found is not None and exact_match(found, expected)),
                    "token_f1": 0.0 if found is None else token_f1(found, expected),
                }
            )
        return samples


def with_examples(task: Task, items: Sequence[Item], asked: Sequence[int], shots: int, seed: int) -> list[Item]:
    """The questions that are asked, each after the instruction and its solved examples.

    Each question gets its own examples, drawn by the seed and the number of the question. A question is never its own
    example.

    Raises:
        UserError: more examples are wanted than there are.
    """
    pool = task.examples()
    available = len(items) - 1 if pool is None else len(pool)
    if not 0 <= shots <= available:
        raise UserError(f"task {task.name}: {shots} examples were asked for, and there are {available}")
    prompted = []
    for index in asked:
        candidates: Sequence[Item] = pool if pool is not None else [*items[:index], *items[index + 1 :]]
        drawn = random.Random(f"{seed} {index}").sample(candidates, shots)
        parts = ([task.instruction] if task.instruction else []) + [example.solved for example in drawn]
        front = "".join(part + task.separator for part in parts)
        item = items[index]
        prompted.append(dataclasses.replace(item, contexts=tuple(front + context for context in item.contexts)))
    return prompted


def extract_answer(text: str, pattern: str | None) -> str | None:
    """The last match of the pattern's first group, without commas inside numbers; None where there is no match.

    >>> extract_answer("6 · 7 = 42, so #### 1,042", r"#### (-?[0-9.,]+)")
    '1042'
    """
    if pattern is None:
        return text.strip()
    found = [match.group(1) for match in re.finditer(pattern, text)]
    return re.sub(r"(?<=\d),(?=\d{3})", "", found[-1]).strip().rstrip(".,") if found else None


def _summarise(
    task: Task, items: Sequence[Item], samples: list[dict[str, Any]], settings: dict[str, Any]
) -> TaskResult:
    names = {
        "choice": ("accuracy", "accuracy_per_token", "accuracy_per_byte"),
        "cloze": ("accuracy",),
        "generation": ("exact_match", "token_f1"),
    }[task.reader.kind]
    metrics = {name: bootstrap_interval([sample[name] for sample in samples]) for name in names}
    chance = calibration_error = None
    if task.reader.kind == "choice":
        chance = float(np.mean([1 / len(item.contexts) for item in items]))
        confidence = np.array([_softmax(sample["log_probabilities"]).max() for sample in samples])
        right = np.array([sample["accuracy"] for sample in samples], dtype=bool)
        calibration_error = calibrate(confidence, right, bins=10).expected_error
    cut = sum(sample["cut"] for sample in samples)
    return TaskResult(task.name, len(samples), metrics, chance, calibration_error, cut, settings, samples)


def _softmax(values: Sequence[float]) -> np.ndarray:
    exponentials = np.exp(np.array(values) - max(values))
    return exponentials / exponentials.sum()


def write_result(result: TaskResult, folder: Path) -> Path:
    """Write `<task>.json` with the results and `<task>.jsonl` with every answer; return the path of the first.

    Both files are written under a temporary name and then renamed.
    """
    summary = {key: value for key, value in vars(result).items() if key != "samples"}
    summary["metrics"] = {name: vars(interval) for name, interval in result.metrics.items()}
    log = "".join(to_json(sample, ensure_ascii=False) + "\n" for sample in result.samples)
    write_atomically(folder / f"{result.task}.jsonl", log)
    write_json(folder / f"{result.task}.json", summary)
    return folder / f"{result.task}.json"

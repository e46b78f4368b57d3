"""The speedrun: tokenizer → pretraining → instruction tuning → preferences → int8 → report, in one command.

Each step leaves its result on disk, and is skipped when the result is there. So a run that was stopped continues
where it was. Nothing here trains: the steps come from stages 5, 6 and 7, and the measurements from this stage.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from evaluation.speedrun.config import SpeedrunConfig
from evaluation.speedrun.report import write_report
from evaluation.tasks.question_answering import (
    ask_model,
    nearest_question_answers,
    retrieved_answers,
    score_answers,
)
from finetuning.data.chat_format import ChatTemplate, Message, chat_template
from finetuning.data.instruction_data import read_instruction_data
from finetuning.data.python_docs_qa import QuestionSet, build_questions, first_sentence
from finetuning.data.record_shapes import Example, Preference
from finetuning.finetune_command import parse_config as parse_finetuning
from finetuning.run import run_finetuning
from groundwork.files import read_json, write_atomically, write_json
from groundwork.text_sources import read_jsonl
from neural_networks.bits_per_byte import bits_per_byte
from neural_networks.python_docs import gather_symbols
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest
from training.data.data_preparation import prepare_dataset
from training.data.token_files import Tokens, open_tokens
from training.run.pretraining import run_training
from training.run.run_folder import RunFolder
from training.train_command import parse_config as parse_training
from transformer.sampling import SamplingParameters

ROOT = Path(__file__).resolve().parents[3]
SHOTS = 3  # answered questions before each question to the pretrained model


class SpeedrunError(ValueError):
    """A step that failed."""


@dataclass(frozen=True)
class Stage:
    """A model of the chain.

    Args:
        name: its name in the report.
        checkpoint: its folder.
        chats: whether it knows the chat format.
    """

    name: str
    checkpoint: Path
    chats: bool


class Speedrun:
    """One chain of steps, with its folder.

    Args:
        config: see `SpeedrunConfig`.
        console: where progress is printed.
    """

    def __init__(self, config: SpeedrunConfig, console: Console):
        self.config, self.console = config, console
        self.folder = Path(config.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.timings_path = self.folder / "seconds.json"
        self.timings: dict[str, float] = _read_json(self.timings_path, {})

    def run(self) -> int:
        """Do every step that is not done. Returns the exit status: 0, or 130 when interrupted.

        Raises:
            InUseError: another process works in the folder.
        """
        with RunFolder(self.folder):
            return self._run()

    def _run(self) -> int:
        pretrained, chat, preferred = (self.folder / name for name in ("pretrained", "chat", "preferred"))
        steps: list[tuple[str, Callable[[], int]]] = [
            ("questions", self._make_questions),
            ("tokenizer and pretraining", lambda: self._pretrain(pretrained)),
            ("instruction tuning", lambda: self._finetune(self.config.sft, pretrained, chat, "sft.jsonl")),
            ("preferences", lambda: self._finetune(self.config.dpo, chat, preferred, "preferences.jsonl")),
        ]
        stages = [
            Stage("pretrained", pretrained, False),
            Stage("instruction tuned", chat, True),
            Stage("with preferences", preferred, True),
        ]
        if self.config.quantize:
            steps.append(("int8", lambda: self._quantize(preferred, self.folder / "int8")))
            stages.append(Stage("int8", self.folder / "int8", True))
        steps.append(("evaluation", lambda: self._evaluate(stages)))
        for number, (name, step) in enumerate(steps, start=1):
            self.console.rule(f"{number}/{len(steps)} {name}")
            start = time.perf_counter()
            status = step()
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start
            write_json(self.timings_path, self.timings)
            if status:
                return status
        report = write_report(self.folder, asdict(self.config), self.timings)
        self.console.print(f"\nReport: {report} and {report.with_suffix('.html')}", highlight=False)
        last = stages[-1].checkpoint
        self.console.print(
            f"Talk to it:  python 07_optimization/generate.py --checkpoint {last}\n"
            f"Serve it:    python 09_deployment/api/main.py --checkpoint {last}",
            highlight=False,
        )
        return 0

    # --- the steps ---------------------------------------------------------------------------

    def _make_questions(self) -> int:
        """Write the data of the fine-tuning steps, and the questions for the end."""
        if (self.folder / "held_out.jsonl").exists():
            self.console.print("done before")
            return 0
        symbols = gather_symbols()
        if self.config.max_symbols is not None:
            symbols = symbols[:: max(1, len(symbols) // self.config.max_symbols)]
        questions: QuestionSet = build_questions(symbols)
        chance = random.Random(self.config.seed)
        single = [example for example in questions.train if len(example.messages) == 2]
        memorised = chance.sample(single, min(self.config.memorised_questions, len(single)))
        train = [*questions.train, *(memorised * (self.config.repeats - 1))]
        chance.shuffle(train)
        held_out = chance.sample(questions.held_out, min(self.config.held_out_questions, len(questions.held_out)))
        documents = [
            {"text": f"{symbol.name} {symbol.docstring}", "sentence": sentence}
            for symbol in symbols
            if (sentence := first_sentence(symbol.docstring))
        ]
        write_atomically(self.folder / "sft.jsonl", _conversations(train))
        write_atomically(self.folder / "memorised.jsonl", _conversations(memorised))
        write_atomically(self.folder / "preferences.jsonl", _preferences(questions.preferences))
        write_atomically(self.folder / "documents.jsonl", "".join(json.dumps(d) + "\n" for d in documents))
        write_atomically(self.folder / "held_out.jsonl", _conversations(held_out))  # last: it shows that all is there
        self.console.print(
            f"{len(questions.train):,} questions to learn from, {len(memorised)} of them {self.config.repeats} times; "
            f"{len(held_out)} held out; {len(questions.preferences):,} preferences",
            highlight=False,
        )
        return 0

    def _pretrain(self, output: Path) -> int:
        config = parse_training([f"--config={self.config.pretrain}", f"--output_dir={output}"])
        return run_training(config, self.console)

    def _finetune(self, path: str, base: Path, output: Path, source: str) -> int:
        arguments = [f"--config={path}", f"--base={base}", f"--output_dir={output}"]
        config = parse_finetuning([*arguments, f"--data.source={self.folder / source}"])
        return run_finetuning(config, self.console)

    def _quantize(self, checkpoint: Path, output: Path) -> int:
        if output.exists():
            self.console.print("done before")
            return 0
        script = ROOT / "07_optimization" / "quantize.py"
        command = [sys.executable, str(script), "--checkpoint", str(checkpoint), "--method", "int8"]
        result = subprocess.run([*command, "--output", str(output)], check=False)
        if result.returncode:
            raise SpeedrunError(f"quantizing {checkpoint} failed with status {result.returncode}")
        return 0

    def _evaluate(self, stages: Sequence[Stage]) -> int:
        """Measure every model of the chain that has no measurement yet."""
        path = self.folder / "evaluation.json"
        results: dict[str, Any] = _read_json(path, {})
        memorised, held_out = (_read_conversations(self.folder / f"{n}.jsonl") for n in ("memorised", "held_out"))
        template = _template(self.config.sft)
        if "baselines" not in results:
            results["baselines"] = self._measure_baselines(memorised, held_out)
            write_json(path, results)
        for stage in stages:
            if stage.name not in results:
                with self.console.status(f"Measuring {stage.name} …"):
                    results[stage.name] = self._measure(stage, template, memorised, held_out)
                write_json(path, results)
            self.console.print(stage.name, results[stage.name]["scores"], highlight=False)
        return 0

    def _measure(
        self, stage: Stage, template: ChatTemplate, memorised: list[Example], held_out: list[Example]
    ) -> dict[str, Any]:
        engine = Engine.from_checkpoint(stage.checkpoint)
        scores: dict[str, Any] = {"bits_per_byte": self._bits_per_byte(engine)}
        conversations: list[dict[str, Any]] = []
        # The pretrained model has never seen the marks, so it gets examples of the form in plain text.
        shots = "" if stage.chats else self._shots(memorised)
        for name, examples in (("memorised", memorised), ("held_out", held_out)):
            answers = list(ask_model(engine, template, examples)) if stage.chats else _continue(engine, shots, examples)
            scores[name] = asdict(score_answers(answers, examples))
            conversations += [
                {
                    "set": name,
                    "question": "\n".join(message.content for message in example.messages[:-1]),
                    "answer": answer,
                    "reference": example.messages[-1].content,
                }
                for example, answer in zip(examples, answers, strict=True)
            ]
        return {"scores": scores, "conversations": conversations, "bytes": _weight_bytes(stage.checkpoint)}

    def _shots(self, memorised: list[Example]) -> str:
        """Questions with their answers, as examples. None of them is asked."""
        asked = {example.messages for example in memorised}
        train = _read_conversations(self.folder / "sft.jsonl")
        others = (example for example in train if len(example.messages) == 2 and example.messages not in asked)
        return "".join(_as_text(example) for example in itertools.islice(others, SHOTS))

    def _bits_per_byte(self, engine: Engine) -> float:
        """Bits per byte on the held-out text of the pretraining."""
        config = parse_training([f"--config={self.config.pretrain}"])
        dataset = prepare_dataset(config.data, config.tokenizer, Console(quiet=True))
        files = [path for paths in dataset.token_files("val").values() for path in paths]
        tokens = open_tokens(files, dataset.meta.dtype, dataset.meta.vocab_size, engine.context_length)
        return bits_per_byte(_nats_in_windows(engine, tokens), dataset.meta.validation_bytes)

    def _measure_baselines(self, memorised: list[Example], held_out: list[Example]) -> dict[str, Any]:
        train = _read_conversations(self.folder / "sft.jsonl")
        unique = list({example.messages: example for example in train}.values())
        documents = [(entry["text"], entry["sentence"]) for _, entry in read_jsonl(self.folder / "documents.jsonl")]
        return {
            "nearest question": {
                name: asdict(score_answers(nearest_question_answers(unique, examples), examples))
                for name, examples in (("memorised", memorised), ("held_out", held_out))
            },
            "retrieval (open book)": {
                name: asdict(score_answers(retrieved_answers(documents, examples), examples))
                for name, examples in (("memorised", memorised), ("held_out", held_out))
            },
        }


@torch.inference_mode()
def _nats_in_windows(engine: Engine, tokens: Tokens) -> float:
    """-ln p of a text, computed with the layers that the engine has, quantized or not."""
    total, context = 0.0, engine.context_length
    for start in range(0, len(tokens) - 1, context):
        window = torch.from_numpy(tokens[start : start + context + 1].astype(np.int64))[None]
        logits = engine.model(window[:, :-1].to(engine.placement.device))[0].float()
        total += F.cross_entropy(logits, window[0, 1:].to(logits.device), reduction="sum").item()
    return total


def _as_text(example: Example, answered: bool = True) -> str:
    """A conversation without marks."""
    *asked, answer = (message.content for message in example.messages)
    return "Question: " + "\n".join(asked) + "\nAnswer:" + (f" {answer}\n\n" if answered else "")


def _continue(engine: Engine, shots: str, examples: list[Example]) -> list[str]:
    """The first line of each continuation that is not empty."""
    parameters = SamplingParameters(max_tokens=64, temperature=0.0)
    handles = []
    for example in examples:
        ids = engine.tokenizer.encode(shots + _as_text(example, answered=False))  # too long a one loses its beginning
        ids = ids[-engine.context_length + parameters.max_tokens :]
        handles.append(engine.submit(GenerationRequest(ids, parameters)))
    texts = ("".join(event.text for event in handle) for handle in handles)
    return [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in texts]


def _weight_bytes(checkpoint: Path) -> int:
    """Size of the newest weights on disk."""
    files = sorted(checkpoint.rglob("model*.safetensors"))
    return files[-1].stat().st_size if files else 0


def _template(path: str) -> ChatTemplate:
    return chat_template(parse_finetuning([f"--config={path}"]).chat_template)


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _conversations(examples: Sequence[Example]) -> str:
    records = [{"messages": _messages(example.messages)} for example in examples]
    return "".join(json.dumps(record) + "\n" for record in records)


def _preferences(pairs: Sequence[Preference]) -> str:
    records = [{"prompt": _messages(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    return "".join(json.dumps(record) + "\n" for record in records)


def _read_conversations(path: Path) -> list[Example]:
    return read_instruction_data(path).examples


def _read_json(path: Path, default: Any) -> Any:
    return read_json(path) if path.exists() else default

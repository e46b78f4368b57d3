"""Fine-tune a real model on a CPU: LoRA, QLoRA, and replay of plain text; what is learned, and what is forgotten.

python benchmarks/finetune_smollm2.py --replay tinyshakespeare.txt --output docs/results/smollm2

SmolLM2-135M-Instruct learns questions about documentation (`python_docs_qa`), and instructions of `text_tasks`. Everything
is measured with the project's own programs; each result is kept, and the command continues where it was stopped. Seconds
are those of the processor: what else the machine does at that time hardly counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from deployment.export.huggingface import export_huggingface
from evaluation.answers_command import main as ask
from evaluation.sliding_window import score_documents
from finetuning.adapters.lora import fold_adapter
from finetuning.adapters.peft_format import load_adapter
from finetuning.base_model import template_of
from finetuning.imported_models import import_model
from groundwork.figures import save_figure
from groundwork.files import read_json, write_atomically
from neural_networks.corpora import load_corpus
from optimization.model_loading import load_for_inference
from reporting import describe_machine
from training.placement import choose_placement
from training.run.tracking import read_metrics

ROOT = Path(__file__).parents[1]
TEXT_CHARACTERS, PIECE = 12_000, 2_000  # of a text that is measured, in pieces that do not see each other
RECIPE = (
    "--context_length=256 --lora.rank=8 --lora.alpha=16 --optimizer.lr=0.001 --schedule.warmup_steps=3 "
    "--training.batch_size=2 --training.eval_interval=10 --training.eval_tokens=1024 --training.checkpoint_interval=10"
)


@dataclass(frozen=True)
class Data:
    """What is learned and asked.

    Args:
        source: as `data.source`; `text_tasks` stands for the file that is made here.
        held_out_fraction: see `FinetuningDataConfig`.
        max_examples: see there.
        steps: of training, about one pass.
    """

    source: str
    held_out_fraction: float
    max_examples: int
    steps: int


DATA = {
    "questions": Data("python_docs_qa", 0.003, 192, 30),
    "instructions": Data("text_tasks", 0.3125, 192, 24),  # 100 of 320
}
RUNS = {  # name → data, and what is added to the recipe
    "LoRA, questions": ("questions", ""),
    "LoRA, instructions": ("instructions", ""),
    "LoRA with replay, questions": ("questions", "--data.replay={replay}"),
    "QLoRA, questions": ("questions", "--quantize_base=true"),
    "QLoRA, instructions": ("instructions", "--quantize_base=true"),
}


class Study:
    """All runs and measurements in one folder.

    Args:
        work: for the model, the runs and the answers.
        output: for `smollm2.json`.
        replay: corpus of the replayed text; its held-out end is measured.
    """

    def __init__(self, work: Path, output: Path, replay: str):
        self.work, self.output, self.replay = work, output, replay
        self.base, self.tasks = work / "smollm2", work / "text_tasks.jsonl"
        self.path = output / "smollm2.json"
        self.results: dict[str, Any] = read_json(self.path) if self.path.exists() else {}

    def run(self, only: list[str]) -> None:
        """Do what is not done yet: the base first, then run after run, each with its measurements."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not self.base.exists():
            import_model("smollm2", self.base)
        if not self.tasks.exists():
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / "text_tasks.py"), str(self.tasks)], check=True)
        self.results.setdefault("machine", describe_machine())
        speedrun = read_json(ROOT / "docs" / "results" / "speedrun" / "scores.json")["scores"]
        self.results["speedrun"] = {name: scores["held_out"] for name, scores in speedrun.items()}
        texts = self._texts()
        for name in [name for name in RUNS if not only or name in only]:
            data, more = RUNS[name]
            folder = self.work / name.replace(", ", "_").replace(" ", "_").lower()
            self._keep(["runs", name], lambda data=data, more=more, folder=folder: self._train(data, more, folder))
            for shots in (3, 0):
                self._keep(["answers", data, f"base, {shots} examples"], lambda d=data, s=shots: self._ask(d, None, s))
            self._keep(["answers", data, name.split(",")[0]], lambda d=data, f=folder: self._ask(d, f / "adapter", 0))
            self._keep(["bits_per_byte", "base"], lambda: self._measure(None, texts))
            self._keep(["bits_per_byte", name], lambda f=folder: self._measure(f / "adapter", texts))
            self._keep(["peft", name], lambda f=folder: self._compare_with_peft(f / "adapter"))
            with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nullm"}):
                save_figure(draw_runs(self.results["runs"]), self.output / "curves.svg")

    def _keep(self, place: list[str], make: Any) -> None:
        """Make a result unless it is there, and save it."""
        *parents, last = place
        where = self.results
        for parent in parents:
            where = where.setdefault(parent, {})
        if last not in where:
            print(f"--- {' · '.join(place)}", flush=True)
            where[last] = make()
            write_atomically(self.path, json.dumps(self.results, indent=2, ensure_ascii=False) + "\n")

    def _source(self, data: Data) -> str:
        return str(self.tasks) if data.source == "text_tasks" else data.source

    def _train(self, name: str, more: str, folder: Path) -> dict[str, Any]:
        data = DATA[name]
        words = [
            *shlex.split(RECIPE),
            *shlex.split(more.format(replay=self.replay)),
            f"--base={self.base}",
            f"--data.source={self._source(data)}",
            f"--data.held_out_fraction={data.held_out_fraction}",
            f"--data.max_examples={data.max_examples}",
            f"--training.max_steps={data.steps}",
            f"--output_dir={folder}",
        ]
        script = ROOT / "06_finetuning" / "finetune.py"
        process = subprocess.Popen([sys.executable, str(script), *words])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"error: fine-tuning ended with status {status}; the same command continues")
        keys = ("step", "train_loss", "validation_loss")
        curve = [{key: record[key] for key in keys if key in record} for record in read_metrics(folder / "training")]
        return {
            "command": "python 06_finetuning/finetune.py " + shlex.join(words),
            "processor_seconds": usage.ru_utime + usage.ru_stime,
            "peak_gib": usage.ru_maxrss / 2**20,
            "curve": curve,
        }

    def _ask(self, name: str, adapter: Path | None, shots: int) -> dict[str, Any]:
        data, path = DATA[name], self.work / "answers.json"
        words = [
            f"--checkpoint={self.base}",
            f"--source={self._source(data)}",
            f"--held-out-fraction={data.held_out_fraction}",
            f"--max-examples={data.max_examples}",
            f"--few-shot={shots}",
            "--limit=100",
            f"--output={path}",
            *([f"--adapter={adapter}"] if adapter else []),
        ]
        if ask(words):
            raise SystemExit("error: asking failed")
        found = read_json(path)
        self.results["answers"][name].setdefault(
            "looked up", {k: v for k, v in found["scores"].items() if k != "this model"}
        )
        return {
            "command": "python 08_evaluation/answers.py " + shlex.join(words),
            **found["scores"]["this model"],
            "some": found["answers"][:8],
        }

    @torch.inference_mode()
    def _compare_with_peft(self, adapter: Path) -> dict[str, float]:
        """The same adapter on the original weights, in peft and here: the largest difference of any logit."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        loaded = load_for_inference(self.base)
        original = self.work / "smollm2_hf"
        if not original.exists():
            export_huggingface(loaded.model, loaded.tokenizer, template_of(loaded.folder), original, "smollm2")
        ids = torch.tensor([loaded.tokenizer.encode("".join(self._texts()["other text"])[:PIECE])])
        before = loaded.model(ids)
        load_adapter(loaded.model, adapter)
        ours = loaded.model(ids)
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(original).float(), adapter)(ids).logits
        return {
            "largest_difference": float((ours - theirs).abs().max()),
            "largest_change": float((ours - before).abs().max()),  # by the adapter
            "standard_deviation": float(theirs.std()),
        }

    def _texts(self) -> dict[str, list[str]]:
        from pydoc_data.topics import topics

        shakespeare = "".join(load_corpus(self.replay).validation)
        reference = "\n\n".join(topics[name] for name in ("types", "objects", "naming"))
        texts = {"replayed kind of text": shakespeare, "other text": reference}
        cut = {name: text[:TEXT_CHARACTERS] for name, text in texts.items()}
        return {name: [text[i : i + PIECE] for i in range(0, len(text), PIECE)] for name, text in cut.items()}

    def _measure(self, adapter: Path | None, texts: dict[str, list[str]]) -> dict[str, float]:
        loaded = load_for_inference(self.base)
        if adapter is not None:
            load_adapter(loaded.model, adapter)
            fold_adapter(loaded.model)
        placement = choose_placement("cpu", "float32")
        return {
            name: score_documents(loaded.model, loaded.tokenizer, pieces, placement).bits_per_byte
            for name, pieces in texts.items()
        }


def draw_runs(runs: dict[str, Any]) -> Figure:
    """The loss of the answers over the steps: one panel for each kind of data, points where held-out answers were measured."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(DATA), sharey=True)
    for axes, data in zip(panels, DATA, strict=True):
        names = [name for name in runs if RUNS[name][0] == data]
        for index, name in enumerate(names):
            for key, style in (("train_loss", "-"), ("validation_loss", "o")):
                points = [(record["step"], record[key]) for record in runs[name]["curve"] if key in record]
                steps, losses = zip(*points, strict=True)
                label = name.split(",")[0] if key == "train_loss" else None
                axes.plot(steps, losses, style, color=f"C{index}", linewidth=0.8, markersize=4, label=label)
        axes.set(title=data, xlabel="step")
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize=8)
    panels[0].set_ylabel("loss, nats per learned token")
    return figure


def main() -> int:
    """Do all that is not done; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Fine-tune SmolLM2-135M-Instruct, and measure what it learns and forgets."
    )
    parser.add_argument("--replay", default="tiny_shakespeare", help="corpus of the replayed text")
    parser.add_argument("--work", type=Path, default=Path("checkpoints", "smollm2_study"))
    parser.add_argument("--output", type=Path, default=Path("outputs", "smollm2"))
    parser.add_argument("--only", action="append", default=[], choices=list(RUNS))
    options = parser.parse_args()
    Study(options.work, options.output, options.replay).run(options.only)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`classify.py` as a command: learn to tell from a docstring which library it documents."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from finetuning.classification import (
    LabelledBatches,
    SequenceClassifier,
    classification_accuracy,
    classification_loss,
    train_last_blocks_only,
)
from groundwork.threads import add_threads
from groundwork.user_errors import report_user_errors
from neural_networks.python_docs import gather_symbols
from tokenizer.interface import Tokenizer
from training.checkpoints.checkpoint import load_model, newest_run
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.placement import choose_placement
from training.recipe import Recipe, TrainingConfig
from training.trainer import Run, Trainer

LIBRARIES = ("the standard library", "numpy", "torch")
MAX_TOKENS = 96


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="classify.py",
        description="Put a classifying head on a trained model: which library does a docstring document?",
    )
    parser.add_argument("--base", help="folder of a run or of one checkpoint; default: the newest run")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument(
        "--blocks", type=int, default=1, help="blocks that are trained with the head; 0: the head alone"
    )
    parser.add_argument("--texts", type=int, default=3000, help="docstrings of each library")
    parser.add_argument("--seed", type=int, default=1337)
    add_threads(parser)
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _run(options, Console()))


def labelled_docstrings(tokenizer: Tokenizer, each: int, seed: int) -> tuple[list[list[int]], list[int]]:
    """Docstrings without their names, which would give the answer away, and the number of their library."""
    texts: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for symbol in gather_symbols():
        label = {"numpy": 1, "torch": 2}.get(symbol.module.split(".")[0], 0)
        mentions = ("numpy" in symbol.docstring or "np." in symbol.docstring) or "torch" in symbol.docstring
        if not mentions:
            texts[label].append(symbol.docstring)
    chance = random.Random(seed)
    pairs = [
        (tokenizer.encode(text)[:MAX_TOKENS], label)
        for label, all_texts in texts.items()
        for text in chance.sample(all_texts, min(each, len(all_texts)))
    ]
    chance.shuffle(pairs)
    return [ids for ids, _ in pairs], [label for _, label in pairs]


def _run(options: argparse.Namespace, console: Console) -> int:
    torch.manual_seed(options.seed)
    loaded = load_model(options.base or newest_run())
    with console.status("Reading docstrings …"):
        texts, labels = labelled_docstrings(loaded.tokenizer, options.texts, options.seed)
    context = loaded.model.config.context_length
    texts = [text[:context] for text in texts]
    cut = len(texts) // 10
    classifier = SequenceClassifier(loaded.model, len(LIBRARIES))
    train_last_blocks_only(classifier, options.blocks)
    learned = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            classifier,  # type: ignore[arg-type]
            classification_loss,
            LabelledBatches(texts[cut:], labels[cut:], options.seed),
            recipe=Recipe(
                OptimizerConfig(lr=1e-3, weight_decay=0.0),
                ScheduleConfig("linear", min(10, options.steps - 1), 0.0),
                TrainingConfig(max_steps=options.steps, batch_size=16, checkpoint_interval=options.steps),
            ),
            placement=choose_placement("auto", "float32"),
            run=Run(Path(folder), loaded.tokenizer),
        )
        with console.status(f"Training {learned:,} numbers …"):
            trainer.train()
    accuracy = classification_accuracy(classifier, texts[:cut], labels[:cut])
    most_frequent = Counter(labels[:cut]).most_common(1)[0][1] / cut
    console.print(f"{cut:,} held-out docstrings of {', '.join(LIBRARIES)}", highlight=False)
    console.print(f"  right                     {accuracy:8.1%}", highlight=False)
    console.print(f"  always the most frequent  {most_frequent:.1%}", highlight=False)
    return 0

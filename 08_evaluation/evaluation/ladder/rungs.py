"""The ladder: everything in this repository that can model text, measured on the same text with one number.

Each rung is measured in bits per byte on the same held-out documents, and the boundaries between documents count
too. So a byte counter, a compressor and a transformer with BPE can stand in one table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from evaluation.ladder.chat_rung import questions_about, tuned
from evaluation.ladder.models import TRANSFORMERS, Tokenizers, TransformerRung, measure_transformer
from evaluation.ladder.text import LadderTier, text_sha256
from evaluation.sliding_window import score_stream
from groundwork.files import read_json, write_json
from groundwork.user_errors import UserError, require_types
from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.byte_models import byte_stream, context_windows, measure
from neural_networks.corpus import Corpus
from neural_networks.kneser_ney import KneserNeyModel
from neural_networks.mlp_numpy import MLP, MLPConfig
from neural_networks.ngram import BigramModel, UnigramModel
from neural_networks.optimizers import Adam
from optimization.weights.quantized_model import Method, count_weights, quantize_model
from tokenizer.interface import Tokenizer
from training.placement import Placement
from transformer.gpt_model import GPTModel

Progress = Callable[[str], None]
AFTER_SFT = "best recipe, after SFT"
QUANTIZED: tuple[Method, ...] = ("int8", "int4")


@dataclass(frozen=True)
class Rung:
    """One row of the table.

    Args:
        name: what it is.
        stage: the stage that teaches it.
        bits_per_byte: measured on the held-out text.
        seconds: time to learn, or to compress.
        parameters: how many numbers were learned or counted; 0 for compressors.
    """

    name: str
    stage: int
    bits_per_byte: float
    seconds: float
    parameters: int


class Ladder:
    """Measures rungs, and keeps the results for the same text and the same tier.

    Args:
        text: the text to learn from and to be measured on.
        tier: how much work the ladder may take.
        placement: where transformers are trained.
        file: JSON file of the results.

    Raises:
        UserError: the file is damaged, or belongs to another text or tier.
    """

    def __init__(self, text: Corpus, tier: LadderTier, placement: Placement, file: Path):
        self.text, self.tier, self.placement, self.file = text, tier, placement, file
        self._tokenizers = Tokenizers(text, tier)
        self._newest: tuple[str, GPTModel, Tokenizer] | None = None  # the last transformer that was trained
        self.rungs: dict[str, Rung] = {}
        self._head = {
            "corpus": text.name,
            "corpus_sha256": text_sha256(text),
            "tier": asdict(tier),
            "train_bytes": text.train_bytes,
            "validation_bytes": text.validation_bytes,
        }
        if file.exists():
            self._read()

    def measurements(self) -> dict[str, Callable[[Progress], Rung]]:
        """How to measure each rung, by its name, from the bottom up."""
        stream, held_out = byte_stream(self.text.train), self.text.validation

        def counted(name: str, build: Callable[[], UnigramModel | BigramModel], parameters: int) -> Rung:
            start = time.perf_counter()
            bits = measure(build(), held_out)
            return Rung(name, 1, bits, time.perf_counter() - start, parameters)

        def kneser_ney(say: Progress) -> Rung:
            start = time.perf_counter()
            model = KneserNeyModel(stream, self.tier.ngram_order)
            bits = measure(model, held_out)
            return Rung(
                f"{self.tier.ngram_order}-gram, Kneser-Ney", 1, bits, time.perf_counter() - start, model.num_grams
            )

        def compressed(name: str, compress: Callable[[], float]) -> Rung:
            start = time.perf_counter()
            bits = compress()
            return Rung(name, 1, bits, time.perf_counter() - start, 0)

        ways: dict[str, Callable[[Progress], Rung]] = {
            "unigram": lambda say: counted("unigram", lambda: UnigramModel(stream), 256),
            "bigram": lambda say: counted("bigram", lambda: BigramModel(stream), 65_536),
            "gzip -9": lambda say: compressed("gzip -9", lambda: gzip_bits_per_byte(held_out)),
            "xz -9": lambda say: compressed("xz -9", lambda: xz_bits_per_byte(held_out)),
            "xz -9 after the training text": lambda say: compressed(
                "xz -9 after the training text", lambda: xz_bits_per_byte(held_out, self.text.train)
            ),
            f"{self.tier.ngram_order}-gram, Kneser-Ney": kneser_ney,
            "MLP in NumPy": self._mlp,
        }
        for rung in TRANSFORMERS:
            ways[rung.name] = lambda say, rung=rung: self._transformer(rung, say)  # type: ignore[misc]
        best = TRANSFORMERS[-1]
        for method in QUANTIZED:
            # Uses the best model if this run has just trained it; otherwise it is trained again.
            ways[f"{best.name}, {method}"] = lambda say, method=method: self._quantized(best, method, say)  # type: ignore[misc]
        if self.text.name == "python_docs":  # the one text that this repository can make questions about
            ways[AFTER_SFT] = lambda say: self._after_sft(best, say)
        return ways

    def climb(self, name: str, say: Progress) -> Rung:
        """The rung of that name, measured now or earlier. A new result is written to the file at once.

        Raises:
            UserError: there is no such rung.
        """
        if name in self.rungs:
            return self.rungs[name]
        ways = self.measurements()
        if name not in ways:
            raise UserError(f"there is no rung {name!r}; there are {', '.join(ways)}")
        return self.add(ways[name](say))

    def add(self, rung: Rung) -> Rung:
        """Keep a rung that was measured elsewhere."""
        self.rungs[rung.name] = rung
        content = {**self._head, "rungs": [asdict(one) for one in self.rungs.values()]}
        write_json(self.file, content)
        return rung

    def _read(self) -> None:
        try:
            content = read_json(self.file)
            rungs = [Rung(**values) for values in content.pop("rungs")]
            for rung in rungs:
                require_types(rung, "rungs")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.file} is not a file of the ladder: {error}") from None
        if content != self._head:
            raise UserError(f"{self.file} holds a ladder of another text or tier; choose another --output")
        self.rungs = {rung.name: rung for rung in rungs}

    def _mlp(self, say: Progress) -> Rung:
        rng, config, steps = np.random.default_rng(0), MLPConfig(), self.tier.mlp_steps
        model = MLP(config, rng)
        optimizer = Adam([model.parameters], 4e-3)
        windows = context_windows(byte_stream(self.text.train), config.context)
        start = time.perf_counter()
        for step in range(steps):
            optimizer.lr = 4e-3 * (1 - step / steps)
            loss = model.loss_and_gradients(windows[rng.integers(0, len(windows), 256)])
            optimizer.step([model.gradients])
            if step % 100 == 0:
                say(f"MLP in NumPy: step {step:,} of {steps:,}, loss {loss:.3f}")
        seconds = time.perf_counter() - start
        return Rung("MLP in NumPy", 1, measure(model, self.text.validation), seconds, model.parameters.size)

    def _transformer(self, rung: TransformerRung, say: Progress) -> Rung:
        def on_step(step: int, loss: float) -> None:
            say(f"{rung.name}: step {step:,} of {self.tier.steps:,}, loss {loss:.3f}")

        bits, trained, tokenizer = measure_transformer(
            rung, self.text, self.tier, self._tokenizers, self.placement, on_step
        )
        self._newest = rung.name, trained.model, tokenizer
        return Rung(rung.name, rung.stage, bits, trained.seconds, trained.model.num_parameters())

    def _trained(self, rung: TransformerRung, say: Progress) -> tuple[GPTModel, Tokenizer]:
        if self._newest is None or self._newest[0] != rung.name:
            self._transformer(rung, say)
        assert self._newest is not None
        return self._newest[1:]

    def _after_sft(self, rung: TransformerRung, say: Progress) -> Rung:
        def on_step(step: int, loss: float) -> None:
            say(f"{AFTER_SFT}: step {step:,} of {self.tier.steps:,}, loss {loss:.3f}")

        model, tokenizer = self._trained(rung, say)
        say(f"{AFTER_SFT}: making questions …")
        model, tokenizer, seconds = tuned(
            model, tokenizer, questions_about(self.text), self.tier.steps, self.tier.batch_size, self.placement, on_step
        )
        bits = score_stream(model, tokenizer, self.text.validation, self.placement).bits_per_byte
        return Rung(AFTER_SFT, 6, bits, seconds, model.num_parameters())

    def _quantized(self, rung: TransformerRung, method: Method, say: Progress) -> Rung:
        model, tokenizer = self._trained(rung, say)
        start = time.perf_counter()
        quantized = quantize_model(model.float(), method)
        seconds = time.perf_counter() - start
        full = Placement(self.placement.device, torch.float32)  # for the reference layers, not the packed ones
        bits = score_stream(quantized, tokenizer, self.text.validation, full).bits_per_byte
        return Rung(f"{rung.name}, {method}", 7, bits, seconds, count_weights(quantized))


def draw_ladder(rungs: list[Rung], title: str) -> Figure:
    """Bits per byte of every rung, the worst at the top."""
    ordered = sorted(rungs, key=lambda rung: -rung.bits_per_byte)
    figure = Figure(figsize=(8, 0.42 * len(ordered) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    colours = [f"C{rung.stage - 1}" if rung.parameters else "0.6" for rung in ordered]
    axes.barh(range(len(ordered)), [rung.bits_per_byte for rung in ordered], color=colours)
    for place, rung in enumerate(ordered):
        axes.text(rung.bits_per_byte, place, f" {rung.bits_per_byte:.3f}", va="center", fontsize=9)
    axes.set(
        yticks=range(len(ordered)), yticklabels=[rung.name for rung in ordered], xlabel="bits per byte, held-out text"
    )
    axes.set_xlim(0, 1.1 * ordered[0].bits_per_byte)
    axes.invert_yaxis()
    axes.set_title(title)
    return figure

"""The measurements that the report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attention.attention_visualizer import record_attention, stack_layers
from evaluation.analysis.embedding_views import embedding_matrix, nearest_tokens, principal_map
from evaluation.analysis.failure_analysis import Failure, SymbolTable, failure_rates, find_failures
from evaluation.analysis.loss_analysis import (
    Group,
    Span,
    loss_by_context,
    loss_by_frequency,
    loss_by_kind,
    token_counts,
    worst_spans,
)
from evaluation.analysis.memorization import Match, TrainingIndex
from evaluation.calibration import Calibration, calibrate
from evaluation.diversity import distinct_n, self_bleu
from evaluation.significance import Interval, bootstrap_interval
from evaluation.sliding_window import TextScores, score_documents
from evaluation.text_generation import GeneratedText, text_generator
from groundwork.user_errors import UserError
from neural_networks.bits_per_byte import xz_bits_per_byte
from neural_networks.corpus import Corpus
from optimization.weights.quantized_model import count_weights
from training.checkpoints.checkpoint import LoadedModel
from training.placement import Placement
from transformer.sampling import SamplingParameters

MAP_TOKENS = 150
NEIGHBOURS_OF = (" return", " list", " self", " float", "\n\n", " 1")


@dataclass(frozen=True)
class WrittenDocument:
    """A document that the model wrote, and what is wrong with it."""

    prompt: str
    generated: GeneratedText
    failures: list[Failure]
    match: Match


@dataclass(frozen=True)
class ReportData:
    """The contents of the report.

    Args:
        title: name of the model.
        parameters: how many parameters it has.
        corpus: name of the text.
        documents: how many held-out documents were measured.
        scores: scores of every token.
        bits_per_byte: bits per byte, with its interval over documents.
        xz: bits per byte that xz spends on the same documents.
        calibration: calibration of the most likely tokens.
        by_context: loss by the amount of context.
        by_kind: loss by kind of token.
        by_frequency: loss by frequency in training.
        worst: the hardest stretches.
        written: documents that the model wrote.
        rates: how often each kind of failure occurs in them.
        diversity: distinct-2 and self-BLEU of texts from one prompt.
        map_labels: texts of the tokens on the map.
        map_places: (tokens, 2) coordinates of these tokens.
        map_kept: share of the variance that the map keeps.
        neighbours: the nearest tokens of a few tokens.
        attention: (layers, heads, time, time) attention weights on a prompt.
        attention_tokens: texts of the tokens of this prompt.
    """

    title: str
    parameters: int
    corpus: str
    documents: int
    scores: TextScores
    bits_per_byte: Interval
    xz: float
    calibration: Calibration
    by_context: list[Group]
    by_kind: list[Group]
    by_frequency: list[Group]
    worst: list[Span]
    written: list[WrittenDocument]
    rates: dict[str, float]
    diversity: dict[str, float]
    map_labels: list[str]
    map_places: NDArray[np.float64]
    map_kept: float
    neighbours: dict[str, list[tuple[str, float]]]
    attention: NDArray[np.float32]
    attention_tokens: list[str]


def gather_report(
    loaded: LoadedModel,
    corpus: Corpus,
    placement: Placement,
    documents: int,
    samples: int,
    seed: int,
    say: Callable[[str], None],
) -> ReportData:
    """Measure a model, let it write, and look inside it.

    Args:
        loaded: the model.
        corpus: the corpus it was trained on.
        placement: device and precision.
        documents: how many held-out documents to measure, spread evenly.
        samples: how many documents it writes.
        seed: seed of their sampling.
        say: called with a line about what happens next.

    Raises:
        UserError: there is nothing to measure.
    """
    if documents < 2 or samples < 2:
        raise UserError(f"a report needs at least 2 documents and 2 samples, got {documents} and {samples}")
    model, tokenizer = loaded.model, loaded.tokenizer
    say("Measuring held-out documents …")
    places = np.unique(np.linspace(0, len(corpus.validation) - 1, documents).astype(int))
    chosen = [document for i in places if (document := corpus.validation[i]).strip()]
    scores = score_documents(model, tokenizer, chosen, placement)
    bits = np.bincount(scores.documents, weights=scores.nats, minlength=len(chosen)) / np.log(2)
    sizes = [len(document.encode("utf-8")) for document in chosen]

    say("Letting it write …")
    prompts = [_beginning(chosen[i % len(chosen)]) for i in range(samples)]
    written = _write(loaded, prompts, corpus, placement, seed, say)
    generate = text_generator(model, tokenizer, placement, SamplingParameters(temperature=0.8, seed=seed))
    same = [text.text for text in generate([prompts[0]] * 4, 60, ())]

    say("Looking inside …")
    counts = token_counts(tokenizer, corpus.train)
    embeddings = embedding_matrix(model)
    frequent = [int(token) for token in np.argsort(-counts)[:MAP_TOKENS] if counts[token]]
    map_places, kept = principal_map(embeddings, frequent)
    single = {text: ids[0] for text in NEIGHBOURS_OF if len(ids := _encode_known(loaded, text)) == 1}
    ids = _ids_to_look_at(loaded, chosen[0])
    with torch.inference_mode(), record_attention(model) as recorded:
        model(torch.tensor([ids], device=model.device))
    return ReportData(
        title=str(loaded.folder),
        parameters=count_weights(model),
        corpus=corpus.name,
        documents=len(chosen),
        scores=scores,
        bits_per_byte=bootstrap_interval(bits, sizes, seed=seed),
        xz=xz_bits_per_byte(chosen),
        calibration=calibrate(scores.top_probabilities, scores.correct),
        by_context=loss_by_context(scores),
        by_kind=loss_by_kind(scores, tokenizer),
        by_frequency=loss_by_frequency(scores, counts),
        worst=worst_spans(scores, tokenizer),
        written=written,
        rates=failure_rates([document.failures for document in written]),
        diversity={"distinct-2": distinct_n(same, 2), "self-BLEU": self_bleu(same)},
        map_labels=[tokenizer.decode([token]) for token in frequent],
        map_places=map_places,
        map_kept=kept,
        neighbours={
            text: [(tokenizer.decode([other]), cosine) for other, cosine in nearest_tokens(embeddings, token)]
            for text, token in single.items()
        },
        attention=stack_layers(recorded).float().cpu().numpy(),
        attention_tokens=[tokenizer.decode([token]) for token in ids],
    )


def _write(
    loaded: LoadedModel,
    prompts: Sequence[str],
    corpus: Corpus,
    placement: Placement,
    seed: int,
    say: Callable[[str], None],
) -> list[WrittenDocument]:
    room = loaded.model.config.context_length // 2
    drawing = SamplingParameters(temperature=0.8, top_p=0.95, seed=seed)
    texts = text_generator(loaded.model, loaded.tokenizer, placement, drawing)(prompts, room, ())
    say("Looking for copies of the training text …")
    index, symbols = TrainingIndex(corpus.train), SymbolTable((*corpus.train, *corpus.validation))
    return [
        WrittenDocument(prompt, text, find_failures(prompt, text, symbols), index.longest_match(text.text))
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _beginning(document: str) -> str:
    """The signature of a documented symbol, or the first line of any other text."""
    header, blank, _ = document.partition("\n\n")
    return header + blank if len(header) <= 200 else document[:80]


def _encode_known(loaded: LoadedModel, text: str) -> list[int]:
    try:
        return loaded.tokenizer.encode(text)
    except ValueError:  # a character tokenizer that lacks one of the characters
        return []


def _ids_to_look_at(loaded: LoadedModel, document: str) -> list[int]:
    end = loaded.tokenizer.end_of_text_id
    ids = ([] if end is None else [end]) + loaded.tokenizer.encode(document)
    return ids[: min(32, loaded.model.config.context_length)]

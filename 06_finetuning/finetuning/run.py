"""A whole fine-tuning run: base model, data, method, training by stage 5's trainer, adapter, merged model."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from finetuning.adapters.lora import add_lora, fold_adapter
from finetuning.adapters.peft_format import save_adapter
from finetuning.adapters.qlora import quantize_layers
from finetuning.base_model import choose_template, load_base
from finetuning.config import FinetuningConfig
from finetuning.data.chat_format import ChatFormat, ChatTemplate, EncodedConversation, Message
from finetuning.data.conversation_batches import ConversationBatches
from finetuning.data.finetuning_data import FinetuningData, load_data
from finetuning.data.instruction_data import SUFFIXES
from finetuning.data.record_shapes import Example
from finetuning.data.replay import replay_pieces
from finetuning.dpo import (
    PreferenceBatches,
    PreferenceLoss,
    encode_preferences,
    preference_accuracy,
    reference_log_probabilities,
)
from finetuning.grpo import GRPOLoss, RolloutBatches, VerifiableTask
from finetuning.supervised_finetuning import conversation_loss, encode_examples, mean_conversation_loss
from groundwork.text_sources import TEXT_SUFFIXES, find_text_files
from neural_networks.corpora import TINY_SHAKESPEARE_SHA256, load_corpus
from tokenizer.interface import Tokenizer
from training.checkpoints.manifest import sha256_of
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights, weights_sha256
from training.data.batches import BatchSource, LossFunction
from training.placement import Placement, choose_placement
from training.run.report import duration
from training.run.run_folder import RunFolder
from training.run.session import Session, in_words
from training.run.tracking import Tracker
from training.trainer import Run, Trainer, Validate
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

VALIDATION_EXAMPLES = 256  # the most that are measured
LONGEST_ROW = 1024  # tokens, where the configuration does not say; models of others read up to millions
LORA_TRAINING = "training"  # folder of the adapter's own checkpoints


def run_finetuning(config: FinetuningConfig, console: Console) -> int:
    """Fine-tune as configured; returns the exit status, 0 or 130 when interrupted.

    Raises:
        ValueError: one of several kinds, with one line for the user.
    """
    with RunFolder(config.output_dir) as folder:
        return _run(config, console, folder)


def _run(config: FinetuningConfig, console: Console, folder: RunFolder) -> int:
    torch.manual_seed(config.seed)
    placement = choose_placement(config.device, config.precision)
    model, tokenizer = load_base(config.base)
    base_sha256 = weights_sha256(model)
    template, tokenizer = choose_template(config.chat_template, config.base, model, tokenizer)
    context_length = min(config.context_length or LONGEST_ROW, model.config.context_length)
    data = load_data(config, console)
    settings = {**dataclasses.asdict(config), "model": model.config.to_dict()}
    # What the names stood for when the run began: a file may have been edited since, a base trained further.
    settings["prepared"] = {"base_sha256": base_sha256, "source_sha256": _source_sha256(config.data.source, SUFFIXES)}
    if config.data.replay is not None:
        settings["prepared"]["replay_sha256"] = _source_sha256(config.data.replay, TEXT_SUFFIXES)
    if isinstance(template, ChatTemplate):
        settings["chat_template"] = template.name
    settings["training"]["sample_prompts"] = list(config.training.sample_prompts)

    if config.quantize_base:
        quantize_layers(model, config.lora.pattern if config.lora else "blocks.*")
    if config.lora is not None:
        add_lora(model, config.lora)
    model.to(placement.device)
    method = prepare_method(config, model, tokenizer, template, data, context_length, placement, console)
    output = folder.path
    trainer = Trainer(
        model,
        method.loss,
        method.batches,
        recipe=config.recipe,
        placement=placement,
        run=Run(output / LORA_TRAINING if config.lora else output, tokenizer, settings),
        validate=method.validate,
    )
    session = FinetuningSession(trainer, console, config.tracking)
    session.resume(config, folder)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    console.print(
        f"{config.method} of {config.base}: {learned:,} of {sum(p.numel() for p in model.parameters()):,} numbers are "
        f"learned, {method.description}, {placement.describe()}",
        highlight=False,
    )
    if not trainer.finished:
        seconds = session.time_step(trials=1) * (config.training.max_steps - trainer.step)
        memory = placement.memory_in_use() / 2**30
        console.print(f"about {duration(seconds)}, and {memory:.1f} GiB of memory", highlight=False)
    if status := session.run():
        return status
    with trainer.averaged():
        _finish(config, trainer, template, data, console)
    return 0


def _finish(
    config: FinetuningConfig, trainer: Trainer, template: ChatFormat, data: FinetuningData, console: Console
) -> None:
    """Write what was made, and show it."""
    model, tokenizer, output = trainer.model.eval(), trainer.run.tokenizer, Path(config.output_dir)
    if config.lora is not None:
        save_adapter(model, output / "adapter", base_model=config.base)
        console.print(f"Adapter, in peft's format: {output / 'adapter'}", highlight=False)
        if not config.quantize_base:  # 4-bit weights stay as they are; the adapter is what was made
            fold_adapter(model)
            save_checkpoint(output, trainer.step, model_weights(model), tokenizer, trainer.run.settings)
    if config.quantize_base:
        adapter = f"--checkpoint {config.base} --adapter {output / 'adapter'}"
        console.print(f"Try next: python 08_evaluation/answers.py {adapter}", highlight=False)
    else:
        print_conversations(model, tokenizer, template, data, console)
        console.print(f"\nTry next: python 07_optimization/generate.py --checkpoint {output}", highlight=False)


def _source_sha256(source: str, suffixes: Collection[str]) -> str:
    """A hash of all files of a source, in their order, or of what the documentation on this machine comes from."""
    if source == "tiny_shakespeare":
        return TINY_SHAKESPEARE_SHA256
    if source in ("python_docs_qa", "python_docs"):
        installed = [platform.python_version(), np.__version__, torch.__version__]
        return hashlib.sha256(json.dumps(installed).encode()).hexdigest()
    hashes = [sha256_of(file) for file in find_text_files(source, suffixes)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


class FinetuningSession(Session):
    """A session that records rewards during the run, and measures on held-out data at the end."""

    def step_figures(self) -> dict[str, float]:
        """The mean reward, where answers get one."""
        batches = self.trainer.batches
        return {"mean_reward": batches.mean_reward} if isinstance(batches, RolloutBatches) else {}

    def conclude(self, tracker: Tracker | None) -> None:
        """Print and record what is measured on held-out data."""
        if self.trainer.validate is not None and tracker is not None:
            with self.trainer.averaged():
                figures = self.trainer.validate(self.trainer)
            tracker.log(self.trainer.step, **figures)
            self.console.print(in_words(figures))


@dataclass(frozen=True)
class Method:
    """What a method gives the trainer.

    Args:
        batches: where batches come from.
        loss: makes the loss of a batch.
        validate: measures on held-out data; None where there is none.
        description: of the data, for people.
    """

    batches: BatchSource
    loss: LossFunction
    validate: Validate | None
    description: str


def prepare_method(
    config: FinetuningConfig,
    model: GPTModel,
    tokenizer: Tokenizer,
    template: ChatFormat,
    data: FinetuningData,
    context_length: int,
    placement: Placement,
    console: Console,
) -> Method:
    """Encode the data and choose batches and loss.

    Raises:
        ValueError: nothing fits the context, or the method cannot be used.
    """
    if config.method == "sft":
        encoded, problems = encode_examples(data.examples, template, tokenizer, context_length)
        held_out, _ = encode_examples(data.held_out[:VALIDATION_EXAMPLES], template, tokenizer, context_length)
        _report(problems, len(data.examples), console)
        pieces: list[EncodedConversation] = []
        if config.data.replay is not None and encoded:
            text, share = load_corpus(config.data.replay).train, config.data.replay_share
            pieces = replay_pieces(text, share, encoded, tokenizer, context_length, config.seed)
        batches = ConversationBatches([*encoded, *pieces], context_length, config.seed, config.data.pack)
        some = _within(held_out, config.training.eval_tokens)

        def validate(trainer: Trainer) -> dict[str, float]:
            measured = held_out if trainer.finished else some
            return {"validation_loss": mean_conversation_loss(trainer.model, measured, trainer.placement)}

        replayed = f" and {len(pieces):,} pieces of {config.data.replay}" if pieces else ""
        description = f"{len(encoded):,} conversations{replayed} in {batches.rows_per_epoch:,} rows"
        return Method(batches, conversation_loss, validate if held_out else None, description)
    if config.method == "grpo":
        single = [e for e in data.examples if sum(message.role == "assistant" for message in e.messages) == 1]
        tasks = [exact_match_task(example) for example in single]
        if len(tasks) < len(data.examples):
            console.print(
                f"{len(data.examples) - len(tasks):,} of {len(data.examples):,} conversations have more than one answer "
                "and are left out",
                highlight=False,
            )
        reference = copy.deepcopy(model).eval().requires_grad_(False) if config.lora is None else None
        rollouts = RolloutBatches(model, tokenizer, template, tasks, config.grpo, placement, config.seed, reference)
        return Method(rollouts, GRPOLoss(config.grpo), None, f"{len(tasks):,} questions")
    preference = dataclasses.replace(config.preference, loss=config.method)
    pairs, problems = encode_preferences(data.preferences, template, tokenizer, context_length)
    held_out_pairs, _ = encode_preferences(
        data.held_out_preferences[:VALIDATION_EXAMPLES], template, tokenizer, context_length
    )
    _report(problems, len(data.preferences), console)
    with console.status("Asking the reference model …"):
        reference_values = reference_log_probabilities(model, [*pairs, *held_out_pairs], preference, placement)

    def validate_preferences(trainer: Trainer) -> dict[str, float]:
        values = reference_values[len(pairs) :]
        accuracy = preference_accuracy(trainer.model, held_out_pairs, values, preference, trainer.placement)
        return {"preference_accuracy": accuracy}

    batches_of_pairs = PreferenceBatches(pairs, reference_values[: len(pairs)], config.seed)
    return Method(
        batches_of_pairs,
        PreferenceLoss(preference),
        validate_preferences if held_out_pairs else None,
        f"{len(pairs):,} preferences",
    )


def _within(conversations: Sequence[EncodedConversation], tokens: int) -> list[EncodedConversation]:
    """The first conversations that have at most so many tokens together; at least one, where there are any."""
    totals = itertools.accumulate(len(conversation.ids) for conversation in conversations)
    return list(conversations[: max(1, sum(total <= tokens for total in totals))])


def exact_match_task(example: Example) -> VerifiableTask:
    """A question with one right answer. The reward is 1 for it, else up to 0.5 for the share of its words in place."""
    answer = example.messages[-1].content.strip()
    words = answer.split()

    def reward(text: str) -> float:
        text = text.strip()
        if text == answer:
            return 1.0
        in_place = sum(a == b for a, b in zip(text.split(), words, strict=False))
        return 0.5 * in_place / max(len(words), len(text.split()), 1)

    return VerifiableTask(example.messages[:-1], reward)


def _report(problems: list[str], total: int, console: Console) -> None:
    if problems:
        console.print(
            f"{len(problems):,} of {total:,} do not fit and are left out, such as {problems[0]}", highlight=False
        )


def answer(
    model: GPTModel, tokenizer: Tokenizer, template: ChatFormat, messages: Sequence[Message], max_tokens: int = 80
) -> str:
    """The model's most likely answer to a conversation, by greedy decoding."""
    ids = template.encode(messages, tokenizer, generation_prompt=True).ids[-model.config.context_length :]
    parameters = SamplingParameters(max_tokens=max_tokens, temperature=0.0)
    return tokenizer.decode(generate(model, ids, parameters, {template.end_id(tokenizer)})).strip()


def print_conversations(
    model: GPTModel, tokenizer: Tokenizer, template: ChatFormat, data: FinetuningData, console: Console
) -> None:
    """Ask a few questions, seen and held out, and print the answers next to the right ones."""
    for title, examples in (("seen", data.examples[:2]), ("held out", data.held_out[:3])):
        for example in examples:
            console.rule(f"a question it has {'seen' if title == 'seen' else 'not seen'}", style="dim")
            question = example.messages[:-1]
            console.print(f"user      {question[-1].content}", markup=False, highlight=False)
            said = answer(model, tokenizer, template, question)
            console.print(f"assistant {said}", markup=False, highlight=False)
            if said != example.messages[-1].content.strip():
                console.print(f"(right:   {example.messages[-1].content})", style="dim", markup=False, highlight=False)

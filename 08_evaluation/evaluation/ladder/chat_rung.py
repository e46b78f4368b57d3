"""The rung after instruction tuning: what learning to chat costs a model in bits per byte of plain text."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

from evaluation.scaling.small_training import short_recipe, take_steps
from finetuning.data.chat_format import chat_template
from finetuning.data.conversation_batches import ConversationBatches
from finetuning.data.python_docs_qa import build_questions
from finetuning.data.record_shapes import Example
from finetuning.supervised_finetuning import conversation_loss, encode_examples
from finetuning.vocabulary_extension import add_special_tokens
from groundwork.user_errors import UserError
from neural_networks.corpus import Corpus
from neural_networks.python_docs import gather_symbols
from tokenizer.interface import Tokenizer
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig
from training.placement import Placement
from transformer.gpt_model import GPTModel

_OPTIMIZER = OptimizerConfig(lr=1e-3, beta2=0.99, weight_decay=0.0)
_SCHEDULE = ScheduleConfig(kind="linear", warmup_steps=20, final_fraction=0.0)


def questions_about(text: Corpus) -> Sequence[Example]:
    """Questions whose answers stand in the training part; none are asked about what the ladder is measured on.

    Returns:
        The questions; none where the text is not the Python documentation.
    """
    if text.name != "python_docs":
        return ()
    known = set(text.train)
    return build_questions(symbol for symbol in gather_symbols() if symbol.text in known).train


def tuned(
    model: GPTModel,
    tokenizer: Tokenizer,
    questions: Sequence[Example],
    steps: int,
    batch_size: int,
    placement: Placement,
    on_step: Callable[[int, float], None],
) -> tuple[GPTModel, Tokenizer, float]:
    """A copy of a model, instruction-tuned with the recipe of `configs/sft.yaml`.

    Returns:
        The model, its tokenizer with the marks of the chat format, and the seconds of training.

    Raises:
        UserError: no question fits into the context.
    """
    start = time.perf_counter()
    model, template = copy.deepcopy(model), chat_template("nullm")
    tokenizer = add_special_tokens(model, tokenizer, template.special_tokens)
    conversations, _ = encode_examples(questions, template, tokenizer, model.config.context_length)
    if not conversations:
        raise UserError(f"none of the {len(questions)} questions fits {model.config.context_length} tokens")
    batches = ConversationBatches(conversations, model.config.context_length, seed=0)
    recipe = short_recipe(steps, batch_size, _OPTIMIZER, _SCHEDULE)
    take_steps(model, batches, conversation_loss, tokenizer, recipe, placement, on_step)
    return model.eval(), tokenizer, time.perf_counter() - start

"""Lab 6.A: The right answer, and then it does not stop.

A small model is fine-tuned on six questions and answers until it knows them. With the function below the loss falls as it
does in the run beside it, and the answers are right. But the model goes on after them until it is cut off.
"""

from __future__ import annotations

from finetuning.data.chat_format import (
    ChatTemplate,
    Conversation,
    ConversationError,
    EncodedConversation,
    check_conversation,
)
from tokenizer.interface import Tokenizer


def encode(
    self: ChatTemplate, conversation: Conversation, tokenizer: Tokenizer, generation_prompt: bool = False
) -> EncodedConversation:
    """The conversation as tokens: `begin`, then for each message its header, its content, `end` and `separator`.

    Args:
        self: the template.
        conversation: see `check_conversation`.
        tokenizer: a tokenizer with this template's special tokens.
        generation_prompt: whether to end with the assistant's header, so that the model continues.

    Returns:
        The ids, and for each whether it is learned.

    Raises:
        ConversationError: the tokenizer lacks a special token, or the conversation makes no sense.
    """
    check_conversation(conversation)
    missing = [token for token in self.special_tokens if token not in tokenizer.special_tokens]
    if missing:
        raise ConversationError(
            f"the tokenizer has no {', '.join(missing)}, which the chat template {self.name!r} needs"
        )
    ids: list[int] = []
    learned: list[bool] = []

    def add(new_ids: list[int], learn: bool) -> None:
        ids.extend(new_ids)
        learned.extend([learn] * len(new_ids))

    def marks(text: str) -> list[int]:
        return tokenizer.encode(text, allowed_special=self.special_tokens)

    add(marks(self.begin), False)
    for message in conversation:
        add(marks(self.header.format(role=message.role)), False)
        add(tokenizer.encode(message.content.strip()), message.role == "assistant")  # no special token allowed
        add(marks(self.end + self.separator), False)
    if generation_prompt:
        add(marks(self.header.format(role="assistant")), False)
    return EncodedConversation(ids, learned)


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import torch

from finetuning.data.chat_format import Message, chat_template
from finetuning.data.conversation_batches import pack_rows
from finetuning.supervised_finetuning import conversation_loss
from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from tokenizer.byte_tokenizer import ByteTokenizer
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXT, STEPS, LIMIT = 64, 70, 40
ANSWERS = {
    "Where is Rome?": "In Italy.",
    "Where is Oslo?": "In Norway.",
    "Where is Lima?": "In Peru.",
    "Who are you?": "A small model.",
    "What is 2 + 2?": "4, I am sure.",
    "Say something.": "Something.",
}
ASKED = ("Where is Oslo?", "What is 2 + 2?")


def measure() -> Measurement:
    """Fine-tune, and ask."""
    template = chat_template("nullm")
    tokenizer = ByteTokenizer(template.special_tokens)
    rows = [
        [template.encode([Message("user", question), Message("assistant", answer)], tokenizer)]
        for question, answer in ANSWERS.items()
    ]
    tensors = pack_rows(rows, CONTEXT).tensors
    model = GPTModel(GPTConfig(tokenizer.vocab_size, CONTEXT, num_layers=2, num_heads=2, d_model=64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(STEPS):
        loss = conversation_loss(model, tensors)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    measured: Measurement = {"loss": losses, "loss of the last step": losses[-1]}
    longest = 0
    for question in ASKED:
        ids = template.encode([Message("user", question)], tokenizer, generation_prompt=True).ids
        written = _write(model, ids, template.end_id(tokenizer))
        measured[question] = tokenizer.decode(written)
        longest = max(longest, len(written))
    measured[f"most tokens, of {LIMIT} allowed"] = longest
    return measured


@torch.no_grad()
def _write(model: GPTModel, ids: list[int], end_id: int) -> list[int]:
    written: list[int] = []
    while len(written) < LIMIT and len(ids) + len(written) < CONTEXT:
        token = int(model(torch.tensor([ids + written]), last_only=True).argmax())
        if token == end_id:
            break
        written.append(token)
    return written


def visible(file: Measurement, package: Measurement) -> bool:
    """The answers are right but more text follows; the package's answers end."""
    return all(str(package[q]) == ANSWERS[q] and str(file[q]).startswith(ANSWERS[q]) for q in ASKED) and any(
        str(file[q]) != ANSWERS[q] for q in ASKED
    )


LAB = Lab(
    broken=encode,
    reference="finetuning.data.chat_format:ChatTemplate.encode",
    cases=load_exercise("chat_encoding").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "        add(marks(self.header.format(role=message.role)), False)\n",
            '        speaks = message.role == "assistant"\n'
            "        add(marks(self.header.format(role=message.role)), False)\n",
        ),
        ('message.role == "assistant")  # no special', "speaks)  # no special"),
        (
            "        add(marks(self.end + self.separator), False)\n",
            "        add(marks(self.end), speaks)\n        add(marks(self.separator), False)\n",
        ),
    ],
    hints=(
        "A model stops by saying a token. Which one, and when did it learn to say it?",
        "Encode one conversation and print each token beside its `learned`. Which is the last that is learned?",
        "The mark that ends the assistant's message belongs to what the assistant says. (The separator after it does "
        "not, and other people's end marks do not either.)",
    ),
    diagnosis=(
        "The loss cannot show it: a token that is left out of the loss does not change it. Print one encoded "
        "conversation, token by token, with what is learned. The answer is learned and its end mark is not, so nothing "
        "taught the model to say it. Usually this happens when the padding token is also the end token, and padding is "
        "masked. Look at the lengths of answers: if all are at the limit, the end was never learned."
    ),
)

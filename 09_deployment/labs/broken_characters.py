"""Lab 9.A: Black diamonds in the stream, and none in the whole answer.

A model that knows a line with accents, Japanese and an emoji is asked for it. The finished answer is right. The same answer
is also streamed in server-sent events while it is generated. There, U+FFFD stands where those characters should be; plain
English is right.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizer.streaming import StreamingDecoder


def decode(self: StreamingDecoder, ids: Iterable[int]) -> str:
    """The text that these ids complete; it may be empty.

    Args:
        self: the decoder of one stream. `self._tokenizer.decode_bytes(ids)` gives the bytes of ids; `self._decoder` is an
            incremental UTF-8 decoder of Python's `codecs`, a new one for each stream.
        ids: the next tokens.

    Raises:
        TokenizerError: an id is not in the vocabulary.
    """
    return self._tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from deployment.routes.answering import sse
from learn.exercise import Case
from learn.lab import Lab, Measurement
from learn.small_runs import train
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest
from optimization.settings import EngineSettings
from tokenizer.byte_tokenizer import ByteTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

LINE = "Greetings, Grüße, よろしく 🙂 and goodbye. "
PROMPT, CONTEXT = "Greetings,", 96


def _with_rest(result: str, arguments: Sequence[Any]) -> dict[str, str]:
    decoder: StreamingDecoder = arguments[0]
    return {"text": result, "the text that is held back and that finish() returns": decoder.finish()}


def cases() -> Iterator[Case]:
    """ASCII; a whole character; its halves; bytes that do not form a character."""

    def after(first: bytes, then: bytes) -> list[Any]:
        decoder = StreamingDecoder(ByteTokenizer())
        decoder._decoder.decode(first)
        return [decoder, list(then)]

    yield Case("plain letters", after(b"", b"plain"), observe=_with_rest)
    yield Case("an é in one piece", after(b"", "é".encode()), observe=_with_rest)
    yield Case(
        "the second byte of an é, after the first", after("é".encode()[:1], "é".encode()[1:]), observe=_with_rest
    )
    yield Case("the first byte of an é, and nothing more", after(b"", "é".encode()[:1]), observe=_with_rest)
    yield Case(
        "the last byte of an emoji, and a letter",
        after("🙂".encode()[:3], "🙂".encode()[3:] + b"a"),
        observe=_with_rest,
    )
    yield Case("a byte that cannot begin a character", after(b"", b"a\xffb"), observe=_with_rest)


@functools.cache
def _trained() -> GPTModel:
    """The same model for both sides: the function plays no part in training."""
    torch.manual_seed(0)
    tokenizer = ByteTokenizer()
    model = GPTModel(GPTConfig(tokenizer.vocab_size, CONTEXT, num_layers=2, num_heads=2, d_model=48))
    train(model, torch.tensor(tokenizer.encode(LINE * 4)), 60, 48, batch_size=4)
    return model.eval()


def measure() -> Measurement:
    """Stream the line, and put it together as a browser does."""
    tokenizer = ByteTokenizer()
    engine = Engine(_trained(), tokenizer, Placement(torch.device("cpu"), torch.float32), EngineSettings(max_running=1))
    length = len(LINE.encode()) - len(PROMPT.encode()) - 1
    parameters = SamplingParameters(max_tokens=length, temperature=0.0)
    handle = engine.submit(GenerationRequest(tokenizer.encode(PROMPT), parameters))
    stream = b"".join(sse({"text": event.text}) for event in handle)
    events = [json.loads(event.removeprefix("data: ")) for event in stream.decode().split("\n\n") if event]
    whole = tokenizer.decode(engine.generate_ids(tokenizer.encode(PROMPT), parameters))
    streamed = "".join(event["text"] for event in events)
    return {
        "the whole answer": whole,
        "the stream, joined": streamed,
        "both are the same text": "yes" if streamed == whole else "no",
        "characters U+FFFD in the stream": streamed.count("\ufffd"),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """The stream differs from the answer; the package's stream does not."""
    name = "both are the same text"
    return file[name] == "no" and package[name] == "yes"


LAB = Lab(
    broken=decode,
    reference="tokenizer.streaming:StreamingDecoder.decode",
    cases=cases,
    measure=measure,
    visible=visible,
    in_place=True,
    repair=[
        (
            '    return self._tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")\n',
            "    return self._decoder.decode(self._tokenizer.decode_bytes(ids))\n",
        ),
    ],
    hints=(
        "How many U+FFFD stand where one é should be, and how many where the emoji should be? How many bytes do "
        "these characters have in UTF-8?",
        "A token is bytes, and a character may be spread over several tokens. What can one say about a character when "
        "only its first byte is there?",
        "Nothing, until the rest has come: the bytes have to wait. An incremental decoder keeps them from one call to the "
        "next, and the stream has one: self._decoder.",
    ),
    diagnosis=(
        "Only characters beyond ASCII are wrong, and there are as many U+FFFD as the character has bytes: each byte was "
        "decoded by itself. It happens only in the stream, so look at the place where text is made token by token. Tokens "
        "of a byte-level BPE may end in the middle of a character, and errors='replace' hides what would have been an "
        "exception. Test streams with an emoji: the pieces joined must be the whole answer."
    ),
)

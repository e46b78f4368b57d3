"""A small model, and servers for it: in a thread, so that the test can look inside, or as a command."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from deployment.app import create_app
from deployment.served_model import ServedModel
from deployment.server import StoppingServer, listen, uvicorn_config
from deployment.server_state import ServerState
from deployment.settings import load_settings
from finetuning.base_model import find_template
from finetuning.data.chat_format import TEMPLATES
from optimization.engine.engine import Engine
from optimization.settings import EngineSettings
from tokenizer.bpe_tokenizer import BPETokenizer
from training.checkpoints.saving import save_checkpoint
from training.checkpoints.weights import model_weights
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

MERGES = [(116, 104), (256, 101), (32, 257), (105, 110), (97, 110), (260, 100), (32, 97)]
SPECIAL_TOKENS = TEMPLATES["nullm"].special_tokens
CONTEXT = 128
ENDLESS = {"263": -100, "267": -100}  # logit_bias against the tokens that end a text
JSON = {"Content-Type": "application/json"}


def tiny_tokenizer(special_tokens: tuple[str, ...] = SPECIAL_TOKENS) -> BPETokenizer:
    """Bytes, seven merges and the chat tokens."""
    return BPETokenizer(MERGES, special_tokens)


def tiny_model(vocab_size: int, seed: int = 0, **parts) -> GPTModel:
    """A model with random weights, which are large enough that its predictions differ clearly."""
    torch.manual_seed(seed)
    sizes = {"context_length": CONTEXT, "num_layers": 2, "num_heads": 4, "d_model": 64, "tie_embeddings": False}
    model = GPTModel(GPTConfig(**{"vocab_size": vocab_size, **sizes, **parts})).eval()
    with torch.no_grad():
        model.head.weight.mul_(12.0)
    return model


def tiny_models(chat: bool = True, **engine) -> dict[str, ServedModel]:
    """What `load_models` gives, for a tiny model called `tiny`."""
    tokenizer = tiny_tokenizer(SPECIAL_TOKENS if chat else ("<|endoftext|>",))
    settings = EngineSettings(**{"max_waiting": 64, **engine})
    placement = Placement(torch.device("cpu"), torch.float32)
    made = Engine(tiny_model(tokenizer.vocab_size), tokenizer, placement, settings)
    return {"tiny": ServedModel("tiny", made, find_template(tokenizer, None))}


def save_run(folder: Path, chat: bool = True, **parts) -> Path:
    """Write a run with one checkpoint of a tiny model."""
    tokenizer = tiny_tokenizer(SPECIAL_TOKENS if chat else ("<|endoftext|>",))
    model = tiny_model(tokenizer.vocab_size, **parts)
    save_checkpoint(folder, 1, model_weights(model), tokenizer, {"model": model.config.to_dict()})
    return folder


@dataclass
class Served:
    """A running server."""

    url: str
    client: httpx.Client
    state: ServerState

    @property
    def num_live(self) -> int:
        """Generations under way."""
        return len(self.state.desk._live)

    def wait_until_idle(self) -> None:
        """Wait until the engine has no work left, and check that it kept no block."""
        stop = time.monotonic() + 60
        engines = [model.engine for model in self.state.models.values()]
        while time.monotonic() < stop:
            stats = [engine.stats() for engine in engines]
            if not any(s.running or s.waiting or s.used_blocks for s in stats) and not self.num_live:
                return
            time.sleep(0.01)
        raise AssertionError(f"work or blocks are left: {stats}, {self.num_live} live")


@contextlib.contextmanager
def serve(models: dict[str, ServedModel], **settings) -> Iterator[Served]:
    """Run the server in a thread, on a free port."""
    chosen = load_settings(None, {"port": 0, "drain_seconds": 1, **settings})
    app = create_app(models, chosen)
    listener = listen("127.0.0.1", 0)
    server = StoppingServer(uvicorn_config(app, chosen), app.state.server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not server.started:
                time.sleep(0.005)
            yield Served(url, client, app.state.server)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def serve_command(
    root: Path, *arguments: str, log: Path | None = None, **environment: str
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start the server as a user does; gives its address and the process. Without `log`, read its errors at the end."""
    command = [sys.executable, str(root / "09_deployment" / "api" / "main.py"), "--port", "0", *arguments]
    with contextlib.ExitStack() as stack:
        errors = subprocess.PIPE if log is None else stack.enter_context(open(log, "w"))
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}, cwd=root
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + str(process.communicate(timeout=20)[1])
        for _ in range(400):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(found.group() + "/health", trust_env=False)
                break
            time.sleep(0.02)
        yield found.group(), process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def events_of(response: httpx.Response) -> list[tuple[str, str]]:
    """The name and the data of each server-sent event of a response."""
    return list(iterate_events(response))


def iterate_events(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """Like `events_of`, but one event at a time, as it comes."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, line[6:]
            name = ""

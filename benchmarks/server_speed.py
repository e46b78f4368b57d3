"""What HTTP costs: 16 texts at once through the server, streamed and whole, compared with the bare engine.

The server runs in this process, on the same engine that is measured bare. The clients run in another process, as real
clients do, and share the machine's cores with the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time

import structlog
import torch

from deployment.app import create_app
from deployment.served_model import ServedModel
from deployment.server import StoppingServer, listen, uvicorn_config
from deployment.settings import load_settings
from harness import Comparison, Contender, compare
from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest
from tokenizer.bpe_tokenizer import BPETokenizer
from training.placement import choose_placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

STREAMS = 16


SMALL = GPTConfig(vocab_size=4096, context_length=256, qk_norm=True, qk_norm_weight=True)  # as `small_gpt`
LARGE = GPTConfig(vocab_size=50_257, context_length=256, num_layers=12, num_heads=12, d_model=768)  # as GPT-2


def run(quick: bool) -> list[Comparison]:
    """Generate for 16 prompts of 32 tokens, at the shape of `small_gpt` and, unless quick, of GPT-2."""
    if quick:
        return [_compare("4 layers × 256", SMALL, "float32", 32, rounds=3)]
    return [
        _compare("4 layers × 256", SMALL, "float32", 128, rounds=7),
        _compare("12 layers × 768", LARGE, "bfloat16", 64, rounds=5),
    ]


def _compare(shape: str, config: GPTConfig, precision: str, new_tokens: int, rounds: int) -> Comparison:
    torch.manual_seed(0)
    engine = Engine(GPTModel(config).eval(), BPETokenizer([]), choose_placement("cpu", precision))
    prompts = [[(7 * i + 3 * j) % 256 for j in range(32)] for i in range(STREAMS)]
    parameters = SamplingParameters(max_tokens=new_tokens, temperature=0.0)

    def bare() -> None:
        handles = [engine.submit(GenerationRequest(prompt, parameters)) for prompt in prompts]
        for handle in handles:
            for _ in handle:
                pass

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = load_settings(None, {})
    app = create_app({"bench": ServedModel("bench", engine, None)}, settings)
    listener = listen("127.0.0.1", 0)
    server = StoppingServer(uvicorn_config(app, settings), app.state.server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    command = [sys.executable, __file__, str(listener.getsockname()[1]), json.dumps(prompts), str(new_tokens)]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert clients.stdin is not None and clients.stdout is not None

    def through_http(kind: str) -> None:
        assert clients.stdin is not None and clients.stdout is not None
        clients.stdin.write(kind + "\n")
        clients.stdin.flush()
        answer = clients.stdout.readline()
        assert answer.strip() == "done", answer

    try:
        return compare(
            f"Serve {STREAMS} texts of {new_tokens} tokens after 32, {shape}, {precision}",
            "tokens/s",
            STREAMS * new_tokens,
            [
                Contender("HTTP, streamed", lambda: through_http("stream")),
                Contender("HTTP, whole", lambda: through_http("whole")),
                Contender("bare engine", bare),
            ],
            rounds,
        )
    finally:
        clients.stdin.close()
        clients.wait()
        server.should_exit = True
        thread.join()


async def _ask(port: int, prompt: list[int], new_tokens: int, stream: bool) -> None:
    body = json.dumps({"prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "stream": stream}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while data := await reader.read(65536):
        received = received[-100:] + data if stream else received + data
    assert (b"[DONE]" if stream else b'"completion_tokens":%d' % new_tokens) in received, received
    writer.close()


async def _serve_orders(port: int, prompts: list[list[int]], new_tokens: int) -> None:
    """For each line of input, ask for all prompts at once, and say when they are done."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        await asyncio.gather(*(_ask(port, prompt, new_tokens, line.strip() == "stream") for prompt in prompts))
        print("done", flush=True)


if __name__ == "__main__":  # the clients
    asyncio.run(_serve_orders(int(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])))

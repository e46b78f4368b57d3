"""Stage 9: the server, started as a user starts it and spoken to over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployment.server import main
from optimization.engine import Engine
from transformer.sampling import SamplingParameters


@pytest.fixture(scope="module")
def server(trained_run: Path, root: Path) -> Iterator[httpx.Client]:
    command = [sys.executable, str(root / "09_deployment" / "api" / "main.py"), "--checkpoint", str(trained_run)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**__import__("os").environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        with httpx.Client(base_url=found.group(), timeout=60, trust_env=False) as client:
            for _ in range(200):
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_health_names_the_model(server: httpx.Client):
    answer = server.get("/health").json()
    assert answer["status"] == "ok"
    assert answer["model"] == "run"
    assert answer["context_length"] == 32


def test_generate_gives_what_the_engine_gives(server: httpx.Client, trained_run: Path):
    body = {"prompt": "Return the", "max_tokens": 40, "temperature": 0.9, "seed": 11}
    answer = server.post("/generate", json=body).json()
    engine = Engine.from_checkpoint(trained_run, "cpu")
    parameters = SamplingParameters(max_tokens=40, temperature=0.9, seed=11)
    assert answer["generated_text"] == "".join(engine.generate("Return the", parameters))
    assert answer["finish_reason"] in ("length", "stop")
    assert answer["prompt_tokens"] == len(engine.encode_prompt("Return the"))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "x", "max_tokens": 0}, 422, "max_tokens: Input should be greater than or equal to 1"),
        ({"prompt": "x", "max_tokens": 10**9}, 422, "max_tokens: Input should be less than or equal to 4096"),
        ({"prompt": "x", "temperature": -1}, 422, "temperature"),
        ({"prompt": "x", "top_p": 0}, 422, "top_p"),
        ({"prompt": "x", "max_token": 5}, 422, "max_token: Extra inputs are not permitted"),
        ({"prompt": 5}, 422, "prompt"),
        ({}, 422, "prompt: Field required"),
        ({"prompt": "x y " * 100}, 400, "the model's context is 32: shorten the prompt"),
        ({"prompt": "x" * 200_000}, 422, "at most 100000 characters"),
    ],
)
def test_bad_requests_get_one_line_and_a_4xx(server: httpx.Client, body: dict, status: int, message: str):
    answer = server.post("/generate", json=body)
    assert answer.status_code == status
    assert message in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1]", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}'])
def test_malformed_bodies_never_reach_the_model(server: httpx.Client, content: bytes):
    answer = server.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 or answer.json()["prompt_tokens"] > 0


def test_control_tokens_in_a_prompt_are_plain_text(server: httpx.Client):
    plain = server.post("/generate", json={"prompt": "<|endoftext|>", "max_tokens": 1}).json()
    assert plain["prompt_tokens"] > 2  # one to begin with, then the characters


def test_health_answers_while_text_is_generated(server: httpx.Client):
    done = threading.Event()

    def generate() -> None:
        server.post("/generate", json={"prompt": "a", "max_tokens": 400})
        done.set()

    thread = threading.Thread(target=generate)
    thread.start()
    time.sleep(0.1)
    start = time.perf_counter()
    assert server.get("/health").status_code == 200
    assert not done.is_set() or time.perf_counter() - start < 1.0
    thread.join()


def test_parallel_requests_do_not_disturb_one_another(server: httpx.Client):
    bodies = [{"prompt": "Return", "max_tokens": 30, "seed": seed} for seed in range(4)]
    alone = [server.post("/generate", json=body).json()["generated_text"] for body in bodies]
    together: dict[int, str] = {}

    def ask(index: int) -> None:
        together[index] = server.post("/generate", json=bodies[index]).json()["generated_text"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(4)] == alone


def test_the_openapi_page_documents_the_routes(server: httpx.Client):
    assert server.get("/docs").status_code == 200
    schema = server.get("/openapi.json").json()
    assert {"/generate", "/health"} <= schema["paths"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--checkpoint", "no/such"], "there is no checkpoint"), (["--port", "70000"], "between 0 and 65535, got 70000")],
)
def test_a_server_that_cannot_start_says_why(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_port_in_use_is_named(server: httpx.Client, trained_run: Path, capsys):
    port = str(server.base_url.port)
    assert main(["--checkpoint", str(trained_run), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err

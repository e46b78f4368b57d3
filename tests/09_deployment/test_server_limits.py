"""Stage 9: an open server must withstand floods of requests, very large, slow and malformed ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.raw_http import exchange, post
from support.serving import ENDLESS, Served, serve, tiny_models

from deployment.errors import ApiError
from deployment.gate.api_keys import hash_key, new_key
from deployment.gate.http_protocol import MOST_READ, DeadlineTransport, GuardedProtocol, with_deadlines
from deployment.gate.rate_limiting import RateLimiter
from deployment.settings import Limits, RateLimits, SettingsFileError
from optimization.engine.engine import Engine

KEYS = {"alice": new_key(), "bob": new_key()}
SMALL = Limits(max_body_bytes=10_000, max_header_bytes=2_000, header_seconds=0.4, body_seconds=0.4)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models(), limits=SMALL) as server:
        yield server


@contextlib.contextmanager
def held(engine: Engine) -> Iterator[Engine]:
    """An engine that computes nothing, so that what is submitted waits."""
    go, step = threading.Event(), engine.step
    engine.step = lambda: go.wait() and step()  # type: ignore[method-assign]
    try:
        yield engine
    finally:
        del engine.step  # type: ignore[misc]
        go.set()


def ask(served: Served, bodies: list[dict]) -> tuple[list[httpx.Response], list[threading.Thread]]:
    """Send requests to /generate at the same time; the list of answers fills while the threads run."""
    answers: list[httpx.Response] = []

    def post(body: dict) -> None:
        answers.append(httpx.post(served.url + "/generate", json=body, trust_env=False, timeout=60))

    threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    return answers, threads


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something has happened that must happen."""
    stop = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < stop, "it did not happen"
        time.sleep(0.002)


# --- giants and the slow ----------------------------------------------------------------------


def test_a_giant_body_is_refused_before_it_is_read(served: Served):
    answer = exchange(served, post("/generate", b"", "Content-Length: 99999999999"))
    assert b" 413 " in answer and b"larger than this server's limit of 10,000 bytes" in answer


def test_a_giant_body_without_a_length_is_cut_off(served: Served):
    body = b"".join(b"400\r\n" + b"x" * 0x400 + b"\r\n" for _ in range(12))
    assert b" 413 " in exchange(served, post("/generate", body, "Transfer-Encoding: chunked"))


def test_a_body_is_read_in_small_parts_so_that_others_are_answered_between(monkeypatch):
    """Each chunk of one byte takes as long as one of many: all of them at once would be a pause of seconds."""
    sizes, plain = list[int](), GuardedProtocol.data_received

    def data_received(protocol: GuardedProtocol, data: bytes) -> None:
        sizes.append(len(data))
        plain(protocol, data)

    monkeypatch.setattr(GuardedProtocol, "data_received", data_received)
    content = json.dumps({"prompt": "a", "max_tokens": 1}).encode() + b" " * 300_000
    with serve(tiny_models()) as served:
        answer = served.client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert sum(sizes) > 300_000 and max(sizes) <= MOST_READ


def test_giant_headers_are_refused(served: Served):
    assert b" 400 " in exchange(served, post("/generate", b"", "X-Filler: " + "y" * 5000))


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "٣"])
def test_nonsense_lengths_are_refused(served: Served, length: str):
    assert b" 400 " in exchange(
        served, post("/generate", b"", f"Content-Length: {length}").replace(b"\xd9\xa3", b"\xff")
    )


def test_slow_headers_lose_their_connection(served: Served):
    started = time.monotonic()
    assert exchange(served, b"GET /health HTTP/1.1\r\nHost: loc") == b""
    assert exchange(served, b"") == b""
    assert time.monotonic() - started < 5


def test_a_slow_body_gets_408(served: Served):
    assert b" 408 " in exchange(served, post("/generate", b'{"pro', "Content-Length: 100"))


def test_many_slow_clients_do_not_keep_others_out(served: Served):
    host, port = served.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    for connection in slow:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: ")
    assert served.client.post("/generate", json={"prompt": "a", "max_tokens": 3}).status_code == 200
    assert all(connection.recv(1) == b"" for connection in slow)  # closed by the server
    for connection in slow:
        connection.close()


def test_a_generation_longer_than_the_header_deadline_is_not_cut(served: Served):
    with held(served.state.model(None).engine) as engine:
        answers, threads = ask(served, [{"prompt": "a", "max_tokens": 3}])
        wait_for(lambda: engine.stats().waiting == 1)
        time.sleep(2 * SMALL.header_seconds)
    threads[0].join()
    assert answers[0].status_code == 200


def test_the_protocol_is_uvicorns_with_deadlines():
    protocol = with_deadlines(3.0, 4.0)
    assert issubclass(protocol, GuardedProtocol) and (protocol.header_seconds, protocol.write_seconds) == (3.0, 4.0)


# --- the malformed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"prompt": NaN}',
        b'{"prompt": "a", "seed": 1e999}',
        b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b"[" * 4000,
        b'{"prompt": ["' + b"[" * 2000 + b'"]}',
        b"\x00" * 100,
        b'{"prompt": {"$ne": 1}}',
        b"\xef\xbb\xbf{}",
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions", "/tokenize", "/attention"])
def test_malformed_bodies_never_reach_the_model(served: Served, path: str, content: bytes):
    answer = served.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 1000  # the input is not repeated


@pytest.mark.parametrize("text", [b"\\ud800", b"\\u0000", b"\\udbff\\udfff", b"\\u202e<b>", b"\xed\xa0\x80"])
def test_strange_characters_are_text(served: Served, text: bytes):
    body = b'{"prompt": "' + text + b'", "max_tokens": 2}'
    for path in ("/generate", "/v1/completions"):
        answer = served.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400)
        answer.json()


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 3000]
)
def test_what_is_no_http_does_no_harm(served: Served, data: bytes):
    exchange(served, data)
    assert served.client.get("/health").status_code == 200


# --- floods -----------------------------------------------------------------------------------


def test_a_full_queue_refuses_while_the_engine_is_busy_and_those_inside_are_unharmed():
    with serve(tiny_models(max_running=2, max_waiting=3)) as server:
        body = {"prompt": "the", "max_tokens": 30, "temperature": 0, "logit_bias": ENDLESS}
        alone = server.client.post("/generate", json=body).json()
        with held(server.state.model(None).engine) as engine:
            inside, threads = ask(server, [body] * 3)
            wait_for(lambda: engine.stats().waiting == 3)
            refused = [server.client.post("/generate", json=body) for _ in range(5)]
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in refused] == [429] * 5
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert [answer.json() for answer in inside] == [alone] * 3
        server.wait_until_idle()


# --- those who do not read --------------------------------------------------------------------


class Pipe:
    """Stands for a transport whose other side takes what the test says."""

    def __init__(self) -> None:
        self.left, self.aborted = 0, False

    def write(self, data: bytes) -> None:
        self.left += len(data)

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


class Clock:
    """Stands for an event loop: time passes when the test says so."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.calls.append((self.now + delay, call))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((item for item in self.calls if item[0] <= end), key=lambda item: item[0]):
            self.calls.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = end


@pytest.mark.parametrize(
    ("written", "taken_each_second", "broken"),
    [
        (200_000, 0, True),
        (200, 0, True),
        (200_000, 100, True),  # a byte from time to time is not reading
        (200_000, 3_500, False),  # slow, but it reads: 32 KiB in 10 seconds
        (2_000_000, 3_500, False),
        (200, 200, False),
    ],
)
def test_a_client_must_take_its_answer(written: int, taken_each_second: int, broken: bool):
    pipe, clock = Pipe(), Clock()
    DeadlineTransport(pipe, clock, seconds=10).write(b"x" * written)  # type: ignore[arg-type]
    for _ in range(60):
        pipe.left = max(0, pipe.left - taken_each_second)
        clock.pass_time(1)
    assert pipe.aborted == broken


def test_a_client_that_keeps_up_with_a_slow_stream_is_not_cut():
    pipe, clock = Pipe(), Clock()
    transport = DeadlineTransport(pipe, clock, seconds=10)  # type: ignore[arg-type]
    for _ in range(100):  # something is always left when the clock looks, but never the same
        pipe.left = 0
        transport.write(b"x" * 50)
        clock.pass_time(1)
    assert not pipe.aborted


def test_clients_that_read_nothing_do_not_keep_others_out():
    """They ask for several megabytes, in answers as long as the largest buffers of a system."""
    with serve(tiny_models(), limits=Limits(max_connections=3, write_seconds=0.5)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        deaf = [socket.socket() for _ in range(2)]
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        answer = []

        def served_again() -> bool:
            answer[:] = [httpx.get(server.url + "/health", trust_env=False).status_code]
            return answer == [200]

        wait_for(served_again)
        for connection in deaf:
            connection.close()


def test_an_answer_of_too_many_probabilities_is_refused(served: Served):
    body = {"prompt": ["a"] * 4, "n": 16, "max_tokens": 800, "logprobs": 20}
    error = served.client.post("/v1/completions", json=body).json()["error"]
    assert error["param"] == "logprobs"
    assert "1,075,200 probabilities" in error["message"] and "limit is 250,000: ask for fewer" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "reported"),
    [
        ("/v1/completions", {"prompt": [5] * 10, "max_tokens": 3, "logprobs": 1}, 3 * 2),
        ("/v1/completions", {"prompt": [5] * 10, "max_tokens": 3, "logprobs": 1, "echo": True}, 13 * 2),
        ("/v1/completions", {"prompt": [[5] * 10] * 2, "n": 2, "max_tokens": 3, "logprobs": 0}, 4 * 3),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "logprobs": True},
            3,
        ),
        ("/generate", {"prompt": "a", "max_tokens": 3, "top_logprobs": 2}, 3 * 3),
    ],
)
def test_probabilities_are_counted_on_every_route(path: str, body: dict, reported: int):
    for limit, status in ((reported, 200), (reported - 1, 400)):
        with serve(tiny_models(), limits=Limits(max_probabilities=limit)) as server:
            assert server.client.post(path, json=body).status_code == status


def test_requests_a_minute_are_counted_for_each_address_and_key():
    keys = {name: hash_key(key) for name, key in KEYS.items()}
    with serve(tiny_models(), api_keys=keys, rate_limits=RateLimits(requests_per_minute=3)) as server:
        headers = {"Authorization": f"Bearer {KEYS['alice']}"}
        answers = [server.client.get("/v1/models", headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [a.headers.get("x-ratelimit-remaining-requests") for a in answers[:3]] == ["2", "1", "0"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 60
        # The address has used up its own count, with any key; liveness is not counted.
        other = {"Authorization": f"Bearer {KEYS['bob']}"}
        assert server.client.get("/v1/models", headers=other).status_code == 429
        assert server.client.get("/health").status_code == 200


def test_tokens_a_minute_are_counted_before_they_are_made():
    with serve(tiny_models(), rate_limits=RateLimits(tokens_per_minute=50)) as server:
        body = {"prompt": [1, 2, 3, 4, 5], "max_tokens": 20, "logit_bias": ENDLESS}
        statuses = [server.client.post("/generate", json=body).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        never = server.client.post("/generate", json={**body, "max_tokens": 46})
        assert never.status_code == 400 and "may take 51 tokens, and 50 a minute is the most" in never.text


def test_a_key_is_counted_across_addresses():
    async def charge() -> list[int]:
        limiter, refused = RateLimiter(RateLimits(requests_per_minute=2)), []
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            try:
                await limiter.charge_request({"type": "http", "client": (address, 1), "state": {"key_name": "alice"}})
            except ApiError as error:
                refused.append(error.status)
        return refused

    assert asyncio.run(charge()) == [429]


def test_an_unknown_storage_is_named():
    with pytest.raises(SettingsFileError, match=r"rate_limits\.storage 'nosuch://' cannot be used"):
        RateLimiter(RateLimits(storage="nosuch://"))


def test_too_many_connections_are_answered_with_503():
    with serve(tiny_models(), limits=Limits(max_connections=5)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        opened = [socket.create_connection((host, int(port))) for _ in range(6)]  # accepted in this order
        opened[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 503 " in opened[-1].recv(1000)
        for connection in opened:
            connection.close()


@pytest.mark.slow
def test_the_errors_of_the_server_itself_hide_their_cause(monkeypatch: pytest.MonkeyPatch):
    with serve(tiny_models()) as server:
        monkeypatch.setattr(type(server.state), "model", lambda *_: 1 / 0)
        answer = server.client.post("/tokenize", json={"prompt": "a"})
        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text and answer.headers["x-request-id"]
        assert json.loads(answer.text)["error"]["type"] == "server_error"

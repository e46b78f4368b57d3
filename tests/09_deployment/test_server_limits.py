"""Stage 9: an open server must withstand floods of requests, very large, slow and malformed ones."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from support.raw_http import exchange, post
from support.serving import ENDLESS, Served, serve, tiny_models

from deployment.errors import ApiError
from deployment.gate.api_keys import hash_key, new_key
from deployment.gate.http_protocol import GuardedProtocol, with_deadline
from deployment.gate.rate_limiting import RateLimiter
from deployment.settings import Limits, RateLimits, SettingsFileError

KEYS = {"alice": new_key(), "bob": new_key()}
SMALL = Limits(max_body_bytes=10_000, max_header_bytes=2_000, header_seconds=0.4, body_seconds=0.4)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models(), limits=SMALL) as server:
        yield server


# --- giants and the slow ----------------------------------------------------------------------


def test_a_giant_body_is_refused_before_it_is_read(served: Served):
    answer = exchange(served, post("/generate", b"", "Content-Length: 99999999999"))
    assert b" 413 " in answer and b"larger than this server's limit of 10,000 bytes" in answer


def test_a_giant_body_without_a_length_is_cut_off(served: Served):
    body = b"".join(b"400\r\n" + b"x" * 0x400 + b"\r\n" for _ in range(12))
    assert b" 413 " in exchange(served, post("/generate", body, "Transfer-Encoding: chunked"))


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
    time.sleep(0.6)
    assert all(connection.recv(1) == b"" for connection in slow)  # closed by the server
    for connection in slow:
        connection.close()


@pytest.mark.slow
def test_a_generation_longer_than_the_header_deadline_is_not_cut(served: Served):
    body = {"prompt": "a", "max_tokens": 600, "logit_bias": ENDLESS}
    started = time.monotonic()
    answer = served.client.post("/generate", json=body)
    assert answer.json()["generated_tokens"] == 600
    assert time.monotonic() - started > SMALL.header_seconds, (
        "make the generation longer for this test to say something"
    )


def test_the_protocol_is_uvicorns_with_a_deadline():
    assert issubclass(with_deadline(3.0), GuardedProtocol) and with_deadline(3.0).header_seconds == 3.0


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


@pytest.mark.slow
def test_a_full_queue_refuses_quickly_and_those_inside_are_unharmed():
    with serve(tiny_models(max_running=2, max_waiting=3)) as server:
        body = {"prompt": "the", "max_tokens": 150, "temperature": 0, "logit_bias": ENDLESS}
        alone = server.client.post("/generate", json=body).json()
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(server.url + "/generate", json=body, trust_env=False, timeout=60)
                )
            )
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code == 429]
        served = [answer for answer in answers if answer.status_code == 200]
        assert len(refused) + len(served) == 30 and refused and len(served) >= 5
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert all(answer.json() == alone for answer in served)
        server.wait_until_idle()


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
        held = [socket.create_connection((host, int(port))) for _ in range(6)]
        time.sleep(0.1)
        held[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 503 " in held[-1].recv(1000)
        for connection in held:
            connection.close()


@pytest.mark.slow
def test_the_errors_of_the_server_itself_hide_their_cause(monkeypatch: pytest.MonkeyPatch):
    with serve(tiny_models()) as server:
        monkeypatch.setattr(type(server.state), "model", lambda *_: 1 / 0)
        answer = server.client.post("/tokenize", json={"prompt": "a"})
        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text and answer.headers["x-request-id"]
        assert json.loads(answer.text)["error"]["type"] == "server_error"

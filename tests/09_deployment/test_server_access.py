"""Stage 9: who may use the server: keys, addresses, host names, other sites."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw_http import exchange, post
from support.serving import Served, serve, tiny_models

from deployment.gate.api_keys import find_key, hash_key, new_key
from deployment.settings import RateLimits, SettingsFileError, is_loopback, load_settings

KEYS = {"alice": new_key(), "bob": new_key()}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models()) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with serve(tiny_models(), api_keys={name: hash_key(key) for name, key in KEYS.items()}) as server:
        yield server


# --- keys -------------------------------------------------------------------------------------


def test_without_a_key_only_the_page_and_liveness_answer(locked: Served):
    for path in ("/", "/health"):
        assert locked.client.get(path).status_code == 200
    for path in ("/ready", "/metrics", "/v1/models", "/docs", "/openapi.json", "/no/such", "/health/", "/static"):
        answer = locked.client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.client.post("/generate", json={"prompt": "a"}).json()["error"]["code"] == "missing_api_key"


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer wrong", "Basic abc", "Bearer  \xff", KEYS["alice"], "Bearer \x7f"],
    ids=["no key", "wrong key", "another scheme", "not ASCII", "a key without a scheme", "a control character"],
)
def test_wrong_keys_are_refused(locked: Served, value: str):
    answer = locked.client.get("/v1/models", headers={"Authorization": value.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_wrong_keys_are_counted_and_do_not_shut_out_the_right_one():
    settings = {"api_keys": {"alice": hash_key(KEYS["alice"])}, "rate_limits": RateLimits(wrong_keys_per_minute=3)}
    with serve(tiny_models(), **settings) as server:
        wrong = [server.client.get("/v1/models", headers={"Authorization": f"Bearer {i}"}) for i in range(5)]
        assert [answer.status_code for answer in wrong] == [401, 401, 401, 429, 429]
        assert 1 <= int(wrong[-1].headers["retry-after"]) <= 60
        assert server.client.get("/v1/models").status_code == 401  # no key is no guess
        right = server.client.get("/v1/models", headers={"Authorization": f"Bearer {KEYS['alice']}"})
        assert right.status_code == 200


def test_each_key_has_a_name_and_no_key_is_in_the_log(locked: Served, capsys):
    for key in KEYS.values():
        assert locked.client.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
    out = "".join(capsys.readouterr())
    assert not any(key in out for key in KEYS.values())


def test_comparing_takes_as_long_for_a_nearly_right_key():
    """The medians of trials in turn, with wide limits. A naive comparison takes longer if more of the key is right."""
    hashes = {name: hash_key(key) for name, key in KEYS.items()}
    right = KEYS["alice"]
    candidates = {"near": right[:-1] + "_", "far": "x" * len(right)}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(2000):
        for name, key in candidates.items():
            start = time.perf_counter()
            assert find_key(key, hashes) is None
            times[name].append(time.perf_counter() - start)
    near, far = (statistics.median(times[name]) for name in candidates)
    assert 0.5 < near / far < 2.0
    assert find_key(right, hashes) == "alice"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org")],
)
def test_a_public_address_needs_keys_or_a_word(host: str, loopback: bool):
    assert is_loopback(host) == loopback
    if loopback:
        load_settings(None, {"host": host})
        return
    with pytest.raises(SettingsFileError, match="can be reached from other machines and no API key is set"):
        load_settings(None, {"host": host})
    load_settings(None, {"host": host, "allow_public_without_keys": True})
    load_settings(None, {"host": host, "api_keys": {"a": hash_key("b")}})


def test_settings_that_are_there_twice_are_refused(tmp_path: Path):
    path = tmp_path / "server.yaml"
    path.write_text("limits:\n  max_n: 2\nport: 1\nlimits:\n  max_tokens: 3\n")
    with pytest.raises(SettingsFileError, match="the key 'limits' in line 4 is there twice"):
        load_settings(path, {})


def test_a_key_itself_in_the_settings_is_refused():
    with pytest.raises(SettingsFileError, match="is not a hash"):
        load_settings(None, {"api_keys": {"alice": KEYS["alice"]}})


# --- browsers ---------------------------------------------------------------------------------


def test_foreign_host_names_are_refused(served: Served):
    """An attacker's host name may point to this server. Its page then sends that name (DNS rebinding)."""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert b" 403 " in exchange(served, post("/generate", b"{}", host=host)), host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9"):
        assert b" 400 " in exchange(served, post("/generate", b"{}", host=host)), host


def test_other_sites_may_not_call(served: Served):
    answer = served.client.options(
        "/generate", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
    # A form of another site can send this without asking first, so it is not read as JSON.
    form = served.client.post("/generate", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert form.status_code == 400


def test_named_sites_may_call():
    with serve(tiny_models(), cors_origins=["https://chat.example"]) as server:
        headers = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
        answer = server.client.options("/generate", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        # OpenAI's client in a browser sends headers of its own, and the browser asks for each.
        wanted = "authorization,content-type,x-stainless-os,x-stainless-retry-count,openai-organization"
        asked = server.client.options("/generate", headers={**headers, "Access-Control-Request-Headers": wanted})
        assert asked.status_code == 200 and asked.headers["access-control-allow-headers"] == wanted
        foreign = {**headers, "Origin": "https://evil.example", "Access-Control-Request-Headers": wanted}
        assert "access-control-allow-origin" not in server.client.options("/generate", headers=foreign).headers


def test_every_answer_has_security_headers_and_an_id(served: Served):
    for path in ("/", "/health", "/no/such", "/docs", "/static/no.js"):
        headers = served.client.get(path, headers={"X-Request-ID": "bad id\t<script>"}).headers
        assert "default-src" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-request-id"].isalnum()
        assert "server" not in headers
    assert "unsafe" not in served.client.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_only_static_files_are_served(served: Served, path: str):
    answer = exchange(served, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b" 404 " in answer.split(b"\r\n", 1)[0]

"""Stage 9: two servers behind a real nginx, which count requests together in a real Redis."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from support.lesson_pages import ROOT, blocks_of
from support.serving import ENDLESS, iterate_events, save_run, serve_command

pytestmark = pytest.mark.slow

NGINX, REDIS = shutil.which("nginx"), shutil.which("redis-server")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")
needs_redis = pytest.mark.skipif(REDIS is None, reason="needs Redis: apt-get install redis-server")
FROM_ANYWHERE = {"X-Forwarded-For": "203.0.113.7"}  # what a client claims to be


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


@contextlib.contextmanager
def program(*command: str, port: int) -> Iterator[subprocess.Popen]:
    """Run a daemon in the foreground. The block begins when the daemon listens."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield process
        finally:
            process.terminate()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    port = free_port()
    with program(REDIS, "--port", str(port), "--save", "", "--dir", str(tmp_path), port=port) as process:
        yield f"redis://127.0.0.1:{port}", process


@dataclass
class Site:
    """nginx and the servers behind it."""

    client: httpx.Client
    servers: list[tuple[str, subprocess.Popen]]

    def running(self) -> float:
        """How many requests the engines are computing."""
        texts = [httpx.get(url + "/metrics", trust_env=False).text for url, _ in self.servers]
        return sum(float(re.search(r"^vllm:num_requests_running\S* (\S+)", text, flags=re.M)[1]) for text in texts)


@contextlib.contextmanager
def site(folder: Path, listen: str = "", **settings) -> Iterator[Site]:
    """Two servers of one model behind the repository's nginx.conf, with its ports replaced by free ones.

    Args:
        folder: folder for the files.
        listen: the text that replaces the line that begins with `listen`; PORT is nginx's port.
        settings: settings of the servers.
    """
    run = save_run(folder / "tiny", context_length=4096, positions="rope")
    config = {"threads": 1, "trusted_proxies": ["127.0.0.1"], "allowed_hosts": ["127.0.0.1", "llm.example.org"]}
    (folder / "server.yaml").write_text(yaml.safe_dump({**config, **settings}), encoding="utf-8")
    arguments = ["--checkpoint", str(run), "--config", str(folder / "server.yaml")]
    port, scheme = free_port(), "https" if "ssl" in listen else "http"
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serve_command(ROOT, *arguments, log=folder / f"{i}.log")) for i in range(2)]
        text = (ROOT / "09_deployment" / "docker" / "nginx.conf").read_text(encoding="utf-8")
        for written, (url, _) in zip(("127.0.0.1:8001", "127.0.0.1:8002"), servers, strict=True):
            assert text.count(written) == 1
            text = text.replace(written, url.removeprefix("http://"))
        text = re.sub(r"listen 127\.0\.0\.1:8000;", listen or "listen 127.0.0.1:PORT;", text).replace("PORT", str(port))
        own = "".join(f"{what}_temp_path temporary; " for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = text.replace("http {", "http { access_log off; " + own, 1)  # folders that any user may write into
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        outside = ["-g", f"daemon off; pid {folder / 'nginx.pid'}; error_log {folder / 'nginx.log'};"]
        subprocess.run([*command, "-t", *outside], check=True, capture_output=True)
        stack.enter_context(program(*command, *outside, port=port))
        trusted = ssl.create_default_context(cafile=folder / "certificate.pem") if scheme == "https" else True
        url = f"{scheme}://127.0.0.1:{port}"
        yield Site(
            stack.enter_context(httpx.Client(base_url=url, trust_env=False, verify=trusted, timeout=60)), servers
        )


@needs_nginx
def test_nginx_passes_tokens_on_as_they_come_and_tells_of_clients_that_go(tmp_path: Path):
    with site(tmp_path) as behind:
        body = {"prompt": "a", "max_tokens": 4000, "stream": True, "logit_bias": ENDLESS}
        with behind.client.stream("POST", "/v1/completions", json=body) as response:
            events = iterate_events(response)  # kept in a variable, because the stream closes when it is deleted
            assert "text" in next(events)[1]
            assert behind.running() == 1  # thousands are still to come
        stop = time.monotonic() + 10
        while behind.running() and time.monotonic() < stop:
            time.sleep(0.02)
        assert behind.running() == 0
        assert behind.client.get("/metrics").status_code == 404


@needs_nginx
def test_requests_go_to_the_other_server_when_one_stops(tmp_path: Path):
    with site(tmp_path) as behind:
        body = {"prompt": "the", "max_tokens": 5, "temperature": 0}
        expected = behind.client.post("/generate", json=body).json()["generated_text"]
        behind.servers[0][1].send_signal(signal.SIGTERM)
        answers = [behind.client.post("/generate", json=body) for _ in range(20)]
        assert [answer.json()["generated_text"] for answer in answers] == [expected] * 20
        assert behind.servers[0][1].wait(timeout=20) == 0
        assert behind.client.post("/generate", json=body).status_code == 200


@needs_nginx
@needs_redis
def test_servers_count_together_by_the_true_address_and_close_without_the_count(tmp_path: Path, redis):
    pytest.importorskip("redis", reason="needs the extra redis")
    url, process = redis
    with site(tmp_path, rate_limits={"requests_per_minute": 10, "storage": url}) as behind:
        statuses = [behind.client.get("/v1/models", headers=FROM_ANYWHERE).status_code for _ in range(14)]
        assert statuses == [200] * 10 + [429] * 4
        asked = [httpx.get(f"{server}/v1/models", trust_env=False).status_code for server, _ in behind.servers]
        assert asked == [429, 429]  # from the same address, without nginx
        process.terminate()
        process.wait(timeout=10)
        closed = behind.client.get("/v1/models")
        assert closed.status_code == 503 and "cannot be counted now" in closed.json()["error"]["message"]
        assert closed.headers["retry-after"] == "5" and behind.client.get("/health").status_code == 200
    assert "Traceback" not in (tmp_path / "0.log").read_text(encoding="utf-8")


@needs_redis
def test_a_storage_that_does_not_answer_is_told_at_the_start(tmp_path: Path):
    pytest.importorskip("redis", reason="needs the extra redis")
    from deployment.gate.rate_limiting import RateLimiter
    from deployment.settings import RateLimits, SettingsFileError

    with pytest.raises(SettingsFileError, match="cannot be used: nothing answers there"):
        RateLimiter(RateLimits(requests_per_minute=1, storage=f"redis://127.0.0.1:{free_port()}"))


@needs_nginx
def test_the_lines_for_tls_in_the_guide_give_https(tmp_path: Path):
    openssl = shutil.which("openssl") or pytest.skip("needs openssl to make a certificate")
    subject = ["-subj", "/CN=llm.example.org", "-addext", "subjectAltName=DNS:llm.example.org,IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files], check=True,
                   capture_output=True)  # fmt: skip
    (lines,) = blocks_of(ROOT / "docs" / "guides" / "deployment.md", "nginx")
    lines = lines.replace("listen 443 ssl", "listen 127.0.0.1:PORT ssl")
    lines = re.sub(r"/etc/\S+/fullchain\.pem", str(tmp_path / "certificate.pem"), lines)
    lines = re.sub(r"/etc/\S+/privkey\.pem", str(tmp_path / "key.pem"), lines)
    with site(tmp_path, listen=lines) as behind:
        answer = behind.client.post("/generate", json={"prompt": "the", "max_tokens": 3})
        assert answer.status_code == 200 and answer.json()["generated_text"]

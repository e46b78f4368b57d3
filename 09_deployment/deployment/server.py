"""`main.py` as a command: load the checkpoint, serve until told to stop.

On SIGTERM or Ctrl-C the server is no longer ready, takes no new work, and lets running requests finish for
`drain_seconds`; then it ends their streams with an error event. The exit status is 0. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import uvicorn

from deployment.app import create_app
from deployment.gate.http_protocol import with_deadline
from deployment.served_model import load_models
from deployment.server_state import ServerState
from deployment.settings import ServerSettings, load_settings
from deployment.structured_logging import configure_logging
from groundwork.user_errors import report_user_errors

CUT_SECONDS = 5  # from the end of draining to the end of the process


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Serve a trained model over HTTP: a chat page, an OpenAI-compatible API, documentation at /docs.",
        epilog="Every setting can be given in the --config file or as a variable NULLM_…; see configs/server.yaml.",
    )
    parser.add_argument("--config", help="YAML file with settings")
    parser.add_argument("--checkpoint", help="folder of a run or of one checkpoint; default: the newest run")
    parser.add_argument("--model-name", help="what clients call the model; default: the name of the run")
    parser.add_argument("--host", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one; default: 8000")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--adapter", action="append", metavar="NAME=FOLDER", help="a LoRA adapter; may be repeated")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _serve(load_settings(options.config, _given(options))))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What was said on the command line, as settings."""
    given = {name: value for name, value in vars(options).items() if value is not None and name != "config"}
    if "adapter" in given:
        pairs = [adapter.partition("=") for adapter in given.pop("adapter")]
        for name, equals, folder in pairs:
            if not (name and equals and folder):
                raise ValueError(f"--adapter needs NAME=FOLDER, got {name + equals + folder!r}")
        given["adapters"] = {name: folder for name, _, folder in pairs}
    return given


def _serve(settings: ServerSettings) -> int:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    models = load_models(settings)
    listener = _listen(settings.host, settings.port)
    app = create_app(models, settings)
    configure_logging(settings.log_format)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"Serving {', '.join(models)} on {address}   documentation: {address}/docs", flush=True)
    StoppingServer(_uvicorn_config(app, settings), app.state.server).run(sockets=[listener])
    return 0


def _uvicorn_config(app: Any, settings: ServerSettings) -> uvicorn.Config:
    limits = settings.limits
    return uvicorn.Config(
        app,
        http=with_deadline(limits.header_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        limit_concurrency=limits.max_connections,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_seconds) + CUT_SECONDS,
    )


def _listen(host: str, port: int) -> socket.socket:
    """The socket is opened here: uvicorn would end the process with a traceback where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from None


class StoppingServer(uvicorn.Server):
    """Uvicorn's server, with streams that are told when they are cut, and an exit status of 0 after SIGTERM.

    Args:
        config: of uvicorn.
        state: of the application.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState):
        super().__init__(config)
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """See uvicorn; called by the signal."""
        if not self._state.desk.draining and self._loop is not None:
            self._state.desk.draining = True
            desk, seconds = self._state.desk, self._state.settings.drain_seconds
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, desk.cancel_all)
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, which raises the signal again at the end; here stopping when told to is success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

"""`main.py` as a command: load the checkpoint, serve until told to stop."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from deployment.app import create_app
from optimization.engine import Engine
from training.checkpoint import newest_run
from training.command_line import report_user_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Serve a trained model over HTTP. API documentation is at /docs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", help="folder of a run or of one checkpoint; default: the newest run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine only")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _serve(options))


def _serve(options: argparse.Namespace) -> int:
    if not 0 <= options.port <= 65535:
        raise ValueError(f"the port must be between 0 and 65535, got {options.port}")
    path = Path(options.checkpoint) if options.checkpoint else newest_run()
    engine = Engine.from_checkpoint(path, options.device)
    # The socket is opened here: uvicorn would end the process with a traceback where the port is taken.
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}); choose another with --port"
        ) from None
    port = listener.getsockname()[1]
    print(f"Serving {path} on http://{options.host}:{port}   API documentation: http://{options.host}:{port}/docs")
    config = uvicorn.Config(create_app(engine, path.name), log_level="info", timeout_graceful_shutdown=10)
    uvicorn.Server(config).run(sockets=[listener])
    return 0

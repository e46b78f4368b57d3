"""`main.py` as a command: load the checkpoint, and serve until told to stop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from deployment.app import create_app
from deployment.served_model import load_models
from deployment.server import StoppingServer, listen, uvicorn_config
from deployment.settings import ServerSettings, load_settings
from deployment.structured_logging import configure_logging
from groundwork.threads import HELP, use_threads
from groundwork.user_errors import report_user_errors
from optimization.engine.engine import Engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Serve a trained model over HTTP: a chat page, an OpenAI-compatible API, documentation at /docs.",
        epilog="Every setting can be given in the --config file or as a variable NULLM_…; see configs/server.yaml.",
    )
    parser.add_argument("--config", help="YAML file with settings")
    parser.add_argument(
        "--checkpoint",
        help="a run, a checkpoint, a folder of Hugging Face weights, a GGUF file, or a name on the hub; default: the newest run",
    )
    parser.add_argument("--model-name", help="what clients call the model; default: the name of the run")
    parser.add_argument("--host", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one; default: 8000")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, help=HELP)
    parser.add_argument("--adapter", action="append", metavar="NAME=FOLDER", help="a LoRA adapter; may be repeated")
    options = parser.parse_args(arguments)
    return report_user_errors(lambda: _serve(load_settings(options.config, _given(options))))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the command line, as settings."""
    given = {name: value for name, value in vars(options).items() if value is not None and name != "config"}
    if "adapter" in given:
        pairs = [adapter.partition("=") for adapter in given.pop("adapter")]
        for name, equals, folder in pairs:
            if not (name and equals and folder):
                raise ValueError(f"--adapter needs NAME=FOLDER, got {name + equals + folder!r}")
        given["adapters"] = {name: folder for name, _, folder in pairs}
    return given


def describe_cache(engine: Engine) -> str:
    """How many tokens the cache of an engine holds, and the memory that this may take."""
    text = f"cache for {engine.cache_tokens:,} tokens, at most {engine.cache_bytes / 2**30:.2f} GiB"
    if engine.cache_tokens < engine.context_length:
        text += f"; longer texts, up to the context of {engine.context_length:,}, are refused"
    return text


def _serve(settings: ServerSettings) -> int:
    if settings.threads is not None:
        use_threads(settings.threads)
    models = load_models(settings)
    listener = listen(settings.host, settings.port)
    app = create_app(models, settings)
    configure_logging(settings.log_format)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"Serving {', '.join(models)} on {address}   documentation: {address}/docs", flush=True)
    for name, model in models.items():
        print(f"  {name}: {describe_cache(model.engine)}", flush=True)
    StoppingServer(uvicorn_config(app, settings), app.state.server).run(sockets=[listener])
    return 0

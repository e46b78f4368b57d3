"""The HTTP application: routes around the engines, and the page.

    browser, openai client ─ RequestContext ─ Gate ─ BodyGuard ─ route ─ GenerationDesk ─ engine's thread

The engines start with the application and stop with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from deployment.errors import install_error_handlers
from deployment.gate.middleware import BodyGuard, Gate, RequestContext
from deployment.gate.rate_limiting import RateLimiter
from deployment.generation import EventRelay, GenerationDesk
from deployment.metrics import Metrics
from deployment.routes.chat_routes import chat_routes
from deployment.routes.completion_routes import completion_routes
from deployment.routes.generate_route import generate_routes
from deployment.routes.model_routes import model_routes
from deployment.routes.schemas import HealthResponse, ReadyResponse
from deployment.served_model import ServedModel
from deployment.server_state import ServerState
from deployment.settings import ServerSettings

STATIC = Path(__file__).with_name("static")


def create_app(models: Mapping[str, ServedModel], settings: ServerSettings) -> FastAPI:
    """Build the application.

    Args:
        models: the models by name; the first is the default.
        settings: settings of the server.

    Returns:
        The application; `app.state.server` is its `ServerState` while it runs.
    """
    metrics, limiter = Metrics(models), RateLimiter(settings.rate_limits)
    desk = GenerationDesk(EventRelay(settings.stream_interval_ms / 1000), metrics, settings.limits.request_seconds)
    state = ServerState(settings, models, metrics, desk, limiter)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.relay.attach(asyncio.get_running_loop())
        for model in models.values():
            model.engine.start()
        yield
        desk.draining = True
        desk.cancel_all()
        for model in models.values():
            await asyncio.to_thread(model.engine.stop)

    app = FastAPI(
        title="nuLLM",
        version="0.1.0",
        description="A language model built from nothing, served from your own machine.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.server = state
    install_error_handlers(app)
    for routes in (completion_routes, chat_routes, generate_routes, model_routes):
        app.include_router(routes(state))
    _add_operations(app, state)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    # The middleware that is added last is the outermost.
    app.add_middleware(BodyGuard, limits=settings.limits)
    app.add_middleware(Gate, settings=settings, limiter=limiter)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients in a browser send many of their own, such as x-stainless-os
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestContext, metrics=metrics)
    return app


def _add_operations(app: FastAPI, state: ServerState) -> None:
    """Add the routes for the people who run the server."""

    @app.get("/health", tags=["operations"])
    async def health() -> HealthResponse:
        """Whether the process is alive. Needs no key."""
        return HealthResponse()

    @app.get("/ready", tags=["operations"], response_model=ReadyResponse, responses={503: {"model": ReadyResponse}})
    async def ready() -> JSONResponse:
        """Whether to send requests here.

        The status is 503 from the moment the server is told to stop, and while every step of an engine fails.
        """
        if state.desk.draining:
            return JSONResponse({"status": "stopping"}, 503)
        if not all(model.engine.is_working for model in state.models.values()):
            return JSONResponse({"status": "failing"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus, with vLLM's names."""
        return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

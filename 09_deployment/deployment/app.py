"""The HTTP application: routes around one engine.

Generation runs in a worker thread, so that the event loop stays free to answer `/health`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from deployment.schemas import ErrorResponse, GenerateRequest, GenerateResponse, HealthResponse
from optimization.engine import Engine
from optimization.events import GenerationStats, PromptError
from tokenizer.interface import TokenizerError
from transformer.sampling import SamplingParameters


def create_app(engine: Engine, model_name: str) -> FastAPI:
    """Build the application.

    Args:
        engine: generates the text.
        model_name: what `/health` calls the model.
    """
    app = FastAPI(
        title="nuLLM",
        version="0.1.0",
        description="A language model built from nothing, served from your own machine.",
    )

    @app.exception_handler(RequestValidationError)
    async def explain(request: Request, error: RequestValidationError) -> JSONResponse:
        """One line that names the field, in place of a nested list that also repeats the input."""
        problems = [f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors()]
        return JSONResponse({"detail": "; ".join(problems)}, status_code=422)

    @app.get("/health")
    async def health() -> HealthResponse:
        """Whether the server is up, and what it serves."""
        return HealthResponse(
            model=model_name,
            parameters=engine.num_parameters,
            context_length=engine.context_length,
        )

    @app.post(
        "/generate",
        response_model=GenerateResponse,
        responses={400: {"model": ErrorResponse}, 422: {"model": ErrorResponse}},
    )
    async def generate(body: GenerateRequest, request: Request) -> GenerateResponse | JSONResponse:
        """Continue a prompt."""
        try:
            prompt_ids = engine.encode_prompt(body.prompt)
        except (PromptError, TokenizerError) as error:
            return JSONResponse({"detail": str(error)}, status_code=400)
        text, stats = await _generate_in_thread(engine, prompt_ids, body.sampling_parameters(), request.is_disconnected)
        return GenerateResponse(
            generated_text=text,
            finish_reason="length" if stats.finish_reason == "length" else "stop",
            prompt_tokens=stats.prompt_tokens,
            generated_tokens=stats.generated_tokens,
        )

    return app


async def _generate_in_thread(
    engine: Engine,
    prompt_ids: list[int],
    parameters: SamplingParameters,
    is_disconnected: Callable[[], Awaitable[bool]],
) -> tuple[str, GenerationStats]:
    """Generate until done, or until the client has gone: nobody would read the rest."""
    stats = GenerationStats()
    gone = False

    def work() -> list[int]:
        ids = []
        for token in engine.generate_ids(prompt_ids, parameters, stats):
            ids.append(token)
            if gone:
                break
        return ids

    async def watch() -> None:
        nonlocal gone
        while not gone:
            gone = await is_disconnected()
            await anyio.sleep(0.25)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        ids = await anyio.to_thread.run_sync(work)
        group.cancel_scope.cancel()
    return engine.tokenizer.decode(ids), stats

"""The models, their tokenizer and their attention: `/v1/models`, `/tokenize`, `/detokenize`, `/attention`."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import Response

from deployment.attention_look import largest
from deployment.errors import ApiError, ErrorResponse, check_limit
from deployment.routes.answering import json_answer
from deployment.routes.schemas import (
    AttentionRequest,
    AttentionResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    ModelInfo,
    ModelList,
    TokenizeRequest,
    TokenizeResponse,
)
from deployment.served_model import ServedModel
from deployment.server_state import LONG_TEXT, ServerState
from optimization.engine.events import PromptError

MAX_WAITING_LOOKS = 8
MAX_WEIGHTS = 150_000  # in one answer, of 1 to 2 MB


def model_routes(state: ServerState) -> APIRouter:
    """The routes, for one server."""
    router = APIRouter(responses={"4XX": {"model": ErrorResponse}})
    limits = state.settings.limits
    one_look = anyio.Semaphore(1)  # to record the weights, attention takes its slow path: one request at a time
    waiting = 0

    @router.get("/v1/models", tags=["OpenAI"])
    async def list_models() -> ModelList:
        """What is served: the model, and its adapters with their own names."""
        return ModelList(data=[_describe(model, state) for model in state.models.values()])

    @router.get("/v1/models/{name}", tags=["OpenAI"])
    async def show_model(name: str) -> ModelInfo:
        """One model."""
        return _describe(state.model(name), state)

    @router.post("/tokenize", tags=["nuLLM"], response_model=TokenizeResponse)
    async def tokenize(body: TokenizeRequest) -> Response:
        """The ids of a text, and how it is cut.

        Special tokens in the text are plain text, with one exception: a text that is exactly the begin or the end token
        gives its id. Evaluation programs ask for it in this way.
        """
        model = state.model(body.model)
        check_limit("prompt", len(body.prompt), limits.max_prompt_characters, "characters")

        def cut() -> dict[str, Any]:
            if body.prompt in _named_tokens(model).values():
                ids = [model.tokenizer.special_tokens[body.prompt]]
            else:
                ids = model.tokenizer.encode(body.prompt)
            if body.add_special_tokens:
                ids = model.tokenizer.begin_ids + ids
            texts = [model.token_text(token) for token in ids]
            return {"count": len(ids), "max_model_len": model.engine.context_length, "tokens": ids, "token_strs": texts}

        return await json_answer(cut, long=len(body.prompt) >= LONG_TEXT)

    @router.post("/detokenize", tags=["nuLLM"])
    async def detokenize(body: DetokenizeRequest) -> DetokenizeResponse:
        """The text of ids."""
        check_limit("tokens", len(body.tokens), limits.max_prompt_characters, "ids")
        return DetokenizeResponse(prompt=state.model(body.model).tokenizer.decode(body.tokens))

    @router.get("/tokenizer_info", tags=["nuLLM"])
    async def tokenizer_info(model: str | None = None) -> dict[str, Any]:
        """What programs need to know of the tokenizer, in the terms of its Hugging Face configuration."""
        served = state.model(model)
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict.fromkeys(("bos_token", "eos_token", "pad_token")),
            **_named_tokens(served),
            "model_max_length": served.engine.context_length,
            "chat_template": None if served.template is None else served.template.to_jinja(),
        }

    @router.post("/attention", tags=["nuLLM"], response_model=AttentionResponse)
    async def attention(body: AttentionRequest, request: Request) -> Response:
        """Where the last of these tokens looks, in every layer and head. The tokens are charged as those of a prompt."""
        nonlocal waiting
        model = state.model(body.model)
        longest = min(limits.max_attention_tokens, model.engine.context_length)
        check_limit("tokens", len(body.tokens), longest, "tokens")
        vocab_size = model.tokenizer.vocab_size
        if unknown := [token for token in body.tokens if token >= vocab_size]:
            raise PromptError(f"tokens has id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if waiting >= MAX_WAITING_LOOKS:
            raise ApiError(429, "too many looks at the attention are waiting", code="queue_full", retry_after=1)
        await state.limiter.charge_tokens(request.scope, len(body.tokens))
        reader = request.scope["state"].get("key_name")
        waiting += 1
        try:
            async with one_look:
                weights = await anyio.to_thread.run_sync(model.attention, body.tokens, reader)
        finally:
            waiting -= 1

        def write() -> dict[str, Any]:
            kept, places, left_out = largest(weights, MAX_WEIGHTS)
            return {
                "tokens": [model.token_text(token) for token in body.tokens],
                "mean": _rounded(weights.mean(dim=(0, 1)).tolist()),
                "weights": _rounded(kept.tolist()),
                "places": None if places is None else places.tolist(),
                "left_out": _rounded(left_out.tolist()),
            }

        return await json_answer(write, long=True)

    return router


def _rounded(weights: Any) -> Any:
    """Four digits are more than a colour can show."""
    return round(weights, 4) if isinstance(weights, float) else [_rounded(weight) for weight in weights]


def _named_tokens(model: ServedModel) -> dict[str, str]:
    """The special tokens by name, as `tokenizer_config.json` has them."""
    tokenizer = model.tokenizer
    text_of_id = {index: text for text, index in tokenizer.special_tokens.items()}
    between = [] if tokenizer.end_of_text_id is None else [tokenizer.end_of_text_id]
    ids = {"bos_token": (tokenizer.begin_ids or between)[:1], "eos_token": tokenizer.end_ids[:1]}
    ids["pad_token"] = ids["eos_token"] if tokenizer.pad_id is None else [tokenizer.pad_id]
    return {name: text_of_id[found[0]] for name, found in ids.items() if found and found[0] in text_of_id}


def _describe(model: ServedModel, state: ServerState) -> ModelInfo:
    limits, config = state.settings.limits, model.engine.config
    return ModelInfo(
        id=model.name,
        created=model.created,
        root=model.base or model.name,
        parent=model.base,
        max_model_len=model.engine.context_length,
        parameters=model.engine.num_parameters,
        vocab_size=model.tokenizer.vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        chat=model.template is not None,
        recommended=model.recommended,
        subject=model.subject,
        limits={
            "max_tokens": limits.max_tokens,
            "max_logprobs": min(limits.max_logprobs, model.tokenizer.vocab_size),
            "max_attention_tokens": min(limits.max_attention_tokens, model.engine.context_length),
        },
    )

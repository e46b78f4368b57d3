"""What the API takes and gives; the limits are enforced before the model is touched."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from transformer.sampling import SamplingParameters

MAX_PROMPT_CHARACTERS = 100_000
MAX_TOKENS = 4096
DEFAULTS = SamplingParameters()


class GenerateRequest(BaseModel):
    """Body of `POST /generate`. Unknown fields are refused, so that a typo is not silently ignored."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=MAX_PROMPT_CHARACTERS, description="Text to continue.")
    max_tokens: int = Field(DEFAULTS.max_tokens, ge=1, le=MAX_TOKENS, description="The most tokens to generate.")
    temperature: float = Field(DEFAULTS.temperature, ge=0.0, le=100.0, description="0 is greedy, 1 as trained.")
    top_k: int = Field(DEFAULTS.top_k, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(DEFAULTS.top_p, gt=0.0, le=1.0, description="Keep this much probability; 1 keeps all.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Repeat the same draw.")

    def sampling_parameters(self) -> SamplingParameters:
        """The same, in the engine's terms."""
        return SamplingParameters(self.max_tokens, self.temperature, self.top_k, self.top_p, self.seed)


class GenerateResponse(BaseModel):
    """Answer of `POST /generate`."""

    generated_text: str = Field(description="The continuation, without the prompt.")
    finish_reason: Literal["stop", "length"] = Field(description="stop: the text ended; length: max_tokens reached.")
    prompt_tokens: int
    generated_tokens: int


class HealthResponse(BaseModel):
    """Answer of `GET /health`."""

    status: Literal["ok"] = "ok"
    model: str = Field(description="Name of the run that is served.")
    parameters: int
    context_length: int


class ErrorResponse(BaseModel):
    """Body of every 4xx answer."""

    detail: str

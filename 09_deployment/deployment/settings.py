"""The settings of the server: from a YAML file, environment variables and the command line.

In this list, each source wins over those before it: defaults, `--config server.yaml`, `NULLM_…` variables, the command
line. The parts of a variable's name are joined by two underscores: `NULLM_LIMITS__MAX_TOKENS=256`.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from groundwork.files import read_yaml
from groundwork.text_sources import TextError
from groundwork.threads import MOST
from optimization.settings import EngineSettings

KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class SettingsFileError(ValueError):
    """Settings that make no sense; one line."""


class Limits(BaseModel):
    """The most that one request may ask for. All limits are checked before the model runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=2_000_000, ge=1, description="Size of a request's body.")
    max_header_bytes: int = Field(default=16_384, ge=256, description="Size of a request's line and headers together.")
    max_prompt_characters: int = Field(
        default=100_000, ge=1, description="Length of a prompt, or of a whole conversation."
    )
    max_prompts: int = Field(default=32, ge=1, description="Prompts of one request to /v1/completions.")
    max_tokens: int = Field(default=4096, ge=1, description="Tokens to generate for one choice.")
    max_n: int = Field(default=16, ge=1, description="Choices for one prompt.")
    max_logprobs: int = Field(default=20, ge=0, description="Alternatives to report with each token.")
    max_probabilities: int = Field(default=250_000, ge=0, description="Probabilities to report in one answer.")
    max_stop: int = Field(default=16, ge=0, description="Stop strings, each of at most 256 characters.")
    max_logit_bias: int = Field(default=300, ge=0, description="Entries of logit_bias.")
    max_attention_tokens: int = Field(default=8192, ge=1, description="Tokens of one look at the attention weights.")
    request_seconds: float = Field(default=300.0, gt=0, description="Deadline of a request, waiting included.")
    header_seconds: float = Field(default=10.0, gt=0, description="Time to send the headers, against slow clients.")
    body_seconds: float = Field(default=20.0, gt=0, description="Time to send the body, against slow clients.")
    write_seconds: float = Field(
        default=10.0, gt=0, description="Time to take 32 KiB of an answer, against clients that do not read."
    )
    max_connections: int = Field(default=1024, ge=1, description="Open connections; more are answered with 503.")


class RateLimits(BaseModel):
    """Requests and tokens per minute, counted for each API key and for each address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Prompt tokens plus the tokens asked for.")
    wrong_keys_per_minute: int = Field(default=30, ge=1, description="Wrong API keys from one address.")
    storage: str = Field(
        default="memory://", description="memory://, or redis://HOST to count for several servers at once."
    )


class ServerSettings(BaseSettings):
    """All settings of the server."""

    from_file: ClassVar[dict[str, Any]] = {}
    model_config = SettingsConfigDict(
        env_prefix="NULLM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    checkpoint: Path | None = Field(
        default=None, description="Folder of a run or of one checkpoint; null for the newest run."
    )
    model_name: str | None = Field(
        default=None, description="What clients call the model; null for the name of its run."
    )
    adapters: dict[str, Path] = Field(default_factory=dict, description="LoRA adapters: model name to folder.")
    chat_template: str | None = Field(
        default=None, description="nullm, chatml, llama3; null finds it by the special tokens."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    threads: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="Threads that compute on the CPU; null for OMP_NUM_THREADS, or else one for each core.",
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    api_keys: dict[str, str] = Field(default_factory=dict, description="Name to hash; see new_key.py.")
    allow_public_without_keys: bool = Field(default=False, description="Serve a public address to everybody.")
    allowed_hosts: list[str] | None = Field(
        default=None,
        description="Allowed Host headers; null for this machine's names on a loopback address, otherwise any.",
    )
    cors_origins: list[str] = Field(default_factory=list, description="Other sites whose pages may call the API.")
    trusted_proxies: list[str] = Field(
        default_factory=list, description="Proxies whose X-Forwarded-For is trusted; empty for none."
    )
    drain_seconds: float = Field(default=30.0, ge=0, description="Time for running requests to finish after SIGTERM.")
    stream_interval_ms: float = Field(
        default=40.0,
        ge=0,
        le=1000,
        description="Tokens of streams that come within this time are sent together; 0 sends each at once.",
    )
    log_format: Literal["json", "console"] = "json"
    log_prompts: bool = Field(default=False, description="Write prompts into the log. They may hold private data.")

    limits: Limits = Field(default_factory=Limits)
    rate_limits: RateLimits = Field(default_factory=RateLimits)
    engine: EngineSettings = EngineSettings(max_waiting=64)

    @field_validator("api_keys")
    @classmethod
    def _hashes(cls, keys: dict[str, str]) -> dict[str, str]:
        for name, value in keys.items():
            if not KEY_HASH.fullmatch(value):
                raise ValueError(
                    f"the key {name!r} is not a hash (sha256: and 64 hexadecimal digits); "
                    "make one with: python 09_deployment/new_key.py NAME"
                )
        return keys

    @model_validator(mode="after")
    def _public_needs_keys(self) -> ServerSettings:
        if not is_loopback(self.host) and not self.api_keys and not self.allow_public_without_keys:
            raise ValueError(
                f"{self.host} can be reached from other machines and no API key is set: add one to api_keys "
                "(python 09_deployment/new_key.py NAME), or set allow_public_without_keys"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in order: command line, environment, file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls.from_file)


def load_settings(config: Path | str | None, command_line: dict[str, Any]) -> ServerSettings:
    """Read the settings.

    Args:
        config: a YAML file, or None.
        command_line: settings from the command line, nested as in the file.

    Raises:
        SettingsFileError: the file cannot be read, or a value makes no sense.
    """
    if config is not None and not Path(config).is_file():
        raise SettingsFileError(f"there is no settings file {config}")

    try:

        class FromFile(ServerSettings):
            from_file = {} if config is None else read_yaml(config)

        return FromFile(**command_line)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) + ': ' if item['loc'] else ''}{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise SettingsFileError("; ".join(problems)) from None
    except (SettingsError, TextError, TypeError) as error:
        raise SettingsFileError(" ".join(str(error).split())) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name; it is not known which address it leads to

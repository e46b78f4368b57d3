"""A log with one JSON object per line and the id of its request. Uvicorn's messages are in it too.

Prompts, answers and keys are not in it, because a log is copied to more places than anybody remembers.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from deployment.errors import LONGEST_MESSAGE, shown


def configure_logging(style: Literal["json", "console"]) -> None:
    """Send the messages of structlog and of the standard library to standard error in one form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if style == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The default writes the local variables of every frame, prompts included, and takes seconds for that.
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        rendering = [structlog.processors.format_exc_info, _without_control_characters, console]
    structlog.configure(
        processors=[*shared, *rendering],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)


def _without_control_characters(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what clients and libraries wrote: it could move the cursor of the terminal or look like another line."""

    def safe(name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        lines = value.split("\n") if name == "exception" else [value]
        return "\n".join(shown(line, LONGEST_MESSAGE) for line in lines)

    return {name: safe(name, value) for name, value in event.items()}

"""Stage 9: one line in the log for each message, and nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from deployment.structured_logging import configure_logging

HOSTILE = "/\x1b[2J\x1b[31m\r\nFORGED \u2028 \u202e \x9b"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The logging of the other tests."""
    root = logging.getLogger()
    before, handlers, level = structlog.get_config(), root.handlers, root.level
    yield
    structlog.configure(**before)
    root.handlers = handlers
    root.setLevel(level)


def written(style, capsys: pytest.CaptureFixture) -> list[str]:
    """What is logged with hostile values, by us and by a library."""
    configure_logging(style)
    structlog.get_logger().info("request", path=HOSTILE, prompts=[HOSTILE], status=404)
    logging.getLogger("library").warning("got %s", HOSTILE)
    return capsys.readouterr().err.split("\n")


@pytest.mark.parametrize("style", ["json", "console"])
def test_what_clients_send_stays_in_its_line_and_moves_no_cursor(style, capsys: pytest.CaptureFixture):
    lines = written(style, capsys)
    assert len(lines) == 3 and lines[-1] == ""
    assert all(line.isprintable() for line in lines)
    assert all("FORGED" in line for line in lines[:2])
    if style == "json":
        assert json.loads(lines[0])["path"] == HOSTILE


def test_a_traceback_keeps_its_lines_and_loses_its_escapes(capsys: pytest.CaptureFixture):
    configure_logging("console")
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError as error:
        structlog.get_logger().error("unexpected error", exc_info=error)
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) > 4 and all(line.isprintable() for line in lines)
    assert any(line.startswith("RuntimeError: ") and "x1b[2J" in line for line in lines)

"""Exercise 9.1: Server-sent events."""

from __future__ import annotations

import json
from typing import Any


def sse(data: Any, event: str | None = None) -> bytes:
    r"""One server-sent event with JSON in it, in the form in which an answer is streamed to a browser.

    An event is a few lines of text in UTF-8, and a line feed ends each line: `event: NAME` if it has a name, then
    `data: TEXT`, then an empty line, which ends the event. A line break within the text would end the data, so the JSON is
    in one line: `json.dumps(data, separators=(",", ":"))`, which writes characters beyond ASCII as `\uXXXX`.

    Args:
        data: anything that JSON can hold.
        event: name of the event, or None.

    >>> sse({"a": 1}, "token")
    b'event: token\ndata: {"a":1}\n\n'
    """
    raise NotImplementedError("Exercise 9.1: frame an event")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator

from learn.exercise import Case, Exercise, Mistake


def cases() -> Iterator[Case]:
    """Plain; named; line breaks; beyond ASCII; null; spaces in a text."""
    yield Case("an event without a name", [{"a": 1}])
    yield Case("an event with a name", [{"a": 1}, "token"])
    yield Case("a text with a line break", [{"text": "one\ntwo"}])
    yield Case("a text beyond ASCII", [{"text": "é 😀"}, "token"])
    yield Case("null, which JSON can hold", [None])
    yield Case("a text with ', ' and ': ' in it", [{"text": "a, b: c", "list": [1, 2.5, True]}])
    yield Case("a text that is the whole of the data, with quotation marks", ['"done"', "end"])


def _frame(data: Any, event: str | None, **wrong: bool) -> bytes:
    text = json.dumps(
        data, separators=(",", ":"), indent=1 if wrong.get("indented") else None, ensure_ascii="unescaped" not in wrong
    )
    if wrong.get("str"):
        text = str(data)
    if wrong.get("spaces_removed"):
        text = json.dumps(data).replace(", ", ",").replace(": ", ":")
    if wrong.get("text_as_it_is") and isinstance(data, str):
        text = data
    if wrong.get("falsy_dropped") and not data:
        text = ""
    end = "\n" if wrong.get("one_line_feed") else "\n\n"
    lines = f"data: {text}{end}"
    if event is not None and not wrong.get("no_name"):
        lines = f"data: {text}\nevent: {event}{end}" if wrong.get("name_last") else f"event: {event}\n{lines}"
    elif event is None and wrong.get("always_named"):
        lines = f"event: None\n{lines}"
    if wrong.get("carriage_returns"):
        lines = lines.replace("\n", "\r\n")
    return lines.encode()


def _not_encoded(data: Any, event: str | None = None) -> Any:
    return _frame(data, event).decode()


def _default_separators(data: Any, event: str | None = None) -> bytes:
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _mistaken(name: str) -> Callable[..., Any]:
    def sse(data: Any, event: str | None = None) -> bytes:
        return _frame(data, event, **{name: True})

    return sse


EXERCISE = Exercise(
    stub=sse,
    reference="deployment.routes.answering:sse",
    cases=cases,
    hints=(
        "Two or three lines of text, then .encode().",
        "'data: ' + the JSON + two line feeds; with a name, 'event: ' + the name + a line feed before it.",
        'head = "" if event is None else f"event: {event}\\n"; return f"{head}data: {text}\\n\\n".encode().',
    ),
    mistakes=(
        Mistake(_mistaken("one_line_feed"), "an event ends with an empty line: two line feeds"),
        Mistake(_mistaken("indented"), "the JSON must be in one line: a line break ends the data"),
        Mistake(_mistaken("str"), "str() of a dictionary is not JSON: use json.dumps"),
        Mistake(_mistaken("always_named"), "without a name there is no `event` line"),
        Mistake(_mistaken("no_name"), "the name of the event is missing"),
        Mistake(
            _mistaken("unescaped"),
            "the package writes characters beyond ASCII as \\uXXXX, as json.dumps does by default",
        ),
        Mistake(_not_encoded, "an event is sent as bytes: encode() the text"),
        Mistake(
            _default_separators, "without separators=(',', ':') json.dumps writes spaces, which every token would carry"
        ),
        Mistake(
            _mistaken("spaces_removed"), "replace() also removes spaces within texts: give json.dumps the separators"
        ),
        Mistake(_mistaken("falsy_dropped"), "null, 0 and empty texts are data as well"),
        Mistake(
            _mistaken("text_as_it_is"), "a text is JSON with quotation marks around it: json.dumps takes every kind"
        ),
        Mistake(_mistaken("carriage_returns"), "a line feed alone ends each line here"),
        Mistake(_mistaken("name_last"), "the package writes the name first, before the data"),
    ),
)

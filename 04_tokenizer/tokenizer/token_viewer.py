"""Text with its tokens in colour, for the terminal and as an HTML page."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from tokenizer.interface import Tokenizer

# Background colours that alternate; dark text is readable on all of them. The terminal gets named colours,
# which every terminal has and shows in its own theme.
_TERMINAL_COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "white")
_COLOURS = ("#cfe8ff", "#ffe3c2", "#d6f5d0", "#f6d5f0", "#fff3b0", "#d8dcf7")


@dataclass(frozen=True)
class ShownToken:
    """One token of a text.

    Args:
        id: its id.
        text: what to show for it: its text, with visible signs such as ␣ for a space. Bytes that are only a
            part of a character are shown as ⟨e6⟩.
        ends_line: whether the token holds a line end.
    """

    id: int
    text: str
    ends_line: bool


def show_tokens(
    tokenizer: Tokenizer, text: str, allowed_special: Literal["all"] | Collection[str] = ()
) -> Iterator[ShownToken]:
    """The tokens of a text, made visible."""
    for index in tokenizer.encode(text, allowed_special):
        data = tokenizer.decode_bytes([index])
        try:
            shown = data.decode("utf-8")
        except UnicodeDecodeError:
            shown = "".join(f"⟨{byte:02x}⟩" if byte >= 0x80 else chr(byte) for byte in data)
        visible = shown.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
        yield ShownToken(index, "".join(c if c.isprintable() else f"⟨{ord(c):x}⟩" for c in visible), "\n" in shown)


def to_terminal(tokens: Collection[ShownToken], with_ids: bool = False) -> Text:
    """The tokens side by side in alternating colours, for `rich` to print."""
    result = Text()
    for place, token in enumerate(tokens):
        result.append(token.text, style=f"black on {_TERMINAL_COLOURS[place % len(_TERMINAL_COLOURS)]}")
        if with_ids:
            result.append(f"{token.id} ", style="dim")
        if token.ends_line:
            result.append("\n")
    return result


def to_html(tokens: Collection[ShownToken], title: str = "Tokens") -> str:
    """A page that needs no other file; pointing at a token shows its id."""
    spans = []
    for place, token in enumerate(tokens):
        colour = _COLOURS[place % len(_COLOURS)]
        spans.append(f'<span title="id {token.id}" style="background:{colour}">{html.escape(token.text)}</span>')
        if token.ends_line:
            spans.append("<br>")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        "<style>body{font:16px/1.8 ui-monospace,monospace;color:#111;background:#fff;max-width:60em;margin:2em auto;"
        "padding:0 1em}span{border-radius:3px;padding:1px 0;overflow-wrap:anywhere}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n<p>{len(tokens)} tokens</p>\n<p>{''.join(spans)}</p>\n</body></html>\n"
    )

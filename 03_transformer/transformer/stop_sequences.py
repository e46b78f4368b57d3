"""Stop at a string, even if it is spread over several tokens.

A stop string may begin in one token and end in another, and text that was streamed cannot be taken back.
So when the end of the text could be the beginning of a stop string, it is held back until this is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundwork.user_errors import require_texts


class StopSequences:
    """Passes text on until one of the strings occurs. The string itself is not passed on.

    >>> stop = StopSequences(["\\nUser:"])
    >>> stop.push("Hello.\\nUs"), stop.push("age\\nUse"), stop.push("r: hi")
    ('Hello.', '\\nUsage', '')
    >>> stop.stopped
    True

    Args:
        strings: where to stop; none may be empty.

    Raises:
        ValueError: a string is empty, or `strings` is one string instead of a list.
    """

    def __init__(self, strings: Sequence[str]):
        require_texts(strings)
        if any(not string for string in strings):
            raise ValueError("a stop string must not be empty: it would stop before the first character")
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece of text, and return the text that is certainly not part of a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [position for string in self._strings if (position := text.find(string)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; call this when the text has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a beginning of `string`, without `string` as a whole."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0

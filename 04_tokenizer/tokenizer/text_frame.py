"""What stands around every text of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextFrame:
    """Ids around a text.

    Args:
        before: ids that a text begins with, such as Llama's begin token, or `[CLS]` of BERT.
        after: ids that it ends with, such as `[SEP]` of BERT.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

"""What is put around a text: the begin token of Llama, the `[CLS]` and `[SEP]` of BERT."""

from __future__ import annotations

from typing import Any

from tokenizer.interface import TokenizerError
from tokenizer.pipeline.added_tokens import check_id
from tokenizer.text_frame import TextFrame


def read_frame(step: dict[str, Any] | None) -> TextFrame:
    """The ids that a post-processor of `tokenizer.json` puts around one text.

    Raises:
        TokenizerError: it is of a kind that is not supported.
    """
    if step is None or step["type"] == "ByteLevel":
        return TextFrame()
    kind = step["type"]
    if kind == "Sequence":
        frame = TextFrame()
        for part in map(read_frame, step["processors"]):
            frame = TextFrame(part.before + frame.before, frame.after + part.after)
        return frame
    if kind == "TemplateProcessing":
        return _read_template(step["single"], step["special_tokens"])
    if kind in ("BertProcessing", "RobertaProcessing"):
        return TextFrame((check_id(*step["cls"]),), (check_id(*step["sep"]),))
    raise TokenizerError(f"its post-processor {kind} is not supported")


def _read_template(parts: list[dict[str, Any]], special_tokens: dict[str, Any]) -> TextFrame:
    around: list[list[int]] = [[]]
    for part in parts:
        if "Sequence" in part:
            around.append([])
        else:
            name = part["SpecialToken"]["id"]
            around[-1] += [check_id(name, index) for index in special_tokens[name]["ids"]]
    if len(around) != 2:
        raise TokenizerError(f"its template has the text {len(around) - 1} times; once is supported")
    return TextFrame(tuple(around[0]), tuple(around[1]))

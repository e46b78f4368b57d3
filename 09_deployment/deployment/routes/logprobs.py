"""Probabilities of tokens, in the three forms that the routes return."""

from __future__ import annotations

from collections.abc import Sequence

from deployment.served_model import ServedModel
from optimization.engine.events import TokenEvent, TokenLogprobs
from tokenizer.streaming import StreamingDecoder


class CompletionLogprobsWriter:
    """The form of `/v1/completions`: a list for each quantity, and where each token begins in the text.

    Args:
        model: gives the tokens' texts.
        num_top: alternatives for each token.
    """

    def __init__(self, model: ServedModel, num_top: int):
        self._model, self._num_top = model, num_top
        self._decoder = StreamingDecoder(model.tokenizer)
        self._offset = 0

    def prompt(self, ids: Sequence[int], reports: Sequence[TokenLogprobs], added: int) -> dict[str, list]:
        """The tokens of the prompt. The first has no probability, because nothing comes before it.

        Args:
            ids: the ids of the prompt.
            reports: the reports on its tokens, from the second one on.
            added: how many tokens at its beginning the client did not write.
        """
        return self._write(list(zip(ids, [None, *reports], strict=True)), added)

    def text(self, events: Sequence[TokenEvent]) -> dict[str, list]:
        """The generated tokens."""
        return self._write([(event.token, event.logprobs) for event in events if event.token is not None])

    def _write(self, tokens: Sequence[tuple[int, TokenLogprobs | None]], added: int = 0) -> dict[str, list]:
        out: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for place, (token, report) in enumerate(tokens):
            out["tokens"].append(self._model.token_text(token))
            out["token_logprobs"].append(None if report is None else report.logprob)
            top: dict[str, float] | None = None
            if report is not None:
                top = {}
                # Two ids may have the same text. The likelier one comes first and is kept.
                for other, logprob in [*report.top[: self._num_top], (token, report.logprob)]:
                    top.setdefault(self._model.token_text(other), logprob)
            out["top_logprobs"].append(top)
            out["text_offset"].append(self._offset)
            if place >= added:
                self._offset += len(self._decoder.decode([token]))
        return out


def chat_logprobs(model: ServedModel, events: Sequence[TokenEvent]) -> dict[str, list | None]:
    """The form of `/v1/chat/completions`: an object for each token."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        return {"token": model.token_text(token), "logprob": logprob, "bytes": list(model.token_bytes(token))}

    content = [
        {
            **entry(event.token, event.logprobs.logprob),
            "top_logprobs": [entry(other, logprob) for other, logprob in event.logprobs.top],
        }
        for event in events
        if event.token is not None and event.logprobs is not None
    ]
    return {"content": content, "refusal": None}


def token_report(model: ServedModel, event: TokenEvent) -> dict[str, object]:
    """This server's own form: ids with their texts, and the entropy, as the chat page shows them."""
    report = event.logprobs
    out: dict[str, object] = {"id": event.token, "text": event.text}
    if report is not None:
        out["logprob"] = round(report.logprob, 5)
        out["entropy"] = round(max(0.0, report.entropy), 5)
        out["top"] = [
            {"id": other, "text": model.token_text(other), "logprob": round(logprob, 5)}
            for other, logprob in report.top
        ]
    return out

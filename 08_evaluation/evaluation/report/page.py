"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from evaluation.analysis.loss_analysis import Group
from evaluation.report import figures as report_figures
from evaluation.report.data import ReportData, WrittenDocument

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; } td, th { padding: .25rem .8rem; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid #e4e4e4; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 14rem; background: #f6f6f6; padding: .8rem; border-radius: 4px; margin: .5rem 0; }
img { max-width: 100%; background: #fff; } .note { color: #666; } .prompt { color: #777; } .bad { color: #b00020; } mark { background: #ffe08a; }
nav a { margin-right: 1rem; }
@media (prefers-color-scheme: dark) {
  body { background: #17191b; color: #ddd; } pre { background: #24272a; } a { color: #7ab7ff; } .bad { color: #ff8a8a; }
  h2, tr + tr { border-color: #3a3d40; } .note, .prompt { color: #999; } mark { background: #6b5500; color: #fff; }
}
"""


def render(data: ReportData) -> str:
    """The page."""
    sections = {
        "Figures": _figures(data),
        "Where the bits go": _bits(data),
        "Hardest stretches": _worst(data),
        "What it writes": _written(data),
        "Embeddings": _embeddings(data),
        "Attention": _attention(data),
    }
    links = "".join(f'<a href="#s{i}">{escape(name)}</a>' for i, name in enumerate(sections))
    body = "".join(f'<h2 id="s{i}">{escape(name)}</h2>{text}' for i, (name, text) in enumerate(sections.items()))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(data.title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(data.title)}</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def _figures(data: ReportData) -> str:
    scores, interval = data.scores, data.bits_per_byte
    rows = [
        ("parameters", f"{data.parameters:,}"),
        ("text", f"{data.documents:,} held-out documents of {data.corpus}, {scores.num_bytes:,} bytes"),
        (
            "bits per byte",
            f"{interval.estimate:.3f} (95 % interval over documents {interval.low:.3f} – {interval.high:.3f})",
        ),
        ("xz -9 on the same text", f"{data.xz:.3f}"),
        ("perplexity of a token", f"{scores.perplexity:.2f}"),
        ("accuracy of a token", f"{scores.accuracy:.1%}"),
        ("calibration error (ECE)", f"{data.calibration.expected_error:.3f}"),
    ]
    return _table(("", ""), rows) + _image(
        report_figures.reliability(data.calibration),
        "Each bar holds tokens with about the same confidence. On the line, the model is right as often as it says.",
    )


def _bits(data: ReportData) -> str:
    parts = [
        _image(
            report_figures.losses(data.scores.nats), "Most tokens cost little; a few expensive ones set the average."
        ),
        "<h3>By tokens of context</h3>",
        _image(report_figures.bars(data.by_context, "bits a token"), "What more context is worth."),
        "<h3>By kind of token</h3>",
        _group_table(data.by_kind),
        "<h3>By occurrences in the training text</h3>",
        _image(report_figures.bars(data.by_frequency, "bits a token"), "Rare tokens are expensive and few."),
    ]
    return "".join(parts)


def _group_table(groups: Sequence[Group]) -> str:
    rows = [(g.name, f"{g.tokens:,}", f"{g.bits:.2f}", f"{g.share_of_bits:.1%}", f"{g.accuracy:.1%}") for g in groups]
    return _table(("", "tokens", "bits a token", "of all bits", "accuracy"), rows)


def _worst(data: ReportData) -> str:
    rows = "".join(
        f'<tr><td class="number">{span.bits:.0f}</td><td><pre><span class="prompt">{escape(span.before[-80:])}</span>'
        f"<mark>{escape(span.text)}</mark></pre></td><td><code>{escape(repr(span.expected))}</code></td></tr>"
        for span in data.worst
    )
    head = '<tr><th class="number">bits</th><th>text</th><th>expected instead, at the hardest token</th></tr>'
    return f"<table>{head}{rows}</table>"


def _written(data: ReportData) -> str:
    rates = _table(("failure", "share of texts"), [(name, f"{rate:.0%}") for name, rate in data.rates.items()])
    diversity = ", ".join(f"{name} {value:.2f}" for name, value in data.diversity.items())
    note = (
        f"<p>{len(data.written)} texts, temperature 0.8, top-p 0.95. Four texts from one prompt: {diversity}. "
        f"Longest stretch copied from the training text: {max(d.match.num_bytes for d in data.written)} bytes.</p>"
    )
    return rates + note + "".join(_document(document) for document in data.written)


def _document(document: WrittenDocument) -> str:
    problems = "".join(f'<li class="bad">{escape(f.category)}: {escape(f.detail)}</li>' for f in document.failures)
    text = escape(document.generated.text)
    copied = escape(document.match.text)
    if document.match.num_bytes and copied in text:
        text = text.replace(copied, f"<mark>{copied}</mark>", 1)
    return (
        f'<pre><span class="prompt">{escape(document.prompt)}</span>{text}</pre>'
        f'<p class="note">Marked: its longest match in the training text, {document.match.num_bytes} bytes; '
        f"{document.match.coverage:.0%} of the text lies in matches of 50 bytes or more.</p><ul>{problems}</ul>"
    )


def _embeddings(data: ReportData) -> str:
    rows = [
        (repr(text), ", ".join(f"{other!r} {cosine:.2f}" for other, cosine in neighbours))
        for text, neighbours in data.neighbours.items()
    ]
    table = _table(("token", "nearest, with the cosine"), rows) if rows else ""
    return table + _image(
        report_figures.embedding_map(data), "Tokens that are used in similar ways lie near each other."
    )


def _attention(data: ReportData) -> str:
    tokens = escape(" | ".join(data.attention_tokens))
    caption = "Each row looks at the columns; brighter means more weight."
    return f'<p class="note">{tokens}</p>' + _image(report_figures.attention(data), caption)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th{_number(i)}>{escape(cell)}</th>" for i, cell in enumerate(head)) if any(head) else ""
    body = "".join(
        "<tr>" + "".join(f"<td{_number(i)}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><tr>{header}</tr>{body}</table>" if header else f"<table>{body}</table>"


def _number(column: int) -> str:
    return ' class="number"' if column > 1 else ""


def _image(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<p><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}"><br>{_note(caption)}</p>'


def _note(text: str) -> str:
    return f'<span class="note">{escape(text)}</span>'

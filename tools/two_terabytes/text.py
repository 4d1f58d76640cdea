"""Markdown: paragraphs, tables, numbers."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill

from motley.predict.predict import Prediction


def prose(text: str, bullet: bool = False) -> Iterator[str]:
    """A paragraph, or an item of a list, in lines of the page's width; an empty line after a paragraph."""
    indent = "  " if bullet else ""
    wide = fill(text, 118, initial_indent="- " if bullet else "", subsequent_indent=indent, break_on_hyphens=False)
    yield from wide.splitlines()
    if not bullet:
        yield ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def interval(p: Prediction) -> str:
    return f"{number(p.p50)} ({number(p.p10)} to {number(p.p90)})"


def number(value: float) -> str:
    """Three digits, never with an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def percent(gain: float) -> str:
    return "0 %" if abs(gain) < 0.005 else f"{100 * gain:+.0f} %"

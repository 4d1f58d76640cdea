"""An answer's text, as it comes, into what the API tells apart: content, reasoning, tool calls. Nothing is lost: what
turns out to be no call is content."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from motley.serve.text import overlap
from motley.serve.tools.call import Call, Tools, call
from motley.serve.tools.dialects import Dialect, Thinking


@dataclass(frozen=True)
class Said:
    text: str
    reasoning: bool = False


Part = Said | Call


class Reader(Protocol):
    def push(self, text: str) -> list[Part]:
        """What is sure by now."""
        ...

    def end(self) -> list[Part]:
        """The rest, when nothing comes any more."""
        ...


class Plain:
    def push(self, text: str) -> list[Part]:
        return [Said(text)] if text else []

    def end(self) -> list[Part]:
        return []


class Marked:
    """Reasoning and calls between marks. `inside`: the prompt began the reasoning already."""

    def __init__(self, dialect: Dialect | None, thinking: Thinking | None, tools: Tools, inside: bool = False) -> None:
        self._dialect, self._thinking, self._tools = dialect, thinking, tools
        self._state = "reasoning" if inside else "content"
        self._text = ""  # not yet sorted
        self._fresh = inside  # a mark came last: white space is layout
        self._said = False  # any content or call
        self._space = ""

    def push(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while self._advance(parts):
            pass
        return parts

    def end(self) -> list[Part]:
        parts: list[Part] = []
        if self._state == "call":
            self._call(parts, self._text, "")
        else:
            self._say(parts, self._text)
            if self._space and self._state == "content":
                parts.append(Said(self._space))
        self._text = self._space = ""
        return parts

    def _advance(self, parts: list[Part]) -> bool:
        """One mark further; False where more text is needed."""
        if self._state == "call":
            assert self._dialect is not None
            body, close, rest = self._text.partition(self._dialect.close) if self._dialect.close else ("", "", "")
            if close:
                self._text = rest
                self._call(parts, body, close)
            return bool(close)
        marks = self._marks()
        found = [(at, mark) for mark in marks if (at := self._text.find(mark)) >= 0 and self._counts(mark, at)]
        if not found:
            keep = len(self._text) - max((overlap(self._text, mark) for mark in marks), default=0)
            if self._dialect and self._dialect.bare and not self._said and not self._text[:keep].strip():
                keep = 0
            self._say(parts, self._text[:keep])
            self._text = self._text[keep:]
            return False
        at, mark = min(found)
        self._say(parts, self._text[:at])
        self._text = self._text[at + len(mark) :]
        self._enter(mark)
        return True

    def _marks(self) -> list[str]:
        """That end the present state."""
        if self._state == "reasoning":
            assert self._thinking is not None
            return [self._thinking.close]
        marks = [self._thinking.open] if self._thinking and not self._said else []
        if self._dialect and self._tools and not (self._dialect.bare and (self._said or self._bare_is_over())):
            marks.append(self._dialect.open)
        return marks

    def _counts(self, mark: str, at: int) -> bool:
        """Reasoning comes before anything else."""
        return self._thinking is None or mark != self._thinking.open or not self._text[:at].strip()

    def _bare_is_over(self) -> bool:
        """Whether the answer began with something else than a call."""
        assert self._dialect is not None
        start = self._text.lstrip()
        return bool(start) and not start.startswith((self._dialect.open, "<|"))

    def _enter(self, mark: str) -> None:
        self._fresh, self._space = True, ""
        if self._thinking and mark == self._thinking.open:
            self._state = "reasoning"
        elif self._thinking and mark == self._thinking.close:
            self._state = "content"
        else:
            assert self._dialect is not None
            self._state = "call"
            self._text = mark + self._text if self._dialect.bare else self._text

    def _say(self, parts: list[Part], text: str) -> None:
        """White space at the end waits: before a mark it is layout, too."""
        if self._fresh:
            text = text.lstrip()
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if not kept:
            return
        self._fresh = False
        self._said = self._said or self._state == "content"
        parts.append(Said(kept, self._state == "reasoning"))

    def _call(self, parts: list[Part], body: str, close: str) -> None:
        assert self._dialect is not None
        self._state, self._fresh, self._said = "content", True, True
        try:
            found = self._dialect.read(body, self._tools)
        except (ValueError, RecursionError):
            found = []
        parts += found
        if not found:
            opened = "" if self._dialect.bare else self._dialect.open
            parts.append(Said(opened + body + close))
            self._fresh = False


class Harmony:
    """gpt-oss: messages, each with a channel. `analysis` is reasoning; a message to `functions.NAME` is a call where
    there are tools; the rest is content. The prompt ends in `<|start|>assistant`, so an answer begins within a
    header."""

    MARKS = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|constrain|>")

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._text, self._header, self._body = "", "", ""
        self._in_body = False

    def push(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while found := [(at, mark) for mark in self.MARKS if (at := self._text.find(mark)) >= 0]:
            at, mark = min(found)
            self._take(parts, self._text[:at])
            self._text = self._text[at + len(mark) :]
            self._turn(parts, mark)
        keep = len(self._text) - max(overlap(self._text, mark) for mark in self.MARKS)
        self._take(parts, self._text[:keep])
        self._text = self._text[keep:]
        return parts

    def end(self) -> list[Part]:
        parts: list[Part] = []
        self._take(parts, self._text)
        self._text = ""
        self._turn(parts, "<|end|>")
        return parts

    @property
    def _recipient(self) -> str:
        match = re.search(r"to=functions\.([^\s<]+)", self._header)
        return match[1] if match and self._tools else ""

    def _take(self, parts: list[Part], text: str) -> None:
        if not self._in_body:
            self._header += text
        elif self._recipient:
            self._body += text
        elif text:
            parts.append(Said(text, "<|channel|>analysis" in self._header))

    def _turn(self, parts: list[Part], mark: str) -> None:
        if mark == "<|message|>":
            self._in_body = True
        elif mark in ("<|channel|>", "<|constrain|>"):
            self._header += mark
        else:
            if self._recipient and self._in_body:
                try:
                    parts.append(call(self._recipient, self._body))
                except (ValueError, RecursionError):
                    parts.append(Said(self._body))
            self._header, self._body, self._in_body = "", "", False


def content_of(parts: Sequence[Part]) -> tuple[str, str, list[Call]]:
    """Content, reasoning, calls."""
    said = [part for part in parts if isinstance(part, Said)]
    content = "".join(part.text for part in said if not part.reasoning)
    reasoning = "".join(part.text for part in said if part.reasoning)
    return content, reasoning, [part for part in parts if isinstance(part, Call)]

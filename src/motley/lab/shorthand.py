"""Shorthand: a lab in one line, from the catalogues.

    rtx-pro-6000 + 3x m3-ultra-512 @10gbe
    rtx-pro-6000 + (3x m3-ultra-512 @tb5-rdma) @10gbe      an island with a link of its own
    2x rtx-3090 & epyc-9354-512                            one machine: its devices, joined by the cards' PCIe
    m3-ultra-512 & rtx-pro-6000 via tb5-egpu               `via` names that link, where it is another
    pi5 @wifi + 2x m4-max-64 @10gbe                        an earlier term's link: its own, to all others

    sum     := term { "+" term }              the last term's link joins every machine of the sum
    term    := [ N "x" ] part [ "@" LINK ]
    part    := machine | "(" sum ")"
    machine := [ N "x" ] DEVICE { "&" [ N "x" ] DEVICE } [ "via" LINK ]

DEVICE and LINK are all words up to the next of these signs: `RTX 4090 24GB`, `25GbE TCP`; `8xh200` is `8x h200`.
Owns the text and the names that devices get (`m3-ultra-512-1`, ...). Which link joins what is `wiring`'s matter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from motley.errors import UsageError
from motley.lab.hardware import Hardware, hardware, memory_sizes
from motley.lab.lab import MOST_DEVICES
from motley.lab.links import LinkKind, link_kind
from motley.lab.wiring import Assembly, Box, wired

_TOKEN = re.compile(r"\s*(?:([+&@()])|(\d+)\s*[x×](?=[\s(])|([^\s+&@()]+))")
_COUNTED = re.compile(r"(-?\d[\d.,e]*)[x×](.*)")  # a count without a space behind it, or what is none
_EXAMPLE = "write for example 'rtx-pro-6000 + 3x m3-ultra-512 @10gbe'"


@dataclass(frozen=True)
class _Machine:
    devices: tuple[Hardware, ...]
    via: LinkKind | None


@dataclass(frozen=True)
class _Sum:
    terms: "tuple[_Term, ...]"
    link: LinkKind | None  # between machines of different terms, and of one term with several


@dataclass(frozen=True)
class _Term:
    part: _Machine | _Sum
    count: int
    link: LinkKind | None  # its own, to all others


def assemble(text: str, engine: str = "motley") -> Assembly:
    """The lab that `text` describes, and what had to be said about it. Raises UsageError that shows the place."""
    return wired(parse(text)[0], engine)


def parse(text: str) -> tuple[list[Box], LinkKind | None]:
    """Its machines, and the link that the sum ends with."""
    found = _Parser(text).sum()
    if (n := _size(found)) > MOST_DEVICES:
        raise UsageError(f"the lab has {n:,} devices: it takes up to {MOST_DEVICES:,}")
    return _boxes(found, ()), found.link


class _Parser:
    """Recursive descent over the tokens; one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens = _tokens(text)

    def sum(self, closing: bool = False) -> _Sum:
        terms = [self.term()]
        while self.take("+"):
            terms.append(self.term())
        if closing and not self.take(")"):
            raise self.error("a parenthesis is not closed")
        if not closing and self.at < len(self.tokens):
            raise self.error(f"{self.tokens[self.at][1]!r} is not expected here")
        *rest, last = terms
        return _Sum((*rest, replace(last, link=None)), last.link)

    def term(self) -> _Term:
        count = self.count()
        if self.take("("):
            part: _Machine | _Sum = self.sum(closing=True)
        else:
            part, count = self.machine(count)
        return _Term(part, count, link_kind(self.words("a link")) if self.take("@") else None)

    def machine(self, count: int) -> tuple[_Machine, int]:
        """And how many of it: `3x a` are three machines, `3x a & b` is one with four devices."""
        first, more = _device(self.words("a device")), []
        while self.take("&"):
            n = self.count()
            more += [_device(self.words("a device"))] * n
        via = link_kind(self.words("a link")) if self.take_word("via") else None
        if via is not None and via.within != "machine":
            raise UsageError(f"{self.text!r}: via names a link inside a machine (pcie4x8, nvlink4), not {via.key}")
        if more or via:
            return _Machine((first,) * count + tuple(more), via), 1
        return _Machine((first,), None), count

    def count(self) -> int:
        kind, word = self.next()
        if kind == "word" and (match := _COUNTED.fullmatch(word)) and not self.known():
            word, rest = match.groups()
            if rest and word.isdecimal() and not _is_count(word):
                return 1  # a name: `7900xtz`
            self.tokens[self.at : self.at + 1] = [("count", word), *([("word", rest)] if rest else [])]
        elif kind != "count":
            return 1
        if not _is_count(word):
            raise self.error(f"a count is a whole number from 1 to {MOST_DEVICES:,}, not {word[:20]}")
        self.at += 1
        return int(word)

    def known(self) -> bool:
        """Whether a device is called as the words that come."""
        try:
            hardware(self.phrase()[0])
        except UsageError:
            return False
        return True

    def phrase(self) -> tuple[str, int]:
        """The words up to the next sign or `via`, and where they end."""
        end = self.at
        while end < len(self.tokens) and self.tokens[end][0] == "word" and self.tokens[end][1] != "via":
            end += 1
        return " ".join(word for _, word in self.tokens[self.at : end]), end

    def words(self, what: str) -> str:
        words, end = self.phrase()
        if not words:
            raise self.error(f"{what} is missing")
        self.at = end
        return words

    def take(self, mark: str) -> bool:
        return self._took(("mark", mark))

    def take_word(self, word: str) -> bool:
        return self._took(("word", word))

    def _took(self, token: tuple[str, str]) -> bool:
        found = self.next() == token
        self.at += found
        return found

    def next(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def error(self, what: str) -> UsageError:
        before = " ".join(f"{word}x" if kind == "count" else word for kind, word in self.tokens[: self.at])
        place = f" after {before!r}" if before else ""
        return UsageError(f"the lab {self.text!r}: {what}{place}; {_EXAMPLE}")


def _device(words: str) -> Hardware:
    """Raises UsageError for a memory size that it is not sold with, too: hardware() would take the usual one."""
    found = hardware(words)
    said = re.search(r"(\d+(?:\.\d+)?)\s*gi?b\b", words, re.IGNORECASE)
    if said and abs(float(said[1]) - found.memory_gb) > 0.05 * found.memory_gb:
        sizes = " or ".join(f"{size:g}" for size in memory_sizes(found.model))
        raise UsageError(f"{words!r}: {found.model} is sold with {sizes} GB")
    return found


def _is_count(word: str) -> bool:
    return word.isdecimal() and len(word) < 10 and 1 <= int(word) <= MOST_DEVICES


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text): kind is "mark", "count" or "word"."""
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UsageError(f"the lab {text!r}: {text[at:]!r} can't be read; {_EXAMPLE}")
        mark, count, word = match.groups()
        found.append(("mark", mark) if mark else ("count", count) if count else ("word", word))
        at = match.end()
    if not found:
        raise UsageError(f"the lab is empty: {_EXAMPLE}")
    return found


def _size(node: _Sum) -> int:
    """Devices, before any is made."""
    parts = [len(t.part.devices) if isinstance(t.part, _Machine) else _size(t.part) for t in node.terms]
    return sum(term.count * n for term, n in zip(node.terms, parts))


def _boxes(node: _Sum, around: Sequence[tuple[int, LinkKind | None, LinkKind | None]]) -> list[Box]:
    """Every machine with the sums around it, outermost first: (which of its terms, the term's link, the sum's)."""
    found: list[Box] = []
    for term in node.terms:
        for _ in range(term.count):
            place = (*around, (len(found) + 1, term.link, node.link))
            if isinstance(term.part, _Machine):
                found.append(Box(term.part.devices, term.part.via, place))
            else:
                found += _boxes(term.part, place)
    return found

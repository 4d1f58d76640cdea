"""From tokens to the text that a client may see: characters that are whole, and nothing of a stop string."""

from collections.abc import Sequence


class Stops:
    """Ends a text before the first of several strings, wherever the pieces that it comes in are cut. The first is the
    one that is complete first; of those complete at the same character, the longest."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = ""  # the string that ended the text

    def push(self, piece: str) -> str:
        """What of the text so far is sure not to be a stop string's. Nothing more once one is found."""
        if self.found or not piece:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        keep = len(text) - max(overlap(text, stop) for stop in self._stops)
        self._held = text[keep:]
        return text[:keep]

    def end(self) -> str:
        """What was held back, when nothing comes any more."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    for n in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0

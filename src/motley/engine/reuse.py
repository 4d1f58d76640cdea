"""From where a slot's sequence can be taken up again, and which slot a new prompt takes. Pure bookkeeping over tokens.

A slot keeps what was computed after its sequence ended. A prompt that begins like that sequence goes on behind what
the two share: the same arithmetic as in one go, because a token's bits don't depend on the chunks. How far back a
slot may be taken up differs by what its layers keep:

- attention over everything: anywhere;
- over a window: as long as the positions are there that the next token attends to. Nothing was left behind up to
  `window` + `rewind` positions; later on, the last `rewind` may be computed anew;
- a recurrent state: only where it stands.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from motley.shape.mixer import Mixer


@dataclass(frozen=True)
class Reuse:
    """`window`: of the layers that forget, the shortest's (0: none forgets). `rewind`: what the devices keep beside it
    (`Ops.rewind`). `recurrent`: a layer keeps a state."""

    window: int = 0
    rewind: int = 0
    recurrent: bool = False

    @classmethod
    def of(cls, mixers: Iterable[Mixer], rewind: int) -> Self:
        """Of layers on one device."""
        layers = list(mixers)
        windows = [mixer.window for mixer in layers if mixer.window]
        return cls(min(windows, default=0), rewind, any(mixer.state for mixer in layers))

    def beside(self, other: "Reuse") -> "Reuse":
        """Of this device's layers and another's."""
        windows = [r for r in (self, other) if r.window]
        return Reuse(
            min((r.window for r in windows), default=0),
            min((r.rewind for r in windows), default=0),
            self.recurrent or other.recurrent,
        )

    def start(self, shared: int, held: int, written: int) -> int:
        """The position to go on from: `shared`, or 0. Of the `held` tokens that a slot has computed, the first `shared`
        are the new sequence's; `written`: the most positions it had since it began at 0, at least `held`."""
        if self.recurrent and not shared == held == written:
            return 0
        there = not self.window or written <= self.window + self.rewind or shared >= written - self.rewind
        return shared if there else 0


class Slots:
    """A runner's slots, free ones and what they hold. A prompt takes the one that has most of its beginning, where that
    is half of what the slot holds or more; otherwise, and of those that are alike, the one left longest ago."""

    def __init__(self, n: int) -> None:
        self._free = list(range(n))  # the one that was left last at the end
        self._held: list[list[int]] = [[] for _ in range(n)]
        self._written = [0] * n

    @property
    def any_free(self) -> bool:
        return bool(self._free)

    def take(self, prompt: Sequence[int], reuse: Reuse) -> tuple[int, int]:
        """A free slot for the prompt, and how many of its first tokens are computed there: never all of them, since
        logits come from computing the last."""
        starts = [self._start(slot, prompt, reuse) for slot in self._free]
        best = max(range(len(starts)), key=lambda i: starts[i])
        if 2 * starts[best] < len(self._held[self._free[best]]):
            best = 0  # it would lose more than it saves: the one left longest ago
        slot, start = self._free.pop(best), starts[best]
        if not start:
            self._written[slot] = 0
        self._held[slot] = []
        return slot, start

    def will_write(self, slot: int, end: int) -> None:
        """A step is about to store positions before `end`, whether it succeeds or not."""
        self._written[slot] = max(self._written[slot], end)

    def leave(self, slot: int, computed: list[int]) -> None:
        """The slot is free; it keeps the tokens that were computed."""
        self._held[slot] = computed
        self._free.append(slot)

    def forget(self) -> None:
        """Nothing of what was computed is there any more."""
        self._held = [[] for _ in self._held]
        self._written = [0] * len(self._written)

    def _start(self, slot: int, prompt: Sequence[int], reuse: Reuse) -> int:
        held = self._held[slot]
        most = min(len(held), len(prompt) - 1)
        shared = next((i for i in range(most) if held[i] != prompt[i]), most)
        return reuse.start(shared, len(held), self._written[slot])

"""Choice: which holder computes an expert that has copies. One rule, for the engine (one step) and the cost model (many
cases at once).

Experts with one holder are given first. The others follow in the order of their ids, each to the holder that would be
done first with it: what it waits before it can start, what it has to do already, and this one. In doubt the earlier
holder, and the home is the first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from motley.lab.placement import LayerPlacement


@dataclass(frozen=True, eq=False)
class Choice:
    """Of one layer, H holders. `held` bool [H, E]; every expert has a holder. The times are a Pace's."""

    held: NDArray[np.bool_]
    start: NDArray[np.float64]  # [H]
    each: NDArray[np.float64]  # [H]
    more: NDArray[np.float64]  # [H]

    @classmethod
    def of(cls, layer: LayerPlacement) -> Self:
        """Holders in the order of the layer's paces."""
        place = {pace.device: h for h, pace in enumerate(layer.paces)}
        held = np.zeros((len(place), len(layer.experts)), bool)
        for expert, device in [*enumerate(layer.experts), *layer.copies]:
            held[place[device], expert] = True
        return cls.paced(held, [(p.start_us, p.expert_us, p.token_us) for p in layer.paces])

    @classmethod
    def paced(cls, held: NDArray[np.bool_], paces: Sequence[tuple[float, float, float]]) -> Self:
        start, each, more = (np.array(column, np.float64) for column in zip(*paces))
        return cls(held, start, each, more)

    @cached_property
    def key(self) -> bytes:
        return b"".join(a.tobytes() for a in (self.held, self.start, self.each, self.more))

    @cached_property
    def _holders(self) -> list[list[int]]:
        """Of each expert."""
        return [np.flatnonzero(column).tolist() for column in self.held.T]

    def of_step(self, times: Iterable[tuple[int, int]]) -> dict[int, int]:
        """`times`: (expert, tokens that chose it), ascending. -> expert: holder."""
        done, each, more = self.start.tolist(), self.each.tolist(), self.more.tolist()
        chosen: dict[int, int] = {}
        several: list[tuple[int, int, list[int]]] = []
        for expert, n in times:
            holders = self._holders[expert]
            if len(holders) == 1:
                chosen[expert] = holders[0]
                done[holders[0]] += each[holders[0]] + (n - 1) * more[holders[0]]
            else:
                several.append((expert, n, holders))
        for expert, n, holders in several:
            ends = [done[h] + each[h] + (n - 1) * more[h] for h in holders]
            best = holders[ends.index(min(ends))]
            chosen[expert] = best
            done[best] = min(ends)
        return chosen

    def of_cases(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """`times` [S, E]: how many tokens chose each expert in each case. -> [S, E] holder."""
        alone = self.held.sum(0) == 1
        owner = np.broadcast_to(self.held.argmax(0), times.shape).copy()
        further = np.maximum(times - 1, 0)
        mine = self.held[:, alone].T
        done = (
            self.start
            + ((times > 0)[:, alone] @ mine.astype(float)) * self.each
            + (further[:, alone] @ mine) * self.more
        )
        rows = np.arange(len(times))
        for expert in np.flatnonzero(~alone).tolist():
            takes = self.each + further[:, expert, None] * self.more
            ends = np.where(self.held[:, expert], done + takes, np.inf)
            soonest = ends.argmin(1)
            owner[:, expert] = soonest
            done[rows, soonest] += takes[rows, soonest] * (times[:, expert] > 0)
        return owner

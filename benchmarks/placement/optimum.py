"""The true optimum of a small question: a mixed-integer program over all states, by the planner's own cost model.

One binary for each layer and pattern (a home; the device of each expert, or without a trace how many experts each
device holds), memory as it is, homes in one run each, the hops of the stages by who is first and last. HiGHS (scipy)
solves it. `by_hand` prices every state instead, for a test of this program; nothing here is used by the package.

The cost of a layer must not depend on the other layers: devices with one rate for all sizes.
"""

from itertools import product
from math import inf

import numpy as np
from cases import CONTEXT, Case
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import lil_matrix

from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets
from motley.predict.memory import kv_bytes, packed_bytes, work_bytes
from motley.predict.workload import STEP_TOKENS

Column = tuple[int, tuple[int, ...]]  # home, device of each expert
_GAP = 1e-4


class Question:
    """Prices and bytes of a case, for one layout of the weights."""

    def __init__(self, case: Case, repack: bool) -> None:
        self.case, shape = case, case.shape
        lab = case.lab if repack else case.lab.with_stored(d.name for d in case.lab.devices)
        self.models = [(CostModel(shape, lab, w, case.routes, case.head), n) for w, n in case.objective.parts]
        self.n = len(lab.devices)
        self.sets = [WorkingSets(0.0, 0.0)] * self.n
        slots, context = case.objective.batch, max(min(CONTEXT, shape.context), case.objective.context)

        def held(n_bytes: int) -> int:
            return packed_bytes(shape, n_bytes) if repack else n_bytes

        layers = range(shape.n_layers)
        self.home_bytes = [held(shape.home_bytes(i)) + kv_bytes(shape, [i], context, slots) for i in layers]
        self.expert_bytes = [held(shape.expert_bytes(i)) for i in layers]
        self.embed, self.head = held(shape.embed_bytes), held(shape.head_bytes)
        self.work = [work_bytes(shape, STEP_TOKENS, home) for home in (False, True)]
        self.memory = [d.memory_bytes for d in lab.devices]
        names = [d.name for d in lab.devices]
        self.homes = [d for d in range(self.n) if case.homes is None or names[d] in case.homes]

    def columns(self, layer: int) -> list[Column]:
        n = self.case.shape.experts_in(layer)
        owners = product(range(self.n), repeat=n)
        if self.case.routes is None:
            owners = (row for row in owners if list(row) == sorted(row))
        return [(home, row) for row in owners for home in self.homes]

    def ms(self, layer: int, column: Column) -> float:
        home, owner = column
        return sum(n * m.layer_ms(layer, home, np.array(owner, np.int64), self.sets) for m, n in self.models)

    def bytes_of(self, layer: int, column: Column) -> list[int]:
        used = [self.expert_bytes[layer] * column[1].count(d) for d in range(self.n)]
        used[column[0]] += self.home_bytes[layer]
        return used

    def hop(self, first: int, home: int, last: bool) -> float:
        return sum(n * m.hop(first, home, last) for m, n in self.models)

    def ends(self, first: int, last: int) -> float:
        return sum(n * (m.output(last, self.sets).ms + m.step(first, self.sets).ms) for m, n in self.models)


def optimum(case: Case, by_hand: bool = False) -> float:
    """Milliseconds of the objective's steps; infinite where nothing fits. As the planner does, weights stay as the file
    has them only where nothing fits otherwise."""
    for repack in (True, False):
        found = (_every if by_hand else _program)(Question(case, repack))
        if found < inf:
            return found
    return inf


def _program(q: Question) -> float:
    n_layers, n = q.case.shape.n_layers, q.n
    columns = [q.columns(i) for i in range(n_layers)]
    start = np.cumsum([0, *map(len, columns)])
    at_home = int(start[-1])  # u[d]: is a home of some layer
    first_run = at_home + n  # s[i, d]: a run starts here
    pairs = first_run + n_layers * n  # z[a, b]: a is first, b a home
    ends = pairs + n * n  # e[a, b]: a is first, b is last
    size = ends + n * n
    cost = np.zeros(size)
    rows: list[tuple[dict[int, float], float, float]] = []  # coefficients, at least, at most
    memory: list[dict[int, float]] = [{} for _ in range(n)]
    y: list[list[dict[int, float]]] = [[{} for _ in range(n)] for _ in range(n_layers)]
    unit = float(q.case.shape.n_bytes)
    for i, of_layer in enumerate(columns):
        rows.append((dict.fromkeys(range(start[i], start[i + 1]), 1.0), 1, 1))
        for j, column in enumerate(of_layer, start[i]):
            cost[j] = q.ms(i, column)
            y[i][column[0]][j] = 1.0
            for d, n_bytes in enumerate(q.bytes_of(i, column)):
                if n_bytes:
                    memory[d][j] = memory[d].get(j, 0.0) + n_bytes / unit
    for d in range(n):
        for j in y[0][d]:
            memory[d][j] = memory[d].get(j, 0.0) + q.embed / unit
        for j in y[-1][d]:
            memory[d][j] = memory[d].get(j, 0.0) + q.head / unit
        memory[d][at_home + d] = (q.work[1] - q.work[0]) / unit
        rows.append((memory[d], -inf, max(q.memory[d] - q.work[0], 0) / unit))
        rows.append(({first_run + i * n + d: 1.0 for i in range(n_layers)}, -inf, 1))
        for i in range(n_layers):
            rows.append(({**_minus(y[i][d]), at_home + d: 1.0}, 0, inf))
            before = y[i - 1][d] if i else {}
            rows.append(({**_minus(y[i][d]), **before, first_run + i * n + d: 1.0}, 0, inf))
        for b in range(n):
            if b != d:
                cost[pairs + d * n + b] = q.hop(d, b, False)
            rows.append(({**_minus(y[0][d]), at_home + b: -1.0, pairs + d * n + b: 1.0}, -1, inf))
            cost[ends + d * n + b] = q.ends(d, b) + (q.hop(d, b, True) - q.hop(d, b, False) if b != d else 0.0)
    rows.extend(_outflow(y[0][a], [ends + a * n + b for b in range(n)]) for a in range(n))
    rows.extend(_outflow(y[-1][b], [ends + a * n + b for a in range(n)]) for b in range(n))
    if q.case.head is not None:  # hops start at the head's device, whoever is first
        driver = [d.name for d in q.case.lab.devices].index(q.case.head)
        cost[pairs:ends] = 0.0
        for a in range(n):
            cost[at_home + a] = q.hop(driver, a, False)
            for b in range(n):
                cost[ends + a * n + b] = q.ends(a, b) + q.hop(driver, b, True) - q.hop(driver, b, False)
    matrix = lil_matrix((len(rows), size))
    for r, (coefficients, _, _) in enumerate(rows):
        for j, value in coefficients.items():
            matrix[r, j] = value
    limits = LinearConstraint(matrix.tocsr(), [low for _, low, _ in rows], [high for _, _, high in rows])
    found = milp(cost, constraints=limits, integrality=np.ones(size), bounds=(0, 1), options={"mip_rel_gap": _GAP})
    if found.status == 2:
        return inf
    if found.status != 0:
        raise RuntimeError(f"HiGHS: {found.message}")
    return float(found.fun)


def _minus(coefficients: dict[int, float]) -> dict[int, float]:
    return {j: -value for j, value in coefficients.items()}


def _outflow(chosen: dict[int, float], pairs: list[int]) -> tuple[dict[int, float], float, float]:
    """As many pairs as chosen."""
    return {**_minus(chosen), **dict.fromkeys(pairs, 1.0)}, 0, 0


def _every(q: Question) -> float:
    """All states, one after the other."""
    n_layers, best = q.case.shape.n_layers, inf
    columns = [[(c, q.ms(i, c), q.bytes_of(i, c)) for c in q.columns(i)] for i in range(n_layers)]
    for state in product(*columns):
        homes = [column[0] for column, _, _ in state]
        starts = [h for i, h in enumerate(homes) if i == 0 or homes[i - 1] != h]
        if len(set(starts)) < len(starts):
            continue
        used = [sum(n_bytes[d] for _, _, n_bytes in state) for d in range(q.n)]
        used[homes[0]] += q.embed
        used[homes[-1]] += q.head
        if any(u and u + q.work[d in homes] > q.memory[d] for d, u in enumerate(used)):
            continue
        ms = sum(ms for _, ms, _ in state) + q.ends(homes[0], homes[-1])
        ms += sum(q.hop(homes[0], h, i == len(starts) - 1) for i, h in enumerate(starts))
        best = min(best, ms)
    return best

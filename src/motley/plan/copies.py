"""Copies of experts in memory that is left: of an expert's holders, a step takes the one that is done first.

Looked at after the search, for layers that several devices share already: the holders fill what is left of their
memory with each other's experts (the most chosen first, or as many of each), all of it or a part, and the best of these
stays if it pays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from motley.lab.placement import LayerPlacement, Pace, Placement
from motley.plan.state import Pricer, Sets, State
from motley.predict.predict import owners, shared_of

_PAYS = 0.01  # least gain of a layer's time
_PARTS = (1.0, 0.5, 0.25)  # of the memory left
_MOST_HOLDERS = 16


def with_copies(pricer: Pricer, state: State, placement: Placement) -> Placement:
    """The same placement, with copies where they make it faster."""
    pricer_sets = pricer.sets_of(state)
    names = [d.name for d in pricer.devices]
    index = {name: d for d, name in enumerate(names)}
    rooms = _rooms(pricer, state)
    known: dict[object, LayerPlacement] = {}
    layers = []
    for i, (layer, owner) in enumerate(zip(placement.layers, owners(placement, index))):
        key = pricer.model.alike(i), layer
        if key not in known:
            room = {d: room // max(pricer.expert_bytes[i], 1) for d, room in rooms.items()}
            known[key] = _best(pricer, i, layer, owner, room, index, pricer_sets)
        layers.append(known[key])
    return Placement(tuple(layers))


def _rooms(pricer: Pricer, state: State) -> dict[int, int]:
    """Bytes left on each device for each layer that it holds experts of."""
    shared: dict[int, int] = {}
    for pattern in state:
        for d in {pattern.home, *(d for d, _ in pattern.held)} if pattern.held else ():
            shared[d] = shared.get(d, 0) + 1
    left = {d: pricer.memory[d] - need for d, need in pricer.needs(state).items()}
    return {d: max(0, left[d]) // n for d, n in shared.items()}


def _best(
    pricer: Pricer,
    i: int,
    layer: LayerPlacement,
    owner: NDArray[np.int64],
    room: dict[int, int],
    index: dict[str, int],
    sets: Sequence[Sets],
) -> LayerPlacement:
    holders = list(dict.fromkeys([layer.home, *layer.experts]))
    if not 2 <= len(holders) <= _MOST_HOLDERS or not layer.experts:
        return layer
    plain = _ms(pricer, i, layer, owner, index, sets)
    best, best_ms = layer, plain * (1 - _PAYS)
    model = pricer.model
    home = index[layer.home]
    paces = tuple(
        Pace(
            name,
            0.0 if name == layer.home else 1e3 * model.exchange_ms(home, index[name]),
            1e3 * model.expert_ms(i, index[name], sets[0]),
            1e3 * model.token_ms(i, index[name], sets[0]),
        )
        for name in holders
    )
    for part in _PARTS:
        copies = tuple(sorted(_copied(pricer, i, owner, {d: int(n * part) for d, n in room.items()}, holders, index)))
        if copies:
            other = replace(layer, copies=copies, paces=paces)
            ms = _ms(pricer, i, other, owner, index, sets)
            if ms < best_ms:
                best, best_ms = other, ms
    return best


def _copied(
    pricer: Pricer,
    i: int,
    owner: NDArray[np.int64],
    room: dict[int, int],
    holders: list[str],
    index: dict[str, int],
) -> Iterator[tuple[int, str]]:
    """Each holder takes others' experts, one of each owner in turn, the most chosen ones first."""
    routes = pricer.model.routes
    order = np.arange(len(owner)) if routes is None else np.argsort(-routes.popularity(i), kind="stable")
    queues = {d: [e for e in order.tolist() if owner[e] == d] for d in map(index.__getitem__, holders)}
    for shift, name in enumerate(holders):
        device = index[name]
        others = [queue for d, queue in queues.items() if d != device]
        if routes is None:  # not all the same ones
            others = [queue[shift % max(len(queue), 1) :] + queue[: shift % max(len(queue), 1)] for queue in others]
        turns = [queue[n] for n in range(max(map(len, others), default=0)) for queue in others if n < len(queue)]
        yield from ((expert, name) for expert in turns[: room.get(device, 0)])


def _ms(
    pricer: Pricer,
    i: int,
    layer: LayerPlacement,
    owner: NDArray[np.int64],
    index: dict[str, int],
    sets: Sequence[Sets],
) -> float:
    home, of_each = index[layer.home], zip(pricer.models, sets)
    if not layer.copies:  # they may be brought, too
        return sum(steps * m.layer_ms(i, home, owner, of) for (m, steps), of in of_each)
    shared = shared_of(layer, index)
    return sum(steps * m.layer(i, home, owner, of, shared).ms for (m, steps), of in of_each)

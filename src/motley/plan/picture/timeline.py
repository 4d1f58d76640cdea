"""A step's time line: a lane for each group of devices, what it does when, and who waits for whom.

Drawn from the cost model's layers: their times add up to the prediction. Within a layer the lanes show averages; it
ends with the slowest of each case (which experts a token chose), so all lanes may end before: that is the wait shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, log10

from markupsafe import Markup

from motley.page.svg import element, percent, picture, plain
from motley.plan.picture.facts import Asked, Group, group_of
from motley.predict.cost import CostModel, Lane
from motley.predict.predict import layer_costs, owners, shared_of, stages, streamed_in
from motley.predict.show import number

LANE, GAP, LABEL = 20, 8, 16  # pixels of a lane, between lanes, of a lane's name
_MOST_LANES = 9
_ALIKE = 0.02  # relative: layers that differ by less are said to be like each other
_WIDE = 10000  # units of a picture's width


@dataclass(frozen=True)
class Piece:
    """What one group does from `start`, milliseconds. `part`: as a term's name, or "wait". `other`: by another device
    of the group than the home."""

    group: int
    start: float
    ms: float
    part: str
    other: bool = False

    @property
    def end(self) -> float:
        return self.start + self.ms


@dataclass(frozen=True)
class TimeLine:
    pieces: tuple[Piece, ...]  # of the whole step
    ms: float
    layer: int  # the one shown enlarged
    alike: int  # how many layers take as long, itself included
    layer_pieces: tuple[Piece, ...]  # from 0
    layer_ms: float

    @property
    def waits(self) -> bool:
        return any(piece.part == "wait" for piece in self.pieces)


def time_line(asked: Asked, found: Sequence[Group]) -> TimeLine:
    model = CostModel(asked.shape, asked.laid_out, asked.plan.prediction.workload, asked.routes)
    where = group_of(found)
    group = [where[d.name] for d in asked.lab.devices]
    placement = asked.plan.placement
    costs, homes, sets = layer_costs(model, placement)
    index = {d.name: i for i, d in enumerate(asked.lab.devices)}
    holders = owners(placement, index)
    begin = model.step(homes[0], sets).ms
    pieces, now = [Piece(group[homes[0]], 0.0, begin, "python")] if begin else [], begin
    last = [i for i in range(len(homes)) if i == 0 or homes[i] != homes[i - 1]]
    trips = dict(zip(last, stages(homes)))
    layers, seen = [], dict[object, tuple[list[Lane], list[Piece]]]()
    for i, (home, cost) in enumerate(zip(homes, costs)):
        if i in trips and (hop := model.hop(homes[0], *trips[i])):
            pieces.append(Piece(group[home], now, hop, "link"))
            now += hop
        layer = placement.layers[i]
        key = id(cost), layer, model.alike(i)
        if key not in seen:
            shared, streamed = shared_of(layer, index) if layer.copies else None, streamed_in(model, layer, index)
            lanes = model.lanes(i, home, holders[i], sets, shared, streamed)
            ahead = {"attention": cost.attention.ms, "python": cost.python.ms, "router": cost.router.ms}
            seen[key] = lanes, _layer(group, home, ahead, lanes, cost.ms)
        layers.append(seen[key][1])
        pieces += [replace(p, start=p.start + now) for p in layers[-1]]
        now += cost.ms
    head = model.output(homes[-1], sets).ms
    pieces.append(Piece(group[homes[-1]], now, head, "head"))
    shown = _typical([cost.ms for cost in costs], [len(holder) for holder in holders])
    alike = sum(abs(cost.ms - costs[shown].ms) <= _ALIKE * costs[shown].ms for cost in costs)
    return TimeLine(tuple(pieces), now + head, shown, alike, tuple(layers[shown]), costs[shown].ms)


def _typical(ms: Sequence[float], n_experts: Sequence[int]) -> int:
    """The middle one of the layers with experts, by time."""
    ranked = sorted((i for i in range(len(ms)) if n_experts[i] == max(n_experts)), key=lambda i: ms[i])
    return min(i for i in ranked if ms[i] == ms[ranked[len(ranked) // 2]])


def _layer(group: Sequence[int], home: int, ahead: dict[str, float], lanes: Sequence[Lane], ms: float) -> list[Piece]:
    """Attention, what is between operations, the router; then all holders beside each other, the slowest of each group
    of devices shown; then, at the layer's end, adding up at home."""
    pieces, now = [], 0.0
    for part, took in ahead.items():
        if took:
            pieces.append(Piece(group[home], now, took, part))
            now += took
    slowest: dict[int, Lane] = {}
    for lane in lanes[1:]:
        if lane.asked:
            known = slowest.setdefault(group[lane.device], lane)
            if lane.link_ms + lane.experts_ms > known.link_ms + known.experts_ms:
                slowest[group[lane.device]] = lane
    ends = [now]
    if lanes and lanes[0].experts_ms:
        pieces.append(Piece(group[home], now, lanes[0].experts_ms, "experts"))
        ends.append(pieces[-1].end)
    for holder, lane in slowest.items():
        other = holder == group[home]
        out = Piece(holder, now, lane.link_ms / 2, "link", other)
        work = Piece(holder, out.end, lane.experts_ms, "experts", other)
        back = Piece(holder, work.end, lane.link_ms / 2, "link", other)
        pieces += [p for p in (out, work, back) if p.ms]
        ends.append(back.end)
    if ms - max(ends) > 1e-6 * ms:
        pieces.append(Piece(group[home], max(ends), ms - max(ends), "wait"))
    return pieces


# -- drawing


def lanes_picture(found: Sequence[Group], pieces: Sequence[Piece], ms: float, label: str) -> Markup:
    """Every group that does something; time from left to right. Of very many, the busiest."""
    busy: dict[tuple[int, bool], float] = {}
    for piece in pieces:
        busy[piece.group, piece.other] = busy.get((piece.group, piece.other), 0.0) + piece.ms
    shown = sorted(sorted(busy, key=lambda lane: -busy[lane])[:_MOST_LANES])
    height = len(shown) * (LABEL + LANE + GAP)
    marks = _time_grid(ms, height)
    for row, (group, other) in enumerate(shown):
        y = row * (LABEL + LANE + GAP)
        name = found[group].name
        if found[group].n > 1:
            name += ", another of them" if other else ", one of them"
        own = [p for p in pieces if (p.group, p.other) == (group, other)]
        marks.append(element("text", name, x=0, y=y + 12, class_="lane-name"))
        marks.append(_lane(own, ms, name, y + LABEL))
    return picture(label, *marks, class_="lanes", height=height + 18)


def _lane(pieces: Sequence[Piece], ms: float, name: str, y: float) -> Markup:
    """One path for each part, so that hundreds of layers stay small."""
    paths: dict[str, list[str]] = {}
    for piece in pieces:
        x, width = _WIDE * piece.start / ms, max(_WIDE * piece.ms / ms, 1.0)
        paths.setdefault(piece.part, []).append(f"M{plain(x)} 0h{plain(width)}v{LANE}h{plain(-width)}z")
    shapes = [element("rect", x=0, y=0, width=_WIDE, height=LANE, class_="lane")]
    for part, steps in paths.items():
        title = element("title", f"{part} on {name}")
        shapes.append(element("path", title, d="".join(steps), class_=f"fill part-{part}"))
    box = {"viewBox": f"0 0 {_WIDE} {LANE}", "preserveAspectRatio": "none"}
    return element("svg", *shapes, y=y, width="100%", height=LANE, **box)


def _time_grid(ms: float, height: float) -> list[Markup]:
    marks = []
    for tick in ticks(ms):
        x = percent(tick / ms)
        anchor = "start" if tick == 0 else "end" if tick > 0.93 * ms else "middle"
        words = f"{number(1e3 * tick)} µs" if ms < 1 else f"{number(tick)} ms"
        marks.append(element("line", x1=x, x2=x, y1=LABEL, y2=height, class_="grid"))
        marks.append(element("text", words if tick else "0", x=x, y=height + 13, text_anchor=anchor, class_="tick"))
    return marks


def ticks(most: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to `most`, at most so many steps."""
    unit = 10.0 ** floor(log10(most / about))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= most / about * (1 - 1e-9))
    return [i * step for i in range(int(most / step + 1e-9) + 1)]

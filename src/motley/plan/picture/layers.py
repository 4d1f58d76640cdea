"""Layers and experts: which device is home of each layer, and what share of its experts each device holds.

Layers from left to right; equal neighbours are one rectangle: a hundred layers of a thousand experts stay small.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from motley.lab.placement import LayerPlacement
from motley.page.experts import expert_map
from motley.page.svg import element, percent, picture
from motley.plan.picture.facts import Asked, Group, group_of
from motley.plan.picture.timeline import ticks

_HOME, _GAP, _EXPERTS = 18, 6, 130  # pixels

_MOST_CELLS = 30_000

Shares = tuple[tuple[int, float], ...]  # (group, part of a layer's experts), by group


def layers_picture(asked: Asked, found: Sequence[Group]) -> Markup:
    homes, shares = homes_of(asked, found), shares_of(asked, found)
    n = len(homes)
    marks: list[Markup] = []
    names = [layer.home for layer in asked.plan.placement.layers]
    for start, stop in _runs(names):  # one rectangle for each device, whatever its group: stages show
        group = found[homes[start]]
        title = element("title", f"layers {start} to {stop - 1}: at home on {names[start]}")
        marks.append(_rect(start, stop, n, 0, _HOME, f"fill {group.colour}", title))
    for start, stop in _runs(shares):
        y = float(_HOME + _GAP)
        if not shares[start]:
            title = element("title", f"layers {start} to {stop - 1}: no experts")
            marks.append(_rect(start, stop, n, y, _EXPERTS, "none-held", title))
        high = _EXPERTS / max(1.0, sum(share for _, share in shares[start]))  # with copies there is more to show
        for holder, share in shares[start]:
            words = f"layers {start} to {stop - 1}: {share:.0%} of the experts on {found[holder].name}"
            kind = f"fill {found[holder].colour}"
            marks.append(_rect(start, stop, n, y, share * high, kind, element("title", words)))
            y += share * high
    bottom = _HOME + _GAP + _EXPERTS
    for tick in ticks(n, 8):
        if tick == int(tick) and tick < n:
            marks.append(element("text", f"{tick:g}", x=percent((tick + 0.5) / n), y=bottom + 14, class_="tick"))
    held = "; ".join(f"{g.name}: home of {g.home_layers} layers, {g.expert_share:.0%} of the experts" for g in found)
    return picture(f"{n} layers. {held}", *marks, class_="layers", height=bottom + 18)


def choices_map(asked: Asked, found: Sequence[Group]) -> Markup | None:
    """With a trace: every expert, its device, and how often it is chosen. None where it would be too large a picture,
    or says nothing."""
    if asked.routes is None or asked.shape.n_experts * asked.shape.n_layers > _MOST_CELLS:
        return None
    where, placement = group_of(found), asked.plan.placement
    holders = [[found[where[device]].number for device in layer.experts] for layer in placement.layers]
    counts = [
        [round(1e6 * often) for often in asked.routes.popularity(i).tolist()] for i in range(len(placement.layers))
    ]
    label = f"{len(holders)} layers by {asked.shape.n_experts} experts, and how often each is chosen"
    return expert_map(holders, homes_of(asked, found), counts, label)


def homes_of(asked: Asked, found: Sequence[Group]) -> list[int]:
    """[layers]: the group of each home."""
    where = group_of(found)
    return [where[layer.home] for layer in asked.plan.placement.layers]


def shares_of(asked: Asked, found: Sequence[Group]) -> list[Shares]:
    """[layers]: parts of the experts by group, copies too; none in a layer without experts."""
    where, seen = group_of(found), dict[LayerPlacement, Shares]()
    for layer in asked.plan.placement.layers:
        if layer not in seen:
            counts = Counter(where[device] for device in [*layer.experts, *(device for _, device in layer.copies)])
            seen[layer] = tuple((g, n / len(layer.experts)) for g, n in sorted(counts.items()))
    return [seen[layer] for layer in asked.plan.placement.layers]


def _runs(values: Sequence[object]) -> list[tuple[int, int]]:
    """(start, stop) of equal neighbours."""
    found, start = [], 0
    for _, group in groupby(values):
        stop = start + sum(1 for _ in group)
        found.append((start, stop))
        start = stop
    return found


def _rect(start: int, stop: int, n: int, y: float, height: float, kind: str, title: Markup) -> Markup:
    return element(
        "rect",
        title,
        x=percent(start / n),
        y=y,
        width=percent((stop - start) / n),
        height=height,
        class_=kind,
    )

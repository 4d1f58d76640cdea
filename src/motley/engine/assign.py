"""From a placement to what each device is told to hold. Pure."""

import itertools
from collections.abc import Collection, Mapping

from motley.cluster.assignment import Assignment
from motley.errors import UsageError
from motley.lab.placement import Placement
from motley.predict.workload import STEP_TOKENS
from motley.shape.mixer import CacheType

Address = tuple[str, int]  # host and port of the listener of the device's node


def assignments(
    placement: Placement,
    *,
    model: str,
    file_hash: str,
    context: int,
    slots: int,
    step_tokens: int = STEP_TOKENS,
    cache: CacheType | None = None,
    addresses: Mapping[str, Address],
    stored: Collection[str] = (),
    epoch: int = 0,
    source: Address | None = None,
) -> dict[str, Assignment]:
    """By device, home devices first in the order of their layers. `addresses`: of every device in the placement.
    `stored`: the devices that leave their weights in the mapped file.

    UsageError if a device's home layers are not contiguous."""
    return {
        device: Assignment(
            device=device,
            model=model,
            hash=file_hash,
            context=context,
            slots=slots,
            step_tokens=step_tokens,
            cache=cache,
            epoch=epoch,
            source=source,
            holders=tuple({addresses[d]: None for d in devices_of(placement) if d != device} if source else ()),
            repack=device not in stored,
            home_layers=_contiguous(placement, device),
            experts=_experts_of(placement, device),
            head_rows=next(((p.first, p.end) for p in placement.head if p.device == device), None),
            head_elsewhere=(head := _rows_elsewhere(placement, device)),
            projections=_projections(placement, device),
            projections_elsewhere=(projections := _projections_elsewhere(placement, device)),
            elsewhere=(elsewhere := _elsewhere(placement, device)),
            paces=_paces(placement, device),
            streams=_streams(placement, device),
            peers={d: addresses[d] for d in [*head, *_named(elsewhere), *_named(projections)]},
        )
        for device in devices_of(placement)
    }


def _named(parts: Mapping[int, Mapping[str, object]]) -> list[str]:
    """The devices in it."""
    return [device for of_layer in parts.values() for device in of_layer]


def devices_of(placement: Placement) -> list[str]:
    """Every device in use: homes by layer, then the ones that hold experts or rows only."""
    homes = [layer.home for layer in placement.layers]
    holders = [device for layer in placement.layers for device in layer.holders]
    rows = [part.device for parts in (*(x.projections for x in placement.layers), placement.head) for part in parts]
    return list(dict.fromkeys([*homes, *holders, *rows]))


def _contiguous(placement: Placement, device: str) -> tuple[int, ...]:
    layers = placement.home_layers(device)
    if any(b != a + 1 for a, b in itertools.pairwise(layers)):
        raise UsageError(
            f"the layers at home on {device} are not contiguous: {layers}; give each device one run of layers"
        )
    return tuple(layers)


def _experts_of(placement: Placement, device: str) -> dict[int, tuple[int, ...]]:
    held = {layer: tuple(placement.experts_on(layer, device)) for layer in range(len(placement.layers))}
    return {layer: ids for layer, ids in held.items() if ids}


def _rows_elsewhere(placement: Placement, device: str) -> dict[str, tuple[int, int]]:
    if device != placement.layers[-1].home:
        return {}
    return {part.device: (part.first, part.end) for part in placement.head if part.device != device}


def _projections(placement: Placement, device: str) -> dict[int, tuple[int, int]]:
    """By layer, of those that are split."""
    parts = ((i, part) for i, layer in enumerate(placement.layers) for part in layer.projections)
    return {i: (part.first, part.end) for i, part in parts if part.device == device}


def _projections_elsewhere(placement: Placement, device: str) -> dict[int, dict[str, tuple[int, int]]]:
    split = {i: placement.layers[i].projections for i in placement.home_layers(device)}
    found = {i: {p.device: (p.first, p.end) for p in parts if p.device != device} for i, parts in split.items()}
    return {i: parts for i, parts in found.items() if parts}


def _elsewhere(placement: Placement, device: str) -> dict[int, dict[str, tuple[int, ...]]]:
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for layer in placement.home_layers(device):
        others = [d for d in placement.layers[layer].holders if d != device]
        if others:
            found[layer] = {other: tuple(placement.experts_on(layer, other)) for other in others}
    return found


def _paces(placement: Placement, device: str) -> dict[int, tuple[tuple[str, float, float, float], ...]]:
    layers = {i: placement.layers[i] for i in placement.home_layers(device)}
    return {
        i: tuple((pace.device, pace.start_us, pace.expert_us, pace.token_us) for pace in layer.paces)
        for i, layer in layers.items()
        if layer.copies
    }


def _streams(placement: Placement, device: str) -> dict[int, tuple[int, int, tuple[str, ...]]]:
    layers = {i: placement.layers[i].streaming for i in placement.home_layers(device)}
    return {i: (found.tokens, found.at_once, found.devices) for i, found in layers.items() if found}

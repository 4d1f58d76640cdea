"""Streaming: where a home brings the experts of its node's processor in large steps, instead of asking for them.

The search prices large steps, of the workload's `chunk` of tokens, by the shorter of both ways for homes that would
gain, and keeps room for their buffers (`reserved`). After it, each layer is looked at: from how many tokens on is
bringing them shorter? Only where the holder's memory has room for the file's bytes beside what it keeps of them: they
would come from disk otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from motley.lab.lab import Lab
from motley.lab.placement import Placement, Streaming
from motley.predict.cost import CostModel
from motley.predict.device_cost import WorkingSets
from motley.predict.memory import (
    Need,
    at_once,
    gigabytes,
    kernels_of,
    memory_needed,
    packed_bytes,
    streaming_bytes,
    weights_on,
)
from motley.predict.predict import layer_costs, owners, price
from motley.predict.show import number
from motley.predict.streaming import LEAST_TOKENS
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

_PAYS = 1.05  # least gain of a layer's time


def reserved(model: CostModel) -> dict[int, int]:
    """Bytes for buffers, by device, that may be a home and would gain by bringing all experts of a neighbour."""
    shape, lab = model.shape, model.lab
    routed = {i: n for i in range(shape.n_layers) if (n := shape.experts_in(i))}
    chunk = model.workload.chunk
    if not routed or not any(model.near) or chunk < LEAST_TOKENS:
        return {}
    most = _prompt(model, chunk)
    sets = most.working_sets([shape.n_bytes] * len(lab.devices), [0] * len(lab.devices))
    first, n = next(iter(routed.items()))
    buffers = streaming_bytes(shape, {i: (at_once(shape, i), n) for i, n in routed.items()}, chunk)

    def gains(home: int, other: int) -> bool:
        owner = np.full(n, other)
        return _gain(most, first, home, owner, sets, frozenset({other})) > _PAYS

    return {home: buffers for home, near in enumerate(model.near) if any(gains(home, other) for other in near)}


def with_streaming(
    model: CostModel, placement: Placement, context: int, slots: int, stored: frozenset[str]
) -> tuple[Placement, list[str], list[str]]:
    """The same placement, with streaming where it makes large steps shorter; what decided, in words; and likewise what
    was in the way of more. `model`: of the lab as weights are laid out."""
    if not any(model.near) or not model.shape.n_experts:
        return placement, [], []
    wanted = _wanted(model, placement)
    needs = memory_needed(model.shape, wanted, context, slots, model.workload.chunk)
    experts = {name: held.experts for name, held in weights_on(model.shape, wanted).items()}
    short: dict[tuple[str, str], str] = {}
    for layer in wanted.layers:
        for holder in layer.streaming.devices if layer.streaming else ():
            pair = layer.home, holder
            if pair not in short:
                short[pair] = _short(model, needs, stored, layer.home, holder, experts[holder])
    layers = tuple(
        replace(layer, streaming=None)
        if layer.streaming and any(short[layer.home, holder] for holder in layer.streaming.devices)
        else layer
        for layer in wanted.layers
    )
    found = replace(wanted, layers=layers)
    return found, _said(model, placement, found), list(dict.fromkeys(filter(None, short.values())))


def _wanted(model: CostModel, placement: Placement) -> Placement:
    """With streaming wherever it pays, if memory does not matter."""
    models = [_prompt(model, n) for n in _sizes(model.workload.chunk)]
    names = [d.name for d in model.lab.devices]
    index = {name: i for i, name in enumerate(names)}
    _, homes, sets = layer_costs(model, placement)
    known: dict[object, Streaming | None] = {}
    layers = []
    for i, (layer, owner, home) in enumerate(zip(placement.layers, owners(placement, index), homes)):
        near = model.near[home].intersection(owner.tolist())
        key = model.alike_untraced(i), layer
        if key not in known:
            known[key] = None
            least = None
            for of_size in reversed(models) if near and not layer.copies else ():
                if _gain(of_size, i, home, owner, sets, near) < _PAYS:
                    break
                least = of_size.workload.step_tokens
            if least:
                n = at_once(model.shape, i)
                known[key] = Streaming(tuple(names[d] for d in sorted(near)), least, n)
        layers.append(replace(layer, streaming=known[key]))
    return replace(placement, layers=tuple(layers))


def _sizes(chunk: int) -> list[int]:
    """Tokens of the steps that are looked at: a prompt's own, and smaller ones."""
    powers = [2**n for n in range(chunk.bit_length()) if LEAST_TOKENS <= 2**n < chunk]
    return [*powers, chunk] if chunk >= LEAST_TOKENS else []


def _gain(
    model: CostModel,
    index: int,
    home: int,
    owner: NDArray[np.int64],
    sets: Sequence[WorkingSets],
    near: frozenset[int],
) -> float:
    """A layer's time if they are asked, over its time if their experts are brought."""
    return model.layer(index, home, owner, sets).ms / model.layer(index, home, owner, sets, None, near).ms


def _prompt(model: CostModel, tokens: int) -> CostModel:
    return model.asked(Workload("prefill", tokens, chunk=tokens))


def _short(
    model: CostModel, needs: Mapping[str, Need], stored: frozenset[str], home: str, holder: str, n_bytes: int
) -> str:
    """Why a home can't bring the experts that a holder has, `n_bytes` of the file; empty where it can."""
    left = {name: _left(model.shape, model.lab, name, needs[name], stored) for name in (home, holder)}
    what = f"{holder}'s experts are not brought to {home} in large steps, as"
    if holder not in stored and left[holder] < n_bytes:
        more = gigabytes(n_bytes - left[holder])
        return f"{what} {more} are missing for the file's bytes beside the repacked ones: --no-repack needs no others"
    if left[home] < 0:
        return f"{what} {home} lacks {gigabytes(-left[home])} for the buffers"
    return ""


def _left(shape: ModelShape, lab: Lab, name: str, need: Need, stored: frozenset[str]) -> int:
    device = lab.device(name)
    packed = need.weights if name in stored else packed_bytes(shape, need.weights, kernels_of(device))
    return device.memory_bytes - (need.total - need.weights + packed)


def _said(model: CostModel, before: Placement, after: Placement) -> list[str]:
    alike: dict[tuple[str, Streaming], list[int]] = {}
    for i, layer in enumerate(after.layers):
        if layer.streaming:
            alike.setdefault((layer.home, layer.streaming), []).append(i)
    if not alike:
        return []
    chunk = model.workload.chunk
    most = _prompt(model, chunk)
    asked, brought = (layer_costs(most, placement)[0] for placement in (before, after))
    factor = price(most, after).p50 / price(most, before).p50
    said = []
    for (home, found), layers in alike.items():
        rate, i = model.lab.device(home).upload_gb_s, layers[0]
        said.append(
            f"steps of {found.tokens} tokens and more bring the experts of {', '.join(found.devices)} to {home} in "
            f"{len(layers)} layer{'s' * (len(layers) > 1)}, {found.at_once} at a time at {number(rate)} GB/s: of "
            f"{chunk:,} tokens such a layer takes {number(brought[i].ms)} ms, with asking {number(asked[i].ms)}"
        )
    return [*said, f"prompts of {chunk:,} tokens a step are {number(factor)} times as fast for that"]

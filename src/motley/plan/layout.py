"""Which devices repack their weights at load and which read them from the mapped file, why, and what either costs.

Repacking is the faster one to run and the default. The mapped file starts at once, shares the page cache with other
processes, and is what is left where the packed copy would not fit. Answers are the same to the last bit.
"""

from collections.abc import Collection, Mapping, Sequence

from motley.lab.lab import Lab
from motley.lab.placement import Placement
from motley.plan.names import listed
from motley.predict.cost import CostModel
from motley.predict.memory import (
    ONE_LAYOUT,
    Need,
    gigabytes,
    kernels_of,
    packed_bytes,
    runs_native,
    takes_much_more,
    without_kernels,
)
from motley.predict.predict import Prediction, price
from motley.predict.show import number
from motley.shape.model import ModelShape


def stored_devices(shape: ModelShape, lab: Lab, needs: Mapping[str, Need], repack: bool) -> frozenset[str]:
    """The devices, of those in `needs`, that leave their weights as the file has them. MLX and tinygrad can't."""
    can = {name: need for name, need in needs.items() if kernels_of(lab.device(name)) not in ONE_LAYOUT}
    if not repack:
        return frozenset(can)
    return frozenset(name for name, need in can.items() if _too_large(shape, lab, name, need))


def layout_reasons(
    model: CostModel,
    lab: Lab,
    placement: Placement,
    needs: Mapping[str, Need],
    stored: frozenset[str],
    repack: bool,
    here: Prediction,
) -> list[str]:
    """A sentence for each layout in use. `lab`: as it was measured; `model`, `here`: what predicted the placement."""
    packed = [name for name in needs if name not in stored and runs_native(lab.device(name))]
    said = []
    if packed:
        said.append(_packed(model, lab, placement, needs, packed, here))
        said += without_kernels(model.shape, repack=True)
    for kernels in sorted({kernels_of(lab.device(name)) for name in needs}):
        said += takes_much_more(model.shape, kernels)
    if stored:
        why = "as asked" if not repack else "because the repacked copy would not fit"
        said.append(_stored(model, lab, placement, needs, sorted(stored), why, here))
        if any(runs_native(lab.device(name)) for name in stored):
            said += without_kernels(model.shape, repack=False)
    return said


def _too_large(shape: ModelShape, lab: Lab, name: str, need: Need) -> bool:
    packed = packed_bytes(shape, need.weights, kernels_of(lab.device(name)))
    return need.total + packed - need.weights > lab.device(name).memory_bytes


def _packed(
    model: CostModel,
    lab: Lab,
    placement: Placement,
    needs: Mapping[str, Need],
    names: Sequence[str],
    here: Prediction,
) -> str:
    memory = sum(packed_bytes(model.shape, needs[name].weights) for name in names)
    seconds = [needs[n].weights / lab.device(n).pack_gb_s / 1e9 for n in names if lab.device(n).pack_gb_s]
    load = f" in about {max(seconds):.2g} s" if len(seconds) == len(names) else ""
    other = _speed(model, lab, placement, list(needs), here)
    return (
        f"{_listed(lab, names)}: weights are repacked while loading{load}, into {gigabytes(memory)} of memory; with "
        "--no-repack they would be there at once, in the file's page cache alone, at "
        f"{number(other.p50)} tokens/s, {_difference(other, here)}"
    )


def _stored(
    model: CostModel,
    lab: Lab,
    placement: Placement,
    needs: Mapping[str, Need],
    names: Sequence[str],
    why: str,
    here: Prediction,
) -> str:
    n_bytes = sum(needs[name].weights for name in names)
    memory = sum(packed_bytes(model.shape, needs[n].weights, kernels_of(lab.device(n))) for n in names)
    other = _speed(model, lab, placement, set(needs) - set(names), here)
    return (
        f"{_listed(lab, names)}: weights stay in the mapped file, {why}: there at once, in {gigabytes(n_bytes)} of "
        f"page cache, shared with other processes; repacked they would take {gigabytes(memory)} of memory, at "
        f"{number(other.p50)} tokens/s, {_difference(other, here)}"
    )


def _listed(lab: Lab, names: Sequence[str]) -> str:
    kept = set(names)
    return listed([d.name for d in lab.devices if d.name in kept])


def _speed(model: CostModel, lab: Lab, placement: Placement, stored: Collection[str], here: Prediction) -> Prediction:
    there = lab.with_stored(stored)
    return here if there.devices == model.lab.devices else price(model.on(there), placement)


def _difference(other: Prediction, here: Prediction) -> str:
    percent = 100 * (other.p50 / here.p50 - 1)
    return f"{abs(percent):.0f} % {'faster' if percent > 0 else 'slower'}"

"""explain: the terms of a prediction's sum as lines that a person can add up.

Each line is one kind of work in one term on one device: what it moves or does, at which rate, from which figure of the
lab, how long. The lines add up to `ms_per_step`. They come from the cost model itself, with `books` under it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from motley.errors import UsageError
from motley.lab.hardware import hardware
from motley.lab.lab import Device, Lab
from motley.lab.placement import Placement
from motley.predict.books import Amount, Booked, BookedCost, Item
from motley.predict.cost import CostModel, RoundTrip
from motley.predict.memory import gigabytes
from motley.predict.predict import head_costs, layer_costs, price, stages, summed
from motley.predict.routes import Routes
from motley.predict.show import number, table
from motley.predict.workload import Workload
from motley.shape.model import ModelShape, Role

_ORDER = ("attention", "router", "experts", "upload", "link", "head", "python")
_BY_NAME = 8  # so many devices are shown each for itself, more by class


@dataclass(frozen=True)
class Line:
    """One kind of work. `rate` with its unit: what was done over the time it took; what does not apply is 0."""

    device: str
    term: str
    what: str
    ms: float
    n_bytes: float
    operations: float
    times: float
    limited_by: str
    figure: str
    is_weights: bool = False
    peer: str = ""  # of a link: its other end

    @property
    def rate(self) -> str:
        if self.ms and self.limited_by == "bandwidth":
            return f"{number(self.n_bytes / self.ms / 1e6)} GB/s"
        if self.ms and self.limited_by == "compute":
            return f"{number(self.operations / self.ms / 1e6)} Gop/s"
        return f"{number(1e3 * self.ms / self.times)} us each" if self.times else ""


@dataclass(frozen=True)
class Explanation:
    workload: Workload
    ms_per_step: float
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    links: tuple[Line, ...]  # those of the term link, by device even where `lines` are by class

    @property
    def weight_bytes(self) -> float:
        """Of weights that the step waits for."""
        return sum(line.n_bytes for line in self.lines if line.is_weights)


class _Explaining(CostModel):
    device_cost = BookedCost


def explain(
    shape: ModelShape,
    lab: Lab,
    placement: Placement,
    workload: Workload,
    routes: Routes | None = None,
    head: str | None = None,
) -> Explanation:
    """Of a placement that `predict` can price. `lab`: as the plan lays weights out (`Lab.with_stored`)."""
    model = _Explaining(shape, lab, workload, routes, head)
    predicted = price(model, placement)
    found = [*_worked(model, placement), *_linked(model, placement)]
    lines = _by_class(lab, found)
    used = sorted({line.device for line in found}, key=[d.name for d in lab.devices].index)
    notes = [*_device_notes([lab.device(name) for name in used]), *_link_notes(lab, found)]
    notes += _byte_notes(shape, workload, sum(line.n_bytes for line in found if line.is_weights))
    notes.append(f"interval: 8 of 10 runs within a factor of {predicted.p90 / predicted.p50:.2f} of the median")
    links = tuple(line for line in found if line.term == "link")
    return Explanation(workload, predicted.ms_per_step, tuple(_ordered(lines)), tuple(notes), links)


def _worked(model: CostModel, placement: Placement) -> Iterator[Line]:
    for (term, device), cost in summed(model, placement).costs.items():
        items = cost.items if isinstance(cost, Booked) else {}
        for item, amount in items.items():
            yield _line(device, term, item, amount)
        rest = cost.ms - sum(amount.ms for amount in items.values())
        if abs(rest) > 1e-9 * cost.ms:
            yield _line(device, term, Item("other", cost.limited_by, ""), Amount(rest))


def _line(device: str, term: str, item: Item, amount: Amount) -> Line:
    sizes = amount.ms, amount.n_bytes, amount.operations, amount.times
    return Line(device, term, item.what, *sizes, item.limited_by, item.figure, item.weights)


def _linked(model: CostModel, placement: Placement) -> Iterator[Line]:
    """Exchanges with holders of experts, and stages elsewhere."""
    names = [d.name for d in model.lab.devices]
    index = {name: i for i, name in enumerate(names)}
    layers, homes, sets = layer_costs(model, placement)
    waited: dict[tuple[int, int], float] = {}
    for home, cost in zip(homes, layers):
        for name, ms in cost.link:
            waited[home, index[name]] = waited.get((home, index[name]), 0.0) + ms
    for (home, device), ms in waited.items():
        trip = model.exchange(home, device)
        if ms:
            yield from _trips(names[device], names[home], "exchange", trip, ms / trip.ms)
    for home, cost in zip(homes, layers):
        if cost.rows:
            yield _waited(*cost.rows, names[home], "projections")
    for name, ms in head_costs(model, placement, homes[-1], sets)[1]:
        yield _waited(name, ms, names[homes[-1]], "the head")
    for stage_home, last in stages(homes):
        hop = model.stage_trip(homes[0], stage_home, last)
        if hop:
            yield from _trips(names[stage_home], model.driver(homes[0]), "stage", hop, 1.0)


def _waited(device: str, ms: float, home: str, what: str) -> Line:
    line = _line(device, "link", Item(f"rows of {what}: waiting", "link", ""), Amount(ms))
    return replace(line, peer=home)


def _trips(device: str, peer: str, what: str, trip: RoundTrip, times: float) -> Iterator[Line]:
    parts = {
        Item(f"{what}: round trips", "overhead", "rtt_us"): Amount(times * trip.rtt_ms, times=times),
        Item(f"{what}: software", "overhead", "exchange_us or call_us, both sides"): Amount(
            times * trip.software_ms, times=times
        ),
        Item(f"{what}: bytes", "bandwidth", "gb_s of the link"): Amount(
            times * trip.n_bytes * trip.ms_per_byte, times * trip.n_bytes
        ),
    }
    for item, amount in parts.items():
        if amount.ms:
            yield replace(_line(device, "link", item, amount), peer=peer)


def _by_class(lab: Lab, lines: Sequence[Line]) -> list[Line]:
    """Lines of one device; where there are many devices, of all that are alike together."""
    used = list(dict.fromkeys(line.device for line in lines))
    if len(used) > _BY_NAME:
        lines = [replace(line, device=alike) for line, alike in zip(lines, _classes(lab, used, lines))]
    sums: dict[tuple[str, str, Item], Amount] = {}
    for line in lines:
        key = line.device, line.term, Item(line.what, line.limited_by, line.figure, line.is_weights)
        sums[key] = sums.get(key, Amount()) + Amount(line.ms, line.n_bytes, line.operations, line.times)
    return [_line(device, term, item, amount) for (device, term, item), amount in sums.items()]


def _classes(lab: Lab, used: Sequence[str], lines: Sequence[Line]) -> Iterator[str]:
    kind = {name: replace(lab.device(name), name="", node="") for name in used}
    first: dict[Device, str] = {}
    for name in used:
        first.setdefault(kind[name], name)
    size = Counter(kind.values())
    for line in lines:
        alike = size[kind[line.device]] - 1
        name = first[kind[line.device]]
        yield f"{name} and {alike} alike" if alike else name


def _ordered(lines: Sequence[Line]) -> list[Line]:
    """The device that takes longest first; its terms in the order of a layer."""
    by_device: dict[str, float] = {}
    for line in lines:
        by_device[line.device] = by_device.get(line.device, 0.0) + line.ms
    return sorted(lines, key=lambda x: (-by_device[x.device], x.device, _ORDER.index(x.term)))


# -- where the figures come from


def _device_notes(used: Sequence[Device]) -> Iterator[str]:
    alike: dict[Device, list[str]] = {}
    for device in used:
        alike.setdefault(replace(device, name="", node=""), []).append(device.name)
    for device, names in alike.items():
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike"
        yield f"{name}: {device.source}; reads {number(device.read_gb_s)} GB/s{_of_vendor(device)}"


def _of_vendor(device: Device) -> str:
    """`, 0.75 of the vendor's 1,792; computes ...`, where the device is the catalogue's."""
    if not device.source.startswith("catalogue: "):
        return ""
    try:
        known = hardware(device.source.removeprefix("catalogue: ").split(",")[0])
    except UsageError:
        return ""
    share = device.read_gb_s / known.bandwidth_gb_s
    said = f", {share:.2f} of the vendor's {number(known.bandwidth_gb_s)}"
    if known.fp16_tflops:
        rate = device.f32_gflops / 1e3
        said += f"; computes {number(rate)} Tflop/s, {rate / known.fp16_tflops:.2f} of {number(known.fp16_tflops)}"
    return f"{said}; shares and launches as measured on its class"


def _link_notes(lab: Lab, lines: Sequence[Line]) -> Iterator[str]:
    said: Counter[str] = Counter()
    for a, b in dict.fromkeys((line.peer, line.device) for line in lines if line.term == "link"):
        link = lab.link(a, b)
        said[f"{link.transport}, {number(link.rtt_us)} us round trip, {number(link.gb_s)} GB/s; {link.source}"] += 1
    for words, n in said.items():
        yield f"{n} link{'s' if n > 1 else ''}: {words}"


def _byte_notes(shape: ModelShape, workload: Workload, waited: float) -> Iterator[str]:
    norms = sum(t.n_bytes for t in shape.tensors if t.role is Role.NORM)
    row = shape.embed_bytes / shape.vocab_size
    yield (
        f"not priced: {gigabytes(norms)} of norms, {gigabytes(row)} of embedding a token"
        " (their calls are, where they were measured)"
    )
    touched = shape.step_bytes(workload.step_tokens) - norms - row * workload.step_tokens
    hidden = touched - waited
    if hidden > 0.03 * touched:
        yield f"not in the sum: about {gigabytes(hidden)} of weights, read meanwhile by devices that finish earlier"


def explanation_text(found: Explanation) -> str:
    """A table with subtotals by device, the total, and where the figures come from."""
    decimals = max(2, 4 - len(f"{found.ms_per_step:.0f}")) if found.ms_per_step >= 1 else 4
    head = ["on", "term", "of", "bytes", "Gop", "times", "rate", "rate from", "ms", "share"]
    rows, devices = [], list(dict.fromkeys(line.device for line in found.lines))
    for device in devices:
        own = [line for line in found.lines if line.device == device]
        for i, line in enumerate(own):
            new_term = not i or own[i - 1].term != line.term
            rows.append([device if not i else "", line.term if new_term else "", *_cells(line, found, decimals)])
        if len(devices) > 1:
            rows.append(_sum_row(f"{device}, together", sum(line.ms for line in own), found, decimals))
    rows.append(_sum_row(f"a step of {found.workload.name}", sum(line.ms for line in found.lines), found, decimals))
    return "\n".join([*table(head, rows), "", *(f"  - {note}" for note in found.notes)])


def _cells(line: Line, found: Explanation, decimals: int) -> list[str]:
    return [
        line.what,
        gigabytes(line.n_bytes) if line.n_bytes else "",
        number(line.operations / 1e9) if line.operations else "",
        number(line.times) if line.times else "",
        line.rate,
        line.figure,
        f"{line.ms:,.{decimals}f}",
        f"{100 * line.ms / found.ms_per_step:.1f} %",
    ]


def _sum_row(name: str, ms: float, found: Explanation, decimals: int) -> list[str]:
    return [name, *[""] * 7, f"{ms:,.{decimals}f}", f"{100 * ms / found.ms_per_step:.1f} %"]

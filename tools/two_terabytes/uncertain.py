"""Which figure's uncertainty moves a plan's speed most: each is moved by one standard deviation, all else stays."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, log
from typing import Literal

from answers import Asked

from motley.lab.lab import Device, Lab, Link
from motley.lab.wiring import kind_of

_TENTHS = 2.5631  # standard deviations between the first tenth and the ninth


@dataclass(frozen=True)
class Figure:
    """`kind`: of the devices it belongs to ("" for all). `sigma`: relative, as of a lognormal; 0: the device's own."""

    what: str
    kind: str
    fields: tuple[str, ...]
    sigma: float
    how: str  # the measurement that would settle it

    def moved(self, lab: Lab, sigmas: float) -> Lab:
        return Lab(tuple(self._moved(d, sigmas) for d in lab.devices), lab.links)

    def _moved(self, device: Device, sigmas: float) -> Device:
        if self.kind and device.kind != self.kind:
            return device
        factor = exp(sigmas * (self.sigma or device.sigma or 0.3))
        values = {name: getattr(device, name) * factor for name in self.fields}
        return replace(device, **values)


_READING, _LAUNCHES = ("read_gb_s", "cache_gb_s"), ("step_us", "layer_us", "routed_us", "recurrent_us", "sparse_us")
EXPERTS, LAUNCHES, EXCHANGE = 0.2, 0.4, 0.7  # by judgement

FIGURES = (
    Figure("reading weights on the Macs", "metal", _READING, 0, "decode of a MoE model on one M3 Ultra, at two depths"),
    Figure("reading weights on the card", "cuda", _READING, 0, "decode of a MoE model on the card, at two depths"),
    Figure(
        "chosen experts on the Macs",
        "metal",
        ("expert_share",),
        EXPERTS,
        "decode of a MoE and of a dense model of equal active bytes on one M3 Ultra",
    ),
    Figure(
        "launches on the Macs",
        "metal",
        _LAUNCHES,
        LAUNCHES,
        "decode of a small MoE model on one M3 Ultra, whole and cut to half its layers",
    ),
    Figure(
        "launches on the card",
        "cuda",
        _LAUNCHES,
        LAUNCHES,
        "decode of a small MoE model on the card, whole and cut to half its layers",
    ),
    Figure(
        "software of an exchange",
        "",
        ("exchange_us",),
        EXCHANGE,
        "decode with all experts on the other of two machines, beside one machine",
    ),
)


def swings(asked: Asked) -> list[tuple[str, float]]:
    """(figure, what one standard deviation of it does to the logarithm of the decode speed), largest first."""
    found = [(f.what, _swing(asked, lambda n, f=f: f.moved(asked.lab, n))) for f in FIGURES]
    for key in dict.fromkeys(kind.key for link in asked.lab.links if (kind := kind_of(link))):
        found.append((f"round trip of {key}", _link_swing(asked, key, "rtt_us")))
        found.append((f"bandwidth of {key}", _link_swing(asked, key, "gb_s")))
    return sorted(found, key=lambda pair: -pair[1])


def _swing(asked: Asked, lab_at: Callable[[float], Lab]) -> float:
    return abs(log(asked.step_ms(lab_at(1.0)) / asked.step_ms(lab_at(-1.0)))) / 2


def _link_swing(asked: Asked, key: str, figure: Literal["rtt_us", "gb_s"]) -> float:
    """The catalogue's range is read as tenths. What a cable adds to a link stays."""
    times = []
    for end in ("low", "high"):
        links = tuple(_at_end(link, key, figure, end) for link in asked.lab.links)
        times.append(asked.step_ms(Lab(asked.lab.devices, links)))
    return abs(log(times[1] / times[0])) / _TENTHS


def _at_end(link: Link, key: str, figure: Literal["rtt_us", "gb_s"], end: str) -> Link:
    kind = kind_of(link)
    if kind is None or kind.key != key:
        return link
    known = getattr(kind, figure)
    if figure == "rtt_us":
        return replace(link, rtt_us=link.rtt_us + getattr(known, end) - known.p50)
    return replace(link, gb_s=link.gb_s * getattr(known, end) / known.p50)


def how(what: str) -> str:
    """The measurement that would settle a figure."""
    return next((f.how for f in FIGURES if f.what == what), "a ping-pong over that link, from engine to engine")

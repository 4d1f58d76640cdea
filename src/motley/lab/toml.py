"""The lab file: TOML with [[device]] and [[link]] tables, keys as the fields of `Device` and `Link`.

    [[device]]
    name = "big"
    node = "big"
    kind = "cpu"
    memory_bytes = "24 GiB"          # or a whole number of bytes
    threads = 8
    read_gb_s = 180.0
    ...
    kernels = [{ quant = "q8_0", gemm_gops = 900.0, matvec = [[1048576, 400.0], [1073741824, 150.0]] }]

    [[link]]
    a = "big"
    b = "small"
    transport = "tcp"
    rtt_us = 55.0
    gb_s = 1.1

An end may stand for many: a node for all its devices, a pattern for all names that fit. An island is one table, and
what joins islands another; the more specific link counts (`joins` has the rule), and devices of one node need none:

    [[link]]                         # the Macs among themselves, by RDMA
    a = "mac*"
    b = "mac*"
    transport = "jaccl"
    ...

    [[link]]                         # everything else
    a = "*"
    b = "*"
    transport = "tcp"
    ...

Nothing is skipped: an unknown key or word, a missing one, a wrong type, a figure that no machine has, a control
character or a pair of devices without a link is a UsageError that names it.
"""

import json
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from motley.errors import UsageError
from motley.lab.joins import Ends, is_pattern
from motley.lab.lab import Device, Kernel, Lab, Link, missing_pairs

Row = TypeVar("Row", Device, Kernel, Link)

_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS = {"gb_s": "GB/s (1e9 bytes)", "us": "microseconds", "gops": "1e9 operations/s", "gflops": "1e9 operations/s"}
# What a figure of such a unit may be: far beyond what is built, and what no sum comes to harm by.
_PLAUSIBLE = {"bytes": (1, 1e16), "gb_s": (1e-3, 1e5), "us": (1e-6, 1e8), "gops": (1e-3, 1e10), "gflops": (1e-3, 1e10)}
_PLAUSIBLE |= {"g_s": (1e-6, 1e7), "share": (1e-3, 1e3), "sigma": (1e-4, 5), "threads": (1, 1e6)}
KINDS = ("cpu", "cuda", "metal", "mlx", "rocm", "vulkan", "sycl", "npu")
TRANSPORTS = ("tcp", "tcp+tls", "rdma", "mpi", "ring", "jaccl", "local", "memory")
_WORDS = {"kind": KINDS, "transport": TRANSPORTS}
_MAY_BE_ZERO = {"rtt_us", "op_overhead_us", "call_us", "attention_gflops", "elements_g_s", "pack_gb_s", "upload_gb_s"}
_MAY_BE_ZERO |= {"step_us", "layer_us", "routed_us", "recurrent_us", "latent_us", "sparse_us", "exchange_us"}
_MAY_BE_ZERO |= {"reduce_us", "reduce_gb_s", "cache_gb_s", "sigma", "prefill_sigma"}


def parse_lab(text: str, where: str = "lab") -> tuple[tuple[Device, ...], tuple[Link, ...]]:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as a number of 5,000 digits is
        raise UsageError(f"{where} is not valid TOML: {error}") from None
    for key in table:
        if key not in ("device", "link"):
            raise UsageError(f"{where}: unknown key {key!r}: a lab has [[device]] and [[link]] tables")
    devices = tuple(_row(Device, r, f"{where}: device {i + 1}") for i, r in enumerate(_tables(table, "device", where)))
    links = tuple(_row(Link, r, f"{where}: link {i + 1}") for i, r in enumerate(_tables(table, "link", where)))
    _check(devices, links, where)
    return devices, links


def _tables(table: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise UsageError(f"{where}: {key} must be a list of tables, written [[{key}]]")
    return rows


def _check(devices: tuple[Device, ...], links: tuple[Link, ...], where: str) -> None:
    if not devices:
        raise UsageError(f"{where}: a lab needs at least one [[device]]")
    for name, times in Counter(d.name for d in devices).items():
        if times > 1:
            raise UsageError(f"{where}: two devices are called {name!r}")
    ends, known = Ends(devices), {n for d in devices for n in (d.name, d.node)}
    for end in dict.fromkeys(end for link in links for end in (link.a, link.b)):
        if not ends.of(end):
            what = "fits" if is_pattern(end) else "is called"
            raise UsageError(f"{where}: a link ends at {end!r}, which no device or node {what}{_near(end, known)}")
    if missing := Lab(devices, links).missing_links():
        raise UsageError(f"{where}: no [[link]] between {missing_pairs(missing)}")


def _row(kind: type[Row], table: Mapping[str, Any], where: str) -> Row:
    known = {f.name: f for f in fields(kind)}
    if isinstance(table.get("name"), str):
        where = f"{where} ({table['name']})"
    for key in table:
        if key not in known:
            hint = _near(key, known) or ": accepted are " + ", ".join(known)
            raise UsageError(f"{where}: unknown key {key!r}{hint}")
    for key, field in known.items():
        if key not in table and field.default is MISSING:
            raise UsageError(f"{where}: {key} is missing{_unit(key)}")
    return kind(**{key: _value(key, known[key].type, value, where) for key, value in table.items()})


def _value(key: str, kind: object, value: Any, where: str) -> Any:
    if key == "kernels":
        return tuple(
            _row(Kernel, k, f"{where}: kernel {i + 1}") for i, k in enumerate(_tables({key: value}, key, where))
        )
    if key in ("matvec", "stored"):
        return _curve(key, value, where)
    if kind is str:
        if not isinstance(value, str) or not value:
            raise UsageError(f"{where}: {key} must be text, not {value!r}")
        return _text(key, value, where)
    if key.endswith("bytes"):
        value = _bytes(key, value, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise UsageError(f"{where}: {key} must be a number{_unit(key)}, not {value!r}")
    if value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
        raise UsageError(
            f"{where}: {key} must be {'positive' if value == 0 else 'zero or more'}{_unit(key)}, not {value}"
        )
    if kind is int:
        if value != int(value):
            raise UsageError(f"{where}: {key} must be a whole number, not {value!r}")
        value = int(value)
    _check_plausible(key, value, where)
    return value if kind is int else float(value)


def _text(key: str, value: str, where: str) -> str:
    """Control characters, marks that turn or break lines, and words that nothing here knows, are refused."""
    odd = next((char for char in value if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")), "")
    if odd:
        raise UsageError(f"{where}: {key} has the control character {odd!a}: write it without")
    if key in _WORDS and value not in _WORDS[key]:
        raise UsageError(f"{where}: unknown {key} {value!r}: it is one of {', '.join(_WORDS[key])}")
    return value


def _check_plausible(key: str, value: float, where: str) -> None:
    low, high = next((range_ for suffix, range_ in _PLAUSIBLE.items() if key.endswith(suffix)), (0.0, math.inf))
    if value and not low <= value <= high:
        unit = _unit(key)
        meant = f"; did you mean {value / 1e9:g}?" if low <= value / 1e9 <= high else ""
        raise UsageError(f"{where}: {key} = {value:g}{unit and f'{unit},'} is not between {low:g} and {high:g}{meant}")


def _curve(key: str, value: Any, where: str) -> tuple[tuple[int, float], ...]:
    pairs: list[Any] = value if isinstance(value, list) else []
    if not pairs or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise UsageError(f"{where}: {key} must be a list of [bytes, GB/s], not {value!r}")
    points = [(_value("n_bytes", int, a, where), _value("gb_s", float, b, where)) for a, b in pairs]
    if sorted({n for n, _ in points}) != [n for n, _ in points]:
        raise UsageError(f"{where}: {key} must list working sets in ascending order, not {value!r}")
    return tuple(points)


def _bytes(key: str, value: Any, where: str) -> Any:
    """`24 GiB` and `64 GB` as well as plain numbers."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]{1,20})\s*([A-Za-z]+)\s*", value)
    if not match or match[2].lower() not in _BYTES or match[1].count(".") > 1 or match[1] == ".":
        raise UsageError(f"{where}: {key} must be bytes or text such as '24 GiB' or '64 GB', not {value!r}")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def _unit(key: str) -> str:
    return next((f", in {unit}" for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")


def _near(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def format_lab(devices: tuple[Device, ...], links: tuple[Link, ...]) -> str:
    """Text that `parse_lab` reads back to equal values; optional figures at their default are left out."""
    blocks = []
    rows: tuple[Device | Link, ...] = (*devices, *links)
    for row in rows:
        lines = [f"[[{'device' if isinstance(row, Device) else 'link'}]]"]
        for field in fields(row):
            value = getattr(row, field.name)
            if field.default is MISSING or value != field.default or field.name == "source":
                lines.append(f"{field.name} = {_toml(value)}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _inline(kernel: Kernel) -> str:
    values = {field.name: getattr(kernel, field.name) for field in fields(kernel)}
    return ", ".join(f"{name} = {_toml(value)}" for name, value in values.items() if value != ())


def _toml(value: Any) -> str:
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return repr([list(point) for point in value])
    if isinstance(value, tuple):
        return "[" + ", ".join("{ " + _inline(kernel) + " }" for kernel in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)

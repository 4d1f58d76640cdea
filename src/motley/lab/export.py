"""Export: a probed lab as others may have it. Names of hosts, users and folders stay at home; processor, versions and
date go with it. Whoever gets the file plans with it: `motley plan MODEL --lab their.toml`."""

import platform
import re
from dataclasses import replace
from datetime import date

import motley
from motley.lab.lab import Lab
from motley.lab.machine import Machine


def shareable(lab: Lab, machine: Machine, day: date) -> str:
    """The lab file's text. Devices and nodes are renamed after the processor."""
    word = _word(machine.cpu)
    names = [word if len(lab.devices) == 1 else f"{word}-{i}" for i in range(1, len(lab.devices) + 1)]
    renamed = {d.name: name for d, name in zip(lab.devices, names)}
    nodes = {d.node: renamed[d.name] for d in reversed(lab.devices)}
    what = (
        f"measured {day.isoformat()} by motley {motley.__version__}: {machine.cpu}, {machine.cores} cores, "
        f"{machine.memory_bytes / 2**30:.0f} GiB; {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
    devices = tuple(replace(d, name=renamed[d.name], node=nodes[d.node], source=what) for d in lab.devices)
    ends = {**nodes, **renamed}
    links = tuple(replace(n, a=ends.get(n.a, n.a), b=ends.get(n.b, n.b)) for n in lab.links)
    head = f"# {what}.\n# Without names of hosts, users or folders. Plan with it: motley plan MODEL --lab THIS_FILE\n\n"
    return head + Lab(devices, links).dumps()


def _word(cpu: str) -> str:
    """`AMD EPYC 9354 32-Core Processor` -> `amd-epyc-9354`."""
    text = re.sub(r"\((?:r|tm)\)|@.*$|\d+[- ]core|processor|cpu", " ", cpu.lower())
    return "-".join(re.findall(r"[a-z0-9.]+", text)) or "machine"

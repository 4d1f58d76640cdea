"""A shareable lab: what it must not say, and that it loads."""

import getpass
import platform
from dataclasses import replace
from datetime import date

from labs import device

from motley.lab.export import shareable
from motley.lab.lab import Lab, Link
from motley.lab.machine import Machine
from motley.lab.toml import parse_lab

MACHINE = Machine("secret-host", "AMD EPYC 9354 32-Core Processor", 64, 768 * 2**30, 700 * 2**30)


def test_names_of_hosts_stay_at_home_and_figures_go_along() -> None:
    devices = (replace(device("secret-host-a"), node="secret-host"), replace(device("secret-host-b"), node="other"))
    lab = Lab(devices, (Link("secret-host", "secret-host-b", "tcp", 50.0, 1.0),))
    text = shareable(lab, MACHINE, date(2026, 11, 23))
    for private in ("secret-host", platform.node(), f"/{getpass.getuser()}", "/home"):
        assert not private or private not in text
    for told in ("AMD EPYC 9354", "2026-11-23", "64 cores", "768 GiB", platform.python_version()):
        assert told in text
    found, links = parse_lab(text)
    assert [d.name for d in found] == ["amd-epyc-9354-1", "amd-epyc-9354-2"]
    assert [d.read_gb_s for d in found] == [d.read_gb_s for d in devices]
    assert Lab(found, links).link("amd-epyc-9354-1", "amd-epyc-9354-2").rtt_us == 50.0
    assert all(d.source.startswith("measured") for d in found), "a measured device is predicted as one"

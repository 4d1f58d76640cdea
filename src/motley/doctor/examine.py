"""All that the doctor looks at on one machine, most urgent first."""

from motley.doctor import mac, memory, network, rdma, software
from motley.doctor.finding import ORDER, Finding
from motley.doctor.system import System


def examine(system: System) -> list[Finding]:
    found = [finding for part in (software, memory, network, rdma, mac) for finding in part.check(system)]
    return urgent_first(found)


def urgent_first(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))

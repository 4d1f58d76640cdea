"""Finding: what the doctor found, and what to do about it. Codes are stable: docs/doctor.md has a line for each."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note", "ok"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    code: str  # such as MEMLOCK
    severity: Severity
    sentence: str
    remedy: str = ""  # empty where nothing is to be done

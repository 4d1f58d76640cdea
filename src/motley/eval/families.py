"""Which model families run, and what proves it; which are predicted only: the table of `motley models`.

A row for each architecture that the registry names, its proofs from `models/proofs.json` (measured by
tools/golden/record_proofs.py, never typed), and one for each architecture that only the catalogue of shapes knows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any, Literal

import msgspec

from motley.models.registry import FAMILIES
from motley.shape.catalogue import names
from motley.shape.hf_families import HF_FAMILIES
from motley.shape.model import ModelShape
from motley.shape.quant import Quant

Status = Literal["runs", "predicted only"]
COUNTED = "q8_0"  # the precision that shapes are looked at in: whether a model runs does not depend on it


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Logits of a tiny random checkpoint against what the architecture's reference implementation computes."""

    golden: str  # tests/golden/models/<golden>.npz
    architecture: str
    tokens: int
    max_rel_error: float  # max |a - b| / max |b|, the larger of the numpy reference's and the native kernels'
    sha256: str


@dataclass(frozen=True)
class Family:
    name: str  # GGUF's general.architecture
    title: str  # as people call it
    status: Status
    formats: tuple[str, ...]  # of files: "GGUF", "folder" (Hugging Face's)
    classes: tuple[str, ...]  # of folders: what config.json calls the model
    precisions: tuple[str, ...]  # that weights may have
    proof: str | None
    max_rel_error: float | None


@dataclass(frozen=True)
class KnownShape:
    name: str
    architecture: str
    status: Status  # "runs": by name, with random weights; files of a family that runs do so either way


@dataclass(frozen=True)
class Coverage:
    families: tuple[Family, ...]
    shapes: tuple[KnownShape, ...]

    def document(self) -> dict[str, Any]:
        return asdict(self)


def proofs() -> tuple[Proof, ...]:
    data = (files("motley.models") / "proofs.json").read_bytes()
    return msgspec.json.decode(data, type=tuple[Proof, ...])


def coverage() -> Coverage:
    """Looks at every shape of the catalogue: a few seconds."""
    shapes = [ModelShape.named(name, COUNTED) for name in names()]
    known = tuple(KnownShape(s.name, s.architecture, "runs" if s.runs else "predicted only") for s in shapes)
    by_architecture: dict[str, list[str]] = {}
    for shape in known:
        by_architecture.setdefault(shape.architecture, []).append(shape.name)
    running = [_running(architecture) for architecture in sorted(FAMILIES)]
    predicted = [_predicted(a, found) for a, found in sorted(by_architecture.items()) if a not in FAMILIES]
    return Coverage((*running, *predicted), known)


def _running(architecture: str) -> Family:
    found = [p for p in proofs() if p.architecture == architecture]
    classes = tuple(name for name, family in HF_FAMILIES.items() if family.architecture == architecture)
    return Family(
        name=architecture,
        title=_title(FAMILIES, architecture),
        status="runs",
        formats=("GGUF", "folder"),
        classes=classes,
        precisions=tuple(quant.name for quant in Quant),
        proof=_proof(found),
        max_rel_error=max((p.max_rel_error for p in found), default=None),
    )


def _proof(found: list[Proof]) -> str | None:
    tokens = min((p.tokens for p in found), default=0)
    return f"golden logits of {tokens} tokens: {', '.join(p.golden for p in found)}" if found else None


def _predicted(architecture: str, shapes: list[str]) -> Family:
    more = f" and {len(shapes) - 2} more" if len(shapes) > 2 else ""
    return Family(architecture, ", ".join(shapes[:2]) + more, "predicted only", (), (), (), None, None)


def _title(registry: Mapping[str, str], architecture: str) -> str:
    """What the family's file says of itself, up to its GGUF name: `Mixtral (GGUF ...`."""
    said = (import_module(registry[architecture]).__doc__ or architecture).strip().splitlines()[0]
    return said.partition(" (")[0].partition(":")[0].rstrip(".")

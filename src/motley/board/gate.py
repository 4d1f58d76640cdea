"""What speaks against a result on a board, a sentence each: what the bench's gate says, and figures that are not those
of the catalogue's model or of any machine, as anybody may send what they like. Flagged results are shown with it;
flags are worked out whenever a result is read.
"""

from motley.bench import gate
from motley.bench.result import Result
from motley.shape.catalogue import find
from motley.shape.model import ModelShape

MOST_GB_S = 30_000.0  # of one device: thrice the fastest there is


def flags(result: Result) -> tuple[str, ...]:
    return (*map(str, gate.flags(result)), *_of_tests(result), *_of_model(result), *_of_devices(result))


def _of_tests(result: Result) -> list[str]:
    whole = result.model.n_bytes
    wrong = [t for t in result.results if t.active_bytes_per_token > whole]
    return [f"{t.label}: a token reads {t.active_bytes_per_token:,} bytes of a model of {whole:,}" for t in wrong[:3]]


def _of_model(result: Result) -> list[str]:
    known = find(result.model.name.removeprefix("synthetic "))
    if known is None:
        return []
    shape = ModelShape.named(known)
    if abs(shape.n_params - result.model.n_params) > 0.05 * shape.n_params:
        return [f"{known} has {shape.n_params:,} parameters, the result says {result.model.n_params:,}"]
    return []


def _of_devices(result: Result) -> list[str]:
    fast = [d for d in result.lab.devices if d.read_gb_s > MOST_GB_S]
    return [f"{d.name} reads {d.read_gb_s:,.0f} GB/s: no memory does" for d in fast[:3]]

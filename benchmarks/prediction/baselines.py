"""The four simpler predictors that the cost model has to beat, for decode of one sequence.

roofline: bandwidth / active bytes (of all devices together where they split tensors; of the processor that has the
experts); roofline x 0.55; the class's median share of the roofline
(the row's model left out); bytes and a fixed time per class (its device left out). Bytes are counted as tables do:
active parameters x bits per weight.
"""

import numpy as np
from features import Case
from fit import Data, Floats

from motley.predict.published.answer import domain


def predictions(data: Data) -> dict[str, Floats]:
    """[R] milliseconds for each; infinite where a baseline says nothing."""
    decode = np.array([domain(c.question).startswith(("decode", "several")) for c in data.cases])
    ideal = np.where(decode, [_ideal_ms(c) for c in data.cases], np.inf)
    # A class for MoE and one for dense models, one for each and several: what they reach differs.
    classes = np.array([f"{c.question.members[0][1].cls} {c.kind} {domain(c.question)}" for c in data.cases])
    models = np.array([c.model for c in data.cases])
    devices = np.array([c.devices for c in data.cases])
    return {
        "roofline": ideal,
        "roofline x 0.55": ideal / 0.55,
        "class median, model left out": _medians(ideal, data.measured, classes, models, decode),
        "class median, device left out": _medians(ideal, data.measured, classes, devices, decode),
        "bytes + fixed time by class, device left out": _lines(ideal, data.measured, classes, devices, decode),
    }


def _ideal_ms(case: Case) -> float:
    question = case.question
    shape, row = question.stated.shape, question.row
    bits = row.bits_per_weight or 8 * shape.n_bytes / shape.n_params
    active = (row.active_params_b or 0) * 1e9 or shape.n_active_params
    members = [n * h.bandwidth_gb_s for n, h in question.members]
    bandwidth = sum(members) if question.split == "tensor" else question.members[-1][1].bandwidth_gb_s
    return float(active * bits / 8 / bandwidth / 1e6)


def _medians(ideal: Floats, measured: Floats, classes: Floats, out: Floats, decode: Floats) -> Floats:
    found = np.full(len(ideal), np.inf)
    share = ideal / measured
    for i in np.flatnonzero(decode):
        others = decode & (classes == classes[i]) & (out != out[i])
        if not others.any():
            others = decode & (out != out[i])
        found[i] = ideal[i] / np.median(share[others])
    return found


def _lines(ideal: Floats, measured: Floats, classes: Floats, out: Floats, decode: Floats) -> Floats:
    """measured = a + b ideal by least absolute relative errors (reweighted squares), neither below zero."""
    found = np.full(len(ideal), np.inf)
    seen: dict[tuple[str, str], tuple[float, float]] = {}
    for i in np.flatnonzero(decode):
        key = str(classes[i]), str(out[i])
        if key not in seen:
            others = decode & (classes == classes[i]) & (out != out[i])
            if others.sum() < 4:
                others = decode & (out != out[i])
            seen[key] = _line(ideal[others], measured[others])
        a, b = seen[key]
        found[i] = a + b * ideal[i]
    return found


def _line(ideal: Floats, measured: Floats) -> tuple[float, float]:
    columns, weight = np.stack([np.ones(len(ideal)), ideal], 1) / measured[:, None], np.ones(len(ideal))
    for _ in range(30):
        root = np.sqrt(weight)
        a, b = np.linalg.lstsq(columns * root[:, None], root, rcond=None)[0]
        weight = 1 / np.maximum(np.abs(columns @ (a, b) - 1), 0.02)
    if a < 0 or b < 0:
        return 0.0, float(np.median(measured / ideal))
    return float(a), float(b)

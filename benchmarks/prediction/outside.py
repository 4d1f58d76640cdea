"""Published results that fall outside their interval, each with the likeliest reason.

A case is what several rows measure alike; its median is what is held against the interval. Reasons are rules, in order;
what none explains is called not understood.
"""

from collections import Counter
from collections.abc import Callable
from math import exp, log
from pathlib import Path

from features import Case
from fit import Data, Floats

from motley.predict.predict import Z90
from motley.predict.published import words
from motley.predict.published.answer import domain, sigma

_NEARLY_FULL = 0.8  # of the devices' memory, by the weights alone
_LAUNCHES_MS = 4.0  # a step this short is mostly launches

Reason = tuple[str, Callable[[Case], bool]]


def _fills(case: Case) -> bool:
    memory = sum(n * h.usable_bytes for n, h in case.question.members)
    return case.question.stated.shape.n_bytes * case.question.stated.factor > _NEARLY_FULL * memory


REASONS: tuple[Reason, ...] = (
    (
        "sparse attention: the engine's kernels for it change from version to version",
        lambda c: any(m.kind == "sparse" for m in c.question.stated.shape.mixers),
    ),
    (
        "memory nearly full: a part may have run on the processor",
        lambda c: _fills(c) and c.question.members[0][1].pcie != "",
    ),
    (
        "flash attention is off, and the context long",
        lambda c: "-nofa" in words.backend(c.row.backend) and c.question.workload.mean_depth > 1000,
    ),
    (
        "16-bit weights over Vulkan: emulated",
        lambda c: "vulkan" in words.backend(c.row.backend) and "16" in c.row.quant,
    ),
    ("something that matters is not stated in the row", lambda c: bool(c.question.doubts)),
    (
        "a server's throughput: how requests arrive is not in the row",
        lambda c: domain(c.question) in ("serving", "batch"),
    ),
    (
        "prompts: the engine's choice of matrix kernels is not in the model",
        lambda c: domain(c.question) == "prefill",
    ),
    ("a step of few milliseconds: mostly launches", lambda c: c.measured_ms / max(c.tokens, 1) < _LAUNCHES_MS),
)


def write_outside(path: Path, data: Data, ms: Floats) -> dict[str, int]:
    """`ms` [R]: predicted from all rows. Returns how many cases there are and how many fall outside, by reason."""
    groups: dict[tuple[object, ...], list[tuple[Case, float]]] = {}
    for c, own in zip(data.cases, ms.tolist()):
        q = c.question
        key = (q.stated.shape.name, c.row.quant, c.devices, q.n_devices, q.engine, words.backend(c.row.backend))
        groups.setdefault((*key, q.workload, q.prompt), []).append((c, log(c.measured_ms / own)))
    lines, reasons = [], Counter[str]()
    for key, members in sorted(groups.items(), key=str):
        members = sorted(members, key=lambda m: m[1])
        case, off = members[len(members) // 2]
        if abs(off) <= Z90 * sigma(case.question):
            continue
        inside = any(abs(o) <= Z90 * sigma(c.question) for c, o in members)
        reason = "others measured the same inside it" if inside else _reason(case)
        reasons[reason] += 1
        what = f"{key[0]} {key[1]}".strip()
        lines.append(
            f"| {what} | {key[3]}x {key[2]} | {case.question.engine} {key[5]} | {case.question.workload.name} "
            f"| {case.row.tokens_per_s:.4g} | {case.row.tokens_per_s * exp(off):.4g} | {reason} |"
        )
    head = [
        "# Published results outside their interval",
        "",
        f"Written by `run.py`: {len(lines)} of {len(groups)} cases, of models and devices that the fit has seen. Rows",
        "that measure the same are one case, by their median. The reason is the likeliest by rule, not proven.",
        "",
        *(f"- {n}: {reason}" for reason, n in reasons.most_common()),
        "",
        "| model | on | engine | test | measured tokens/s | predicted | likeliest reason |",
        "|---|---|---|---|---|---|---|",
    ]
    path.write_text("\n".join([*head, *lines, ""]))
    return {"cases": len(groups), "outside": len(lines), **reasons}


def _reason(case: Case) -> str:
    return next((text for text, holds in REASONS if holds(case)), "not understood")

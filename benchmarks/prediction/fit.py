"""Fits the profiles: what engines reach on classes of hardware, from published measurements.

A figure of the profile (a share of bandwidth, microseconds of a launch) is the median of all, times a factor of the
hardware's class, times a factor of the engine, times one of what drives the device; a device has one factor for its
speed. All factors are near one unless rows say otherwise (a normal prior on the logarithm), and a row far off counts
less (Cauchy's loss). Solved by damped Gauss-Newton on the logarithms. `run.py` is the command.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from features import TERMS, Case, cases
from numpy.typing import NDArray

from motley.predict.published.rows import read_rows

Floats = NDArray[np.float64]

# Who has a factor, from the general to the particular: everything; the kind of program that drives the device (cuda,
# metal, hip, cpu...); the class of hardware; the engine; and engines that run another's kernels (ollama: llama.cpp's).
COLUMNS = ("any", "backend", "class", "engine", "variant")
# The profile's figures: first guess, and for each of the columns how far its factor's logarithm is expected from zero.
FIGURES: dict[str, tuple[float, tuple[float, ...]]] = {
    "bandwidth_share": (0.75, (0.5, 0.10, 0.15, 0.15, 0.10)),
    "expert_share": (0.75, (0.5, 0.15, 0.20, 0.20, 0.10)),
    "cache_share": (0.50, (0.5, 0.60, 0.30, 0.30, 0.20)),
    "gemm_share": (0.35, (0.5, 0.40, 0.40, 0.30, 0.20)),
    "expert_gemm_share": (0.60, (0.5, 0.30, 0.30, 0.30, 0.20)),
    "attend_share": (0.20, (0.5, 0.60, 0.40, 0.30, 0.20)),
    "step_us": (400.0, (0.5, 0.50, 0.80, 0.30, 0.30)),
    "layer_us": (25.0, (0.5, 0.50, 1.00, 0.30, 0.30)),
    "routed_us": (25.0, (0.5, 0.40, 0.30, 0.40, 0.0)),
    "recurrent_us": (25.0, (0.5, 0.40, 0.30, 0.40, 0.0)),
    "latent_us": (40.0, (0.5, 0.30, 0.40, 0.40, 0.0)),
    "sparse_us": (200.0, (0.5, 0.30, 0.30, 0.80, 0.0)),
    "exchange_us": (300.0, (0.5, 0.0, 0.30, 0.80, 0.0)),
    "reduce_us": (15.0, (0.5, 0.0, 0.40, 0.60, 0.30)),
}
NAMES = tuple(FIGURES)
# What a figure's part of the time is made of: the terms, and whether a larger figure makes it shorter.
_PARTS = {
    "step_us": ("step",),
    "layer_us": ("layer",),
    "routed_us": ("routed",),
    "recurrent_us": ("recurrent",),
    "latent_us": ("latent",),
    "sparse_us": ("sparse",),
    "exchange_us": ("exchange",),
    "reduce_us": ("reduce",),
}
# Engines that run another's kernels.
VARIANTS = {
    "ollama": "llama.cpp",
    "ik_llama.cpp": "llama.cpp",
    "ktransformers": "llama.cpp",
    "sglang": "vllm",
    "tensorrt-llm": "vllm",
}
_SPEED = 0.12  # sigma of a device's own factor
_TAIL = 3.0  # a device far from its class (an old card, a throttled board) is one, not the class
_SCALE = 0.15  # of a row's logarithm: beyond it, it counts less
_AS_GOOD, _OTHERS = 1.05, 0.3  # a row so near the best of its case counts whole, another so much
_SERVED, _DOUBTED = 0.1, 0.5
_STEP = 0.7  # the most that a logarithm moves at once


def factors(cls: str, drives: str, engine: str) -> tuple[str, ...]:
    """Whose factors count for a part: COLUMNS."""
    base = VARIANTS.get(engine, engine)
    variant = f"variant {engine}" if base != engine else ""
    return "any", f"backend {drives}" if drives else "", f"class {cls}", f"engine {base}", variant


@dataclass(frozen=True)
class Data:
    """Rows as arrays. A piece is one part of one step of one row."""

    cases: Sequence[Case]
    terms: Floats  # [P, TERMS]
    weight: Floats  # [P]
    row: NDArray[np.int64]  # [P] -> row
    who: tuple[list[str], ...]  # COLUMNS of [P]
    device: list[str]
    alone: Floats  # [P] 1 where a device works as it does alone: rows that tell its own speed
    measured: Floats  # [R] ms

    @classmethod
    def of(cls, found: Sequence[Case]) -> "Data":
        pieces = [(i, w, p, c) for i, c in enumerate(found) for w, parts in c.steps for p in parts]
        return cls(
            found,
            np.array([p.terms for _, _, p, _ in pieces]),
            np.array([w for _, w, _, _ in pieces]),
            np.array([i for i, _, _, _ in pieces]),
            tuple(
                list(column) for column in zip(*(factors(p.cls, p.driver, c.question.engine) for _, _, p, c in pieces))
            ),
            [p.key for _, _, p, _ in pieces],
            np.array([float(_alone(c)) for _, _, _, c in pieces]),
            np.array([c.measured_ms for c in found]),
        )

    @cached_property
    def keys(self) -> tuple[list[tuple[str, str]], Floats]:
        """The unknowns, and how far from zero each is expected."""
        keys: list[tuple[str, str]] = []
        sigmas: list[float] = []
        for name, (_, by) in FIGURES.items():
            for column, sigma in zip(self.who, by):
                found = sorted(set(column) - {""}) if sigma else []
                keys += [(name, who) for who in found]
                sigmas += [sigma] * len(found)
        devices = sorted(set(self.device))
        return keys + [("speed", d) for d in devices], np.array(sigmas + [_SPEED] * len(devices))

    @cached_property
    def where(self) -> NDArray[np.int64]:
        """[P, NAMES, COLUMNS] -> unknown; the number of unknowns where there is none."""
        index = {key: i for i, key in enumerate(self.keys[0])}
        none = len(index)
        return np.array(
            [[[index.get((name, who), none) for who in people] for name in NAMES] for people in zip(*self.who)]
        )

    @cached_property
    def where_speed(self) -> NDArray[np.int64]:
        index = {key: i for i, key in enumerate(self.keys[0])}
        return np.array([index["speed", d] for d in self.device])


def _alone(case: Case) -> bool:
    q = case.question
    return q.split not in ("tensor", "hybrid") and q.workload.kind == "decode" and q.prompt is None


@dataclass
class Fit:
    """Logarithms of factors, by (figure, who)."""

    value: dict[tuple[str, str], float] = field(default_factory=dict)

    def get(self, figure: str, who: str) -> float:
        return self.value.get((figure, who), 0.0)

    def ms(self, data: Data) -> Floats:
        """[R]"""
        x = np.array([self.value.get(key, 0.0) for key in data.keys[0]])
        return _priced(data, x)[0]


def _priced(data: Data, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Milliseconds [R]; each piece's part by figure [P, NAMES], negative where a larger figure makes it shorter; each
    piece's part that its device's speed divides [P]. The parts are what the logarithms' derivatives are made of."""
    padded = np.append(x, 0.0)
    figure = np.exp(np.log([FIGURES[n][0] for n in NAMES]) + padded[data.where].sum(2))  # [P, NAMES]
    speed = np.exp(padded[data.where_speed])
    t = {name: data.terms[:, i] for i, name in enumerate(TERMS)}
    s = {name: figure[:, j] for j, name in enumerate(NAMES)}
    part = np.zeros_like(figure)
    at = {name: j for j, name in enumerate(NAMES)}

    def larger(one: Floats, names: tuple[str, ...], other: Floats, others: tuple[str, ...]) -> Floats:
        longer = one >= other
        for name in names:
            part[:, at[name]] -= np.where(longer, one, 0.0)
        for name in others:
            part[:, at[name]] -= np.where(longer, 0.0, other)
        return np.maximum(one, other)

    own = larger(
        t["read"] / s["bandwidth_share"], ("bandwidth_share",), t["compute"] / s["gemm_share"], ("gemm_share",)
    )
    own = own + larger(
        t["read_experts"] / (s["bandwidth_share"] * s["expert_share"]),
        ("bandwidth_share", "expert_share"),
        t["compute_experts"] / (s["gemm_share"] * s["expert_gemm_share"]),
        ("gemm_share", "expert_gemm_share"),
    )
    own = own + larger(
        t["cache"] / s["cache_share"], ("cache_share",), t["attend"] / s["attend_share"], ("attend_share",)
    )
    for name in ("step_us", "layer_us", "routed_us", "recurrent_us", "latent_us", "sparse_us"):
        cost = t[_PARTS[name][0]] * s[name]
        part[:, at[name]] += cost
        own = own + cost
    part /= speed[:, None]
    own = own / speed
    between = t["link"].copy()
    for name in ("exchange_us", "reduce_us"):
        cost = t[_PARTS[name][0]] * s[name]
        part[:, at[name]] += cost
        between += cost
    ms = np.bincount(data.row, data.weight * (own + between), len(data.measured))
    return ms, part * data.weight[:, None], own * data.weight


def fit(data: Data, weight: Floats, start: Fit | None = None, rounds: int = 40) -> Fit:
    """`weight` [R]: how much a row counts; 0: not at all."""
    keys, sigmas = data.keys
    x = np.array([0.0 if start is None else start.get(*key) for key in keys])
    n, rows = len(keys), len(data.measured)
    own = np.array([name == "speed" for name, _ in keys])
    used = weight > 0
    flat = (data.row[:, None, None] * (n + 1) + data.where).ravel()
    flat_speed = data.row * (n + 1) + data.where_speed
    for _ in range(rounds):
        ms, part, quick = _priced(data, x)
        slopes = np.bincount(flat, np.repeat(part[:, :, None], len(COLUMNS), 2).ravel(), rows * (n + 1))
        slopes += np.bincount(flat_speed, -quick * data.alone, rows * (n + 1))
        jacobian = slopes.reshape(rows, n + 1)[used, :n] / ms[used, None]
        off = np.log(ms[used] / data.measured[used]) / _SCALE
        counts = weight[used] / (1 + off * off) / _SCALE
        prior = sigmas**-2 / np.where(own, 1 + (x / sigmas) ** 2 / _TAIL, 1.0)
        normal = (jacobian * (counts / _SCALE)[:, None]).T @ jacobian + np.diag(prior)
        step = np.linalg.solve(normal, -(jacobian.T @ (counts * off) + x * prior))
        step = np.clip(step, -_STEP, _STEP)
        x = x + step
        if np.abs(step).max() < 1e-3:
            break
    return Fit(dict(zip(keys, x.tolist())))


def weights(data: Data) -> Floats:
    """Rows that repeat each other share their weight, and of those that measure one case the best counts most: what
    slowed the others (old versions, half a setting) is not the machine's. A server's throughput hangs on how
    requests arrive, which no row says: it counts little. What leaves something unsaid counts half; an unknown engine,
    or a row that a check flagged, nothing."""
    same = [(c.question.stated.shape.name, c.devices, c.row.mode, c.row.n_devices) for c in data.cases]
    times = Counter(same)
    models = Counter(hw for _, hw, _, _ in times)
    cases = [(*key, c.row.quant, c.question.split, c.question.workload) for key, c in zip(same, data.cases)]
    best: dict[object, float] = {}
    for case, ms in zip(cases, data.measured.tolist()):
        best[case] = min(ms, best.get(case, ms))
    found = []
    for c, key, case, ms in zip(data.cases, same, cases, data.measured.tolist()):
        weight = 4.0 / times[key] ** 0.5 / models[key[1]] ** 0.25
        weight *= 1.0 if ms <= best[case] * _AS_GOOD else _OTHERS
        weight *= _SERVED if c.question.prompt is not None else 1.0
        weight *= _DOUBTED if c.question.doubts else 1.0
        unknown = any("engine" in doubt for doubt in c.question.doubts)
        found.append(0.0 if unknown or c.row.spec_decode == "suspected" else weight)
    return np.array(found)


def load(path: Path) -> tuple[Data, list[tuple[str, str]], int]:
    """The rows that were asked about; the reasons why not of the others; and how many claim more than their memory can
    do: another model than the label's, or undeclared speculation."""
    found, refused, impossible = [], [], 0
    for case in cases(read_rows(path)):
        if not isinstance(case, Case):
            refused.append((case[0].row_id, case[1]))
        elif case.row.tokens_per_s and case.measured_ms < case.ideal_ms:
            impossible += 1
        elif case.row.tokens_per_s:
            found.append(case)
    return Data.of(found), refused, impossible

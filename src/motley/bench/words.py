"""A result in words and short numbers: what terminal and page say alike."""

from collections import Counter
from collections.abc import Sequence

from motley.bench.load import LoadResult, Percentiles
from motley.bench.result import Check, PeerResult, Result
from motley.predict.show import experts_words, number


def tiny(value: float) -> str:
    """1.2e-07, or 0 where there is nothing."""
    return f"{value:.1e}" if value else "0"


def size(n_bytes: float) -> str:
    """Bytes in decimal units: 9.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{number(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{number(n_bytes)} TB"


def model_words(result: Result) -> str:
    """All but its name."""
    m = result.model
    return (
        f"{m.n_params / 1e6:,.0f} M parameters, {size(m.n_bytes)}, {m.n_layers} layers, "
        f"{experts_words(m.n_experts_used, m.n_experts)}"
    )


def machine_words(result: Result) -> str:
    m = result.machine
    rate = f", {number(m.int8_gops)} int8 Gop/s" if m.int8_gops else ""
    return f"{m.cpu}, {m.cores} cores, {m.threads} threads used: {number(m.read_gb_s)} GB/s read{rate} in this run"


def placement_words(result: Result) -> str:
    homes = Counter(layer.home for layer in result.placement.layers)
    where = ", ".join(f"{device} is home to {n} layers" for device, n in homes.items())
    experts = experts_per_device(result)
    return f"{where}; experts: {experts}" if experts else where


def reasons(result: Result) -> list[str]:
    """Why this placement: a sentence each."""
    return [part[0].upper() + part[1:] for part in result.reasons if part]


def experts_per_device(result: Result) -> str:
    """`fast 96, big 160`: expert slots (layer, expert) by device; "" of a dense model."""
    held = Counter(device for layer in result.placement.layers for device in layer.experts)
    return ", ".join(f"{device} {n}" for device, n in held.items())


def check_words(check: Check) -> str:
    verdict = "passed" if check.passed else "FAILED"
    return (
        f"Check {verdict} against {check.reference}: max relative logit difference {tiny(check.max_rel_logit_diff)} "
        f"(absolute {tiny(check.max_abs_logit_diff)}), {check.greedy_tokens_equal} of {check.greedy_tokens_compared} "
        "greedy tokens equal"
    )


def percentiles_words(p: Percentiles | None) -> str:
    """`12 / 15 / 40`: p50, p90, p99"""
    return f"{number(p.p50)} / {number(p.p90)} / {number(p.p99)}" if p else "-"


def objectives_words(loads: Sequence[LoadResult]) -> list[str]:
    """What good requests keep, each once: `TTFT up to 2,000 ms, TPOT up to 100 ms`"""
    found = []
    for wanted in dict.fromkeys(load.goodput.objectives for load in loads if load.goodput):
        limits = (("TTFT", wanted.ttft_ms), ("TPOT", wanted.tpot_ms))
        found.append(", ".join(f"{name} up to {number(ms)} ms" for name, ms in limits if ms))
    return found


def settings_words(peer: PeerResult) -> str:
    """`repack on`"""
    shown = {True: "on", False: "off"}
    return ", ".join(f"{k} {shown[v] if isinstance(v, bool) else v}" for k, v in peer.settings.items())

"""Holds the predictor against published measurements, in the open.

    python benchmarks/prediction/run.py benchmarks/prediction/published.csv -o OUT [--profiles]

Fits the profiles, leaves out one model and then one device at a time, compares with four simpler baselines, and writes
`rows.csv`, `summary.json`, `page.html` (scatter plots) and `outside.md` (what misses its interval, and why). With
--profiles the package's profiles and measured rows are written anew from all rows. Five minutes on two cores.
"""

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import baselines
import numpy as np
from features import Case
from fit import FIGURES, NAMES, VARIANTS, Data, Fit, Floats, fit, load, weights
from numpy.typing import NDArray
from outside import write_outside
from page import write_page

from motley.predict.predict import Z90
from motley.predict.published import nearest
from motley.predict.published.answer import domain, tokens_per_s
from motley.predict.published.nearest import COLUMNS

# The data's notes, no row: an all-reduce over Thunderbolt RDMA takes 67 to 98 us, 21 of them the link's.
_NOTED = {"mlx": {"reduce_us": "3.8"}}
Bools = NDArray[np.bool_]
_HELD = 0.80  # of rows that a fit without their model left inside; with it, it is more: between them four of five
_ENOUGH = 30  # rows for a spread of their own


def left_out(data: Data, weight: Floats, base: Fit, groups: Sequence[frozenset[str]]) -> Floats:
    """[R]: milliseconds predicted by a fit that saw no row with any of the same group's members."""
    ms = np.empty(len(groups))
    every = sorted(set(groups), key=sorted)
    for i, group in enumerate(every):
        if sys.stderr.isatty():
            print(f"\rleaving out {i + 1} of {len(every)}: {' '.join(sorted(group)):40.40}", end="", file=sys.stderr)
        touched = np.array([bool(group & other) for other in groups])
        mine = np.array([group == other for other in groups])
        ms[mine] = fit(data, np.where(touched, 0.0, weight), base, rounds=8).ms(data)[mine]
    print(f"\rleft out each of {len(every)} in turn{'':40}", file=sys.stderr)
    return ms


def spreads(data: Data, model_out: Floats, device_out: Floats, counted: Bools) -> dict[str, dict[str, float]]:
    """Sigmas such that `_HELD` of the `counted` rows lie within 1.28 of them: by domain, whether the device was seen,
    whether something was not stated; for classes with rows enough, of their own. What is not known never narrows."""
    cases = data.cases
    domains = np.array([domain(c.question) for c in cases])
    classes = np.array([c.question.members[0][1].cls for c in cases])
    doubted = np.array([bool(c.question.doubts) for c in cases])
    found: dict[str, dict[str, float]] = {}
    for name in sorted(set(domains)):
        for ms, unseen in ((model_out, ""), (device_out, " unseen")):
            off = np.abs(np.log(ms / data.measured))
            for doubt in (False, True):
                here = (domains == name) & (doubted == doubt) & counted
                if here.sum() < _ENOUGH:
                    here = (domains == name) & counted
                table = _by_class(off, classes, here)
                for less in {f"{name}{unseen}", f"{name}{' doubted' if doubt else ''}", name} & found.keys():
                    known = found[less]
                    wider = {c: max(table.get(c, table["any"]), known.get(c, known["any"])) for c in {*table, *known}}
                    table = wider
                found[f"{name}{unseen}{' doubted' if doubt else ''}"] = dict(sorted(table.items()))
    return found


def _by_class(off: Floats, classes: NDArray[np.str_], here: Bools) -> dict[str, float]:
    big = [str(c) for c in sorted(set(classes[here])) if (here & (classes == c)).sum() >= _ENOUGH]
    table = {c: _sigma(off[here & (classes == c)]) for c in big}
    rest = here & ~np.isin(classes, big)
    table["any"] = _sigma(off[rest]) if rest.sum() >= _ENOUGH else _sigma(off[here])
    return table


def _sigma(off: Floats) -> float:
    return round(float(np.quantile(off, _HELD)) / Z90, 3)


def coverage(data: Data, model_out: Floats, device_out: Floats, in_sample: Floats) -> dict[str, Bools]:
    """[R] whether a row lies inside an interval whose spreads were not made of its own model's rows: each half of the
    models is held against the other half's."""
    half = np.array([crc32(c.model.encode()) % 2 for c in data.cases], bool)
    inside = {how: np.zeros(len(half), bool) for how in ("in sample", "model left out", "device left out")}
    for mine in (half, ~half):
        table = spreads(data, model_out, device_out, ~mine)
        for how, ms in (("in sample", in_sample), ("model left out", model_out), ("device left out", device_out)):
            unseen = " unseen" if how == "device left out" else ""
            wide = np.array([_wide(table, c, unseen) for c in data.cases])
            inside[how][mine] = (np.abs(np.log(ms / data.measured)) < Z90 * wide)[mine]
    return inside


def _wide(table: dict[str, dict[str, float]], case: Case, unseen: str) -> float:
    q = case.question
    by = table[f"{domain(q)}{unseen}{' doubted' if q.doubts else ''}"]
    return max(by.get(h.cls, by["any"]) for _, h in q.members)


def write_profiles(path: Path, found: Fit, data: Data, spread: dict[str, dict[str, float]]) -> None:
    """The fit as the package reads it."""

    def table(head: str, rows: dict[str, object]) -> str:
        lines = [f"{_key(k)} = {v}" for k, v in rows.items()]
        return "\n".join([f"[{head}]", *lines, ""])

    def factors(who: str) -> dict[str, object]:
        logs = {name: found.value.get((name, who), 0.0) for name in NAMES}
        return {name: f"{np.exp(v):.3g}" for name, v in logs.items() if abs(v) > 0.005}

    rows = len(data.measured)
    parts = [
        f"# Written by benchmarks/prediction/run.py from {rows:,} published measurements; Motley's engines by hand\n"
        "# (benchmarks/prediction/motley_engines.toml). What the figures mean: motley/lab/profile.py.\n",
        table("any", {name: f"{FIGURES[name][0] * np.exp(found.get(name, 'any')):.3g}" for name in NAMES}),
    ]
    for column, kind in ((1, "backend"), (2, "class")):
        for who in sorted(set(data.who[column]) - {""}):
            parts.append(table(f"{kind}.{_key(who.removeprefix(kind + ' '))}", factors(who)))
    for who in sorted(set(data.who[3])):
        name = who.removeprefix("engine ")
        parts.append(table(f"engine.{_key(name)}", factors(who) | _NOTED.get(name, {})))
    for name, base in sorted(VARIANTS.items()):
        if f"variant {name}" in data.who[4]:
            parts.append(table(f"engine.{_key(name)}", {"like": f'"{base}"'} | factors(f"variant {name}")))
    parts.append((Path(__file__).parent / "motley_engines.toml").read_text())
    alone = {device for device, told in zip(data.device, data.alone) if told}  # others' own speed is not known
    speeds = {d: np.exp(found.get("speed", d)) for d in sorted(alone)}
    parts.append(table("device", {d: f"{v:.3g}" for d, v in speeds.items()}))
    parts += [table(f"spread.{_key(name)}", dict(by)) for name, by in spread.items()]
    path.write_text("\n".join(parts))


def write_measured(path: Path, data: Data, sources: dict[str, str]) -> None:
    """What the package shows beside a prediction: one device or several of a kind, each case once."""
    same: dict[tuple[object, ...], list[Case]] = {}
    for c in data.cases:
        q, w = c.question, c.question.workload
        unsaid = any("engine" in doubt or "batch" in doubt for doubt in q.doubts) or q.stated.doubt
        if len(q.members) == 1 and q.prompt is None and not unsaid and c.row.spec_decode != "suspected":
            shape, name = q.stated.shape.name, w.name
            same.setdefault((shape, c.row.quant, c.devices, q.n_devices, q.engine, name), []).append(c)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for (shape, quant, device, n, engine, test), cases in sorted(same.items(), key=str):
            middle = sorted(cases, key=lambda c: c.row.tokens_per_s or 0)[len(cases) // 2]
            active = middle.question.stated.shape.active_bytes_per_token() * middle.question.stated.factor / 1e9
            speed = f"{middle.row.tokens_per_s:.4g}"
            source = sources[middle.row.row_id].split()[0] if "http" in sources[middle.row.row_id][:4] else ""
            row = [shape, middle.kind, quant, device, n, engine, test, f"{active:.4g}", speed, len(cases), source]
            table.writerow(row)


def _key(text: str) -> str:
    return text if text.replace("_", "").replace("-", "").isalnum() else f'"{text}"'


def check_sum(data: Data, found: Fit) -> tuple[float, float]:
    """Median and largest disagreement of the fit's sum with the cost model's own. They differ by rounding, and where a
    layer's precisions are bound by different things."""
    some = data.cases[:: max(1, len(data.cases) // 150)]
    own = dict(zip((c.row.row_id for c in data.cases), found.ms(data)))
    off = [abs(1e3 * c.tokens / tokens_per_s(c.question) / own[c.row.row_id] - 1) for c in some]
    return float(np.median(off)), max(off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--profiles", action="store_true", help="write the package's profiles from these rows")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data, refused, impossible = load(args.rows)
    weight = weights(data)
    base = fit(data, weight)
    model_out = left_out(data, weight, base, [frozenset({c.model}) for c in data.cases])
    device_out = left_out(data, weight, base, [frozenset(c.devices.split("+")) for c in data.cases])
    spread = spreads(data, model_out, device_out, np.ones(len(data.cases), bool))
    if args.profiles:
        import motley.lab.profile as profile

        write_profiles(Path(profile.__file__).parent / "profiles.toml", base, data, spread)
        profile._table.cache_clear()
        with open(args.rows, newline="") as file:
            sources = {row["row_id"]: row["source_url"] for row in csv.DictReader(file)}
        write_measured(Path(nearest.__file__).parent / "measured.csv", data, sources)
        median, most = check_sum(data, base)
        print(f"the cost model's sum is the fit's: median difference {median:.2%}, at most {most:.1%}")
    results = {
        "in sample": base.ms(data),
        "model left out": model_out,
        "device left out": device_out,
        **baselines.predictions(data),
    }
    inside = coverage(data, model_out, device_out, results["in sample"])
    summary = summarise(data, results, inside, refused) | {"impossible": impossible}
    summary["outside"] = write_outside(args.output / "outside.md", data, results["in sample"])
    (args.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_rows(args.output / "rows.csv", data, results)
    write_page(args.output / "page.html", data, results, summary)
    for name, by in summary["errors"].items():
        print(f"{name:44}", "  ".join(f"{how}: {e['median']:.3f} (n={e['n']})" for how, e in by.items()))


SETS: dict[str, Callable[[str, bool], bool]] = {  # of a domain, whether on several devices
    "MoE decode, one device": lambda d, s: d == "decode moe",
    "dense decode, one device": lambda d, s: d == "decode dense",
    "several devices and hybrids, decode": lambda d, s: d == "several",
    "prompts, one device": lambda d, s: d == "prefill" and not s,
    "prompts, several": lambda d, s: d == "prefill" and s,
    "batches": lambda d, s: d == "batch",
    "servers": lambda d, s: d == "serving",
}


def summarise(
    data: Data, results: dict[str, Floats], inside: dict[str, Bools], refused: list[tuple[str, str]]
) -> dict[str, Any]:
    """Median and quartiles of |predicted speed / measured - 1| for each set of rows and each way of predicting."""
    errors: dict[str, dict[str, dict[str, float]]] = {}
    flagged = np.array([c.row.spec_decode == "suspected" for c in data.cases])
    for name, belongs in SETS.items():
        mine = np.array([belongs(domain(c.question), c.question.n_devices > 1) for c in data.cases]) & ~flagged
        errors[name] = {}
        for how, ms in results.items():
            known = mine & np.isfinite(ms)
            if known.any():
                off = np.abs(data.measured[known] / ms[known] - 1)
                errors[name][how] = {
                    "n": int(known.sum()),
                    "median": round(float(np.median(off)), 4),
                    "third_quartile": round(float(np.quantile(off, 0.75)), 4),
                }
                if how in inside:
                    errors[name][how]["inside"] = round(float(inside[how][known].mean()), 3)
    reasons = Counter(_kind_of(reason) for _, reason in refused)
    common = reasons.most_common(12)
    return {"rows": len(data.cases), "refused": len(refused), "reasons": dict(common), "errors": errors}


def _kind_of(reason: str) -> str:
    """Without the names and numbers of one row."""
    return re.sub(r"'[^']*'|\d[\d,.]*", "...", reason.split(":")[0].split(" (")[0])


def write_rows(path: Path, data: Data, results: dict[str, Floats]) -> None:
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row_id", "domain", "model", "device", "engine", "measured", *results])
        for i, c in enumerate(data.cases):
            speeds = [1e3 * c.tokens / ms[i] for ms in (data.measured, *results.values())]
            table.writerow(
                [c.row.row_id, domain(c.question), c.question.stated.shape.name, c.devices, c.question.engine]
                + ["" if not np.isfinite(s) else f"{s:.4g}" for s in speeds]
            )


if __name__ == "__main__":
    main()

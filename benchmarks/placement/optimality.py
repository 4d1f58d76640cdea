"""How far the planner is from the true optimum, on a thousand small random questions.

    PYTHONPATH=src python benchmarks/placement/optimality.py [--cases 1000] [--larger] [--json FILE] [--markdown FILE]

Gap: the time of the planner's placement over the optimum's, less one, both by the same cost model. Exit status 1 where
a gap is 2 % or more, or where one finds what fits and the other does not. Needs scipy.
"""

import argparse
import json
import sys
from math import inf
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from cases import CONTEXT, Case, case
from optimum import optimum

from motley.errors import CapacityError
from motley.plan.search import find_placement
from motley.predict.cost import CostModel
from motley.predict.predict import price

LIMIT = 0.02


def planned(question: Case, seconds: float | None = None) -> float:
    """Milliseconds of the objective's steps on the planner's placement; infinite where it finds none."""
    q = question
    try:
        plan = find_placement(
            q.shape, q.lab, None, q.routes, CONTEXT, 1, q.head, q.homes, seconds=seconds, objective=q.objective
        )
    except CapacityError:
        return inf
    # Where something has to stay in the file, the search asks for all to stay (and so does `optimum`).
    lab = q.lab.with_stored(d.name for d in q.lab.devices) if plan.stored else q.lab
    models = [(CostModel(q.shape, lab, w, q.routes, q.head), steps) for w, steps in q.objective.parts]
    return sum(steps * price(model, plan.placement).ms_per_step for model, steps in models)


def gap(found: float, best: float) -> float:
    if found == best == inf:
        return 0.0
    return found / best - 1 if best < inf else -1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--larger", action="store_true", help="up to 8 layers and 8 experts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    rows = []
    for seed in range(args.first, args.first + args.cases):
        question = case(seed, args.larger)
        started = perf_counter()
        found = planned(question)
        searched = perf_counter()
        best = optimum(question)
        took = {"planner_s": searched - started, "optimum_s": perf_counter() - searched}
        rows.append({"seed": seed, "case": question.name, "planner_ms": found, "optimum_ms": best} | took)
        rows[-1]["gap"] = gap(found, best)
        if abs(rows[-1]["gap"]) > 1e-3:
            print(
                f"{seed}: {question.name}: {found:.4f} ms, optimum {best:.4f} ms, gap {rows[-1]['gap']:.2%}", flush=True
            )
    text = report(rows)
    print(text)
    if args.json:
        lines = [json.dumps({k: None if v == inf else _short(v) for k, v in row.items()}) for row in rows]
        args.json.write_text("[\n" + ",\n".join(lines) + "\n]\n")  # null: nothing fits
    if args.markdown:
        args.markdown.write_text(text + "\n")
    return int(any(not -1e-3 < row["gap"] < LIMIT for row in rows))


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def report(rows: list[dict]) -> str:
    gaps = np.array([row["gap"] for row in rows])
    fits = [row for row in rows if row["optimum_ms"] < inf]
    lines = [
        "| questions | cases | greatest gap | gap over 0.1 % | planner, median s | greatest s |",
        "|---|---|---|---|---|---|",
    ]
    kinds = {
        "all": rows,
        "nothing fits (both say so)": [row for row in rows if row["optimum_ms"] == inf],
        "without a trace": [row for row in fits if "traced" not in row["case"]],
        "with a trace": [row for row in fits if "traced" in row["case"]],
        **{f"{n} devices": [row for row in fits if row["case"].startswith(str(n))] for n in (2, 3, 4)},
    }
    for name, some in kinds.items():
        if some:
            of, took = np.array([row["gap"] for row in some]), np.array([row["planner_s"] for row in some])
            cells = [name, len(some), f"{of.max():.2%}", (of > 1e-3).sum()]
            lines.append("| " + " | ".join(map(str, [*cells, f"{np.median(took):.2f}", f"{took.max():.2f}"])) + " |")
    lines += ["", f"{(gaps < LIMIT).sum()} of {len(rows)} below {LIMIT:.0%}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

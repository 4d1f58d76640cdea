"""`motley predict`: how fast a model would run on a lab, for several workloads, and the sum behind it. With --rows: how
fast published measurements should have been."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import motley
from motley.cli import placing
from motley.cli.options import counts, output_file, writing
from motley.errors import CapacityError, UsageError
from motley.lab.lab import Lab, shortened
from motley.plan.plan import Plan
from motley.plan.search import find_placement
from motley.plan.show import placement_json, step_size_json
from motley.predict.memory import gigabytes
from motley.predict.predict import Prediction, predict
from motley.predict.show import Refusal, prediction_rows, predictions_json
from motley.predict.workload import STEP_TOKENS, Workload
from motley.shape.model import ModelShape

if TYPE_CHECKING:
    from motley.predict.explain import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    placing.add_arguments(parser, required=False)
    parser.add_argument(
        "--workload",
        default="tg64,pp512",
        metavar="LIST",
        help="pp512, tg64@d32768, tg64x4, ...; the first decides the placement (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=counts, default=[], metavar="LIST", help="tg workloads with so many sequences at once"
    )
    parser.add_argument("--explain", action="store_true", help="print the terms of each sum: bytes, rates, launches")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the predictions for programs")
    rows = "predict every row of a table of measurements instead: model and machines are its columns"
    parser.add_argument("--rows", type=Path, metavar="FILE.csv", help=rows)
    answers = "write a row for each: row_id, predicted_p10, predicted_p50, predicted_p90, reason"
    parser.add_argument("-o", "--output", type=output_file, metavar="OUT.csv", help=answers)


def workloads(text: str, chunk: int = STEP_TOKENS) -> list[Workload]:
    return [Workload.parse(name, chunk=chunk) for name in text.split(",")]


def run(args: argparse.Namespace) -> int:
    if args.rows:
        from motley.cli.published import published

        return published(args)
    if not args.model or not args.lab:
        raise UsageError("name a model and a lab: `motley predict olmoe-1b-7b --lab LAB`; or give --rows and -o")
    if args.output:
        raise UsageError("-o is where --rows writes: for one model's predictions take --json")
    asked = placing.question(args)
    shape, wanted = asked.shape, batched(workloads(args.workload, args.step_tokens), args.batch)
    placing.check_length(shape, wanted[:1])
    plan = find_placement(
        shape,
        asked.lab,
        wanted[0],
        asked.routes,
        args.context,
        args.slots,
        homes=args.home,
        repack=args.repack,
        copies=args.copies,
        split_rows=args.split_rows,
    )
    lab = asked.lab.with_stored(plan.stored)
    found = [_predicted(asked, lab, plan, workload) for workload in wanted]
    explained = _explained(asked, lab, plan, found) if args.explain else []
    if args.json:  # before the text: whoever reads that may stop reading
        with writing(args.json):
            args.json.write_text(json.dumps(_document(asked, plan, found, explained), indent=1) + "\n")
    used = shortened(sorted({d for layer in plan.placement.layers for d in (layer.home, *layer.holders)}))
    print(f"{shape.name}, {gigabytes(shape.n_bytes)}, on {used}: placed for {wanted[0].name}")
    print("\n".join(["", *prediction_rows(found)]))
    print("\n".join(_nearest(shape, lab, plan, wanted)))
    for text in _sums(explained):
        print("\n".join(["", text]))
    return 0


def _nearest(shape: ModelShape, lab: Lab, plan: Plan, wanted: Sequence[Workload]) -> list[str]:
    """What others measured that is most like it: a prediction should not stand alone. Nothing for probed labs."""
    from motley.predict.published.nearest import nearest

    used = {d for layer in plan.placement.layers for d in (layer.home, *layer.holders)}
    kinds = {w.kind: w for w in reversed(wanted)}
    found = dict.fromkeys(m for w in kinds.values() for m in nearest(shape, lab, used, w))
    return ["", "Nearest that others measured:", *(f"  {m}" for m in found)] if found else []


def batched(named: list[Workload], batches: list[int]) -> list[Workload]:
    """Each decode workload of one sequence at every batch; the others as they are."""
    found: list[Workload] = []
    for workload in named:
        many = batches if workload.kind == "decode" and workload.batch == 1 else []
        found += [replace(workload, batch=n) for n in many] or [workload]
    return list(dict.fromkeys(found))


def _predicted(asked: placing.Question, lab: Lab, plan: Plan, workload: Workload) -> Prediction | Refusal:
    if workload == plan.prediction.workload:
        return plan.prediction
    if why := workload.too_long(asked.shape.context):
        return Refusal(workload, why)
    try:
        return predict(asked.shape, lab, plan.placement, workload, asked.routes)
    except CapacityError as error:
        return Refusal(workload, str(error))


def _explained(
    asked: placing.Question, lab: Lab, plan: Plan, found: Sequence[Prediction | Refusal]
) -> "list[Explanation]":
    from motley.predict.explain import explain

    predicted = [one.workload for one in found if isinstance(one, Prediction)]
    return [explain(asked.shape, lab, plan.placement, workload, asked.routes) for workload in predicted]


def _sums(explained: "Sequence[Explanation]") -> list[str]:
    from motley.predict.explain import explanation_text

    return [explanation_text(one) for one in explained]


def _document(
    asked: placing.Question, plan: Plan, found: Sequence[Prediction | Refusal], explained: "Sequence[Explanation]"
) -> dict[str, Any]:
    shape, sums = asked.shape, {one.workload: one for one in explained}
    predictions = predictions_json(found)
    for one, entry in zip(found, predictions):
        if one.workload in sums:
            entry["sum"] = [asdict(line) | {"rate": line.rate} for line in sums[one.workload].lines]
            entry["notes"] = list(sums[one.workload].notes)
    return {
        "motley": motley.__version__,
        "model": {"name": shape.name, "architecture": shape.architecture, "bytes": shape.n_bytes},
        "devices": [{"name": d.name, "kind": d.kind, "source": d.source} for d in asked.lab.devices],
        **step_size_json(plan.objective),
        "placement": placement_json(plan.placement),
        "stored": sorted(plan.stored),
        "predictions": predictions,
    }

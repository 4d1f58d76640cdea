"""`motley predict --rows`: a prediction for every row of a table of measurements, or why there is none."""

import argparse
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from motley.cli.options import writing
from motley.errors import UsageError
from motley.predict.published.rows import Answer, Row, read_rows, write_answers
from motley.predict.workload import STEP_TOKENS

_COMMONEST = 8


def published(args: argparse.Namespace) -> int:
    rows, output = _asked(args)
    from rich.console import Console

    from motley.cli.show import shown
    from motley.predict.published.answer import answers

    found = []
    with shown(Console(stderr=True)) as progress:
        for i, answer in enumerate(answers(args.rows)):
            found.append(answer)
            progress(f"predicting rows: {i + 1} of {len(rows)}", (i + 1) / len(rows))
    with writing(output):
        write_answers(output, found)
    print("\n".join([*summary(rows, found), "", f"answers: {output}"]))
    return 0


def _asked(args: argparse.Namespace) -> tuple[list[Row], Path]:
    """The rows, and where to write: all that can be wrong is said before the work."""
    if args.model or args.lab or args.json or args.explain or args.step_tokens != STEP_TOKENS:
        raise UsageError(
            "--rows takes models, machines and their engines from its table: leave MODEL, --lab, --json, --explain and "
            "--step-tokens out"
        )
    if not args.output:
        raise UsageError("--rows needs -o OUT.csv to write its answers to")
    if args.output.exists() and args.output.samefile(args.rows):
        raise UsageError(f"{args.output} is the table itself: write the answers elsewhere")
    return read_rows(args.rows), args.output


def summary(rows: Sequence[Row], answers: Sequence[Answer]) -> Iterator[str]:
    """How many were predicted, how well where the table says it, and why the others were not."""
    predicted = [a for a in answers if a.p50 is not None]
    yield f"{len(predicted):,} of {len(answers):,} rows predicted, {len(answers) - len(predicted):,} refused"
    yield from _held_against(rows, predicted)
    reasons = Counter(kind_of(a.reason) for a in answers if a.p50 is None)
    for kind, n in reasons.most_common(_COMMONEST):
        yield f"{n:6,}  {kind}"
    if len(reasons) > _COMMONEST:
        yield f"{sum(reasons.values()) - sum(n for _, n in reasons.most_common(_COMMONEST)):6,}  for other reasons"


def _held_against(rows: Sequence[Row], predicted: Sequence[Answer]) -> Iterator[str]:
    measured = {row.row_id: row.tokens_per_s for row in rows}
    errors, inside = [], 0
    for a in predicted:
        speed = measured.get(a.row_id)
        if speed and a.p10 is not None and a.p50 is not None and a.p90 is not None:
            errors.append(abs(a.p50 / speed - 1))
            inside += a.p10 <= speed <= a.p90
    if errors:
        share = 100 * inside / len(errors)
        middle = 100 * statistics.median(errors)
        yield f"beside the measured speeds: median error {middle:.0f} %, {share:.0f} % inside p10 to p90"


def kind_of(reason: str) -> str:
    """A reason without what is particular to its row: `the model '...' is not in the catalogue`."""
    plain = re.sub(r" \(.*\)", "", re.sub(r"'[^']*'", "'...'", reason.split(": ")[0]))
    return re.sub(r"\b\d+\b", "n", plain)

"""The requests as CSV: what was predicted, what was measured, a line a test. No cell is a formula to a spreadsheet."""

import csv
import io

from motley.bench.export import cell
from motley.board import views
from motley.board.board import Board
from motley.board.store import Filter

COLUMNS = (
    "request",
    "state",
    "votes",
    "model",
    "quant",
    "hardware",
    "test",
    "predicted_p10",
    "predicted_p50",
    "predicted_p90",
    "measured_tokens_per_s",
    "check_passed",
    "reason",
    "asked_at",
    "changed_at",
)


def csv_of(board: Board, most: int | None = None) -> str:
    """Of all requests, or of the first so many."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for request in board.store.requests(Filter(limit=most)):
        view = views.request_view(board, request)
        check = view.result.check if view.result else None
        for compared in view.compared or (None,):
            speed = compared.speed if compared else None
            row = [
                request.id,
                request.state,
                request.votes,
                request.model,
                request.quant,
                request.hardware or "here",
                speed.test if speed else "",
                *((speed.p10, speed.p50, speed.p90) if speed else ("", "", "")),
                compared.here.median if compared and compared.here else "",
                check.passed if check else "",
                request.reason,
                request.asked_at,
                request.changed_at,
            ]
            writer.writerow(map(cell, row))
    return out.getvalue()

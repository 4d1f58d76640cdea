"""A trace as Chrome and Perfetto read it (Trace Event Format, complete events): a lane per device and per link.

Open it at ui.perfetto.dev or chrome://tracing; both read the file in the browser, nothing is sent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motley.engine.trace import Span


def write_trace(spans: Sequence[Span], clock_error_us: dict[str, float], path: Path) -> None:
    """`clock_error_us`: by device, how far its times may be off against the head's."""
    first = min((span.start for span in spans), default=0.0)
    lanes = {
        lane: i for i, lane in enumerate(sorted({s.lane for s in spans}, key=lambda lane: (" -> " in lane, lane)), 1)
    }
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "motley"}}]
    for lane, number in lanes.items():
        told = f"{lane} (clock within {clock_error_us[lane]:.0f} us)" if clock_error_us.get(lane) else lane
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": told}})
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}})
    for span in sorted(spans, key=lambda s: s.start):
        times = {"ts": round(1e6 * (span.start - first), 3), "dur": round(1e6 * (span.end - span.start), 3)}
        events.append({"ph": "X", "pid": 1, "tid": lanes[span.lane], "name": span.name, **times})
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

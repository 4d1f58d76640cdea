"""A board for tests: figures that need no probing, settings as given, results by hand."""

import json
from pathlib import Path
from typing import Any

from bench_sample import sample_result
from motley.bench.result import Result, to_json
from motley.board.board import Board, make_admin_token

LAB = """
[[device]]
name = "node0"
node = "node0"
kind = "cpu"
memory_bytes = 8_000_000_000
threads = 1
read_gb_s = 10.0
int8_gops = 100.0
f32_gflops = 50.0
op_overhead_us = 5.0
"""


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
TURNING = "\u202egnp.evil\u202c \u2066\u200b\x1b[31m\x07"
FORMULA = '=HYPERLINK("http://evil.example","x")'
MARKDOWN = "[x](javascript:alert(1)) ![](http://evil.example/p.png) | a | b |"
PATH = "../../etc/passwd"
TEMPLATE = "{{ 7 * 7 }}{% raw %}"
TOWER = "a" + "\u0301" * 500_000 + "\u0323" * 500_000  # normalised as it is, that would take hours
GROWING = "\u0958" * 600  # each is two characters when it is normalised
HOSTILE = (SCRIPT, TURNING, FORMULA, MARKDOWN, TEMPLATE, PATH, "a\u0300" * 400, TOWER, GROWING, "\ud800", "\x00\x1f")


def board(folder: Path, settings: str = "[public]\nmoderated = false\n") -> Board:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab.toml").write_text(LAB)
    (folder / "board.toml").write_text(settings)
    make_admin_token(folder)
    return Board(folder)


def result_json(**changes: Any) -> bytes:
    """`lab__devices__0__name="x"` changes what lies there."""
    document = json.loads(to_json(sample()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        at: Any = document
        for key in parents:
            at = at[int(key)] if key.isdecimal() else at[key]
        at[int(last) if last.isdecimal() else last] = value
    return json.dumps(document).encode("utf-8", "surrogatepass")


def sample() -> Result:
    found: Result = sample_result()
    return found

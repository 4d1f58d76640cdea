"""docs/cli.md is what tools/cli_docs.py writes, and the design's forms are in it."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "cli_docs.py"))


def test_page_is_current() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == TOOL["document"](TOOL["build_parser"]()), "run: python tools/cli_docs.py"


def test_every_command_is_there() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in ("bench", "run", "plan", "probe", "node", "synth", "report"):
        assert f"## motley {name}\n" in text
    for option in (
        "--shape",
        "--quant",
        "--nodes",
        "--lab",
        "--threads",
        "--pp",
        "--tg",
        "--depth",
        "--batch",
        "--repeat",
        "--peer",
        "--json",
    ):
        assert f"`{option}" in text.partition("## motley run")[0], option

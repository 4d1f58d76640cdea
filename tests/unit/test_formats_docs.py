"""docs/formats.md is what tools/formats_docs.py writes. tests/parity/test_layout.py measures the memory."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "formats_docs.py"))


def test_page_is_current() -> None:
    written = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert written == TOOL["document"](), "run: python tools/formats_docs.py"

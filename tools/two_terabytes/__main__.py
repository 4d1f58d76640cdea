"""Write docs/two-terabytes.md: what one Blackwell card and nearly two terabytes of Macs would run, and how fast.

    python tools/two_terabytes [--engine NAME] [--looks N] [-o FILE]

Everything comes from the package: the labs that ship, the shapes, the planner, the cost model. Nothing of it was
measured on such a cluster; the page says so. About four minutes on two cores.

`answers` plans and prices, `page` asks and writes, `uncertain` moves figures. `tests/unit/test_two_terabytes.py` holds
that the page is this script's.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

from answers import LOOKS, Answers, big_models  # noqa: E402
from page import page  # noqa: E402

PAGE = ROOT / "docs" / "two-terabytes.md"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/two-terabytes.md.")
    parser.add_argument("--engine", default="motley", help="whose speeds the devices have (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=LOOKS, help="of each search at its clock (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="default: docs/two-terabytes.md")
    args = parser.parse_args()
    text = page(Answers(args.engine, args.looks), big_models())
    args.output.write_text(text, encoding="utf-8")
    print(f"wrote {args.output}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""How long the server's page takes in a browser, and how much it sends. Needs Chromium and `pip install ".[browser]"`;
in a checkout: PYTHONPATH=src.

    python benchmarks/serve/page.py [--rounds 9]

Each round is a new browser context, so nothing is cached: from asking for the address until the cluster is drawn.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Request, sync_playwright
from servers import motley

sys.path.append(str(Path(__file__).parents[2] / "tests" / "browser"))

from chromium import CHROMIUM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with motley(2, 1) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        rounds = [visit(browser, server.url) for _ in range(args.rounds + 1)][1:]  # the first warms up
        browser.close()
    seconds = [round(drawn, 3) for drawn, _ in rounds]
    print(f"drawn after {statistics.median(seconds)} s (median of {seconds}); {rounds[-1][1] / 1e3:.1f} kB sent")


def visit(browser: Browser, url: str) -> tuple[float, int]:
    """Seconds until the cluster is drawn, and bytes of the bodies that were sent by then."""
    context = browser.new_context()
    page = context.new_page()
    finished: list[Request] = []
    page.on("requestfinished", lambda request: finished.append(request))  # Playwright marks what it calls
    started = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("#devices td")
    seconds = time.perf_counter() - started
    sent = sum(request.sizes()["responseBodySize"] for request in finished)
    context.close()
    return seconds, sent


if __name__ == "__main__":
    main()

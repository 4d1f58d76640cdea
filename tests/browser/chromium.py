"""What tests of pages need: a Chromium, driven by Playwright. `skip` says what is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A playwright `Browser`."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not there: pip install 'motley-moe[browser]'"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        # Containers rarely allow Chromium's own sandbox, and the pages are ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def serious(page: Any) -> list[str]:
    """What axe finds wrong for people who see, hear or move differently: its serious and critical violations."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there: motley-moe[browser]")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{x['id']}: {x['nodes'][0]['html']} {x['nodes'][0]['failureSummary']}"
        for x in found
        if x["impact"] in ("serious", "critical")
    ]

"""The board in a browser: a request filed there ends as a measured answer untouched; no field runs a script;
nothing is wider than a phone; axe finds nothing serious. Skipped where Chromium or Playwright is not there."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, serious

from board_fakes import FORMULA, SCRIPT, TEMPLATE, board, result_json
from motley.board.ask import Ask
from motley.board.board import Board
from motley.board.export import export
from motley.board.states import State

pytest.importorskip("uvicorn", reason="the pages need the extra [serve]")
pytest.importorskip("python_multipart", reason="the pages need the extra [serve]")

OPEN = "repeat = 1\n[public]\nmoderated = false\n"
ANSWERED = "responded with a status of 422"  # a form that was filled in wrongly: the browser notes that
EVIL = SCRIPT + '<a href="javascript:alert(4)">x</a>' + TEMPLATE


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return board(tmp_path_factory.mktemp("board"), OPEN)


@pytest.fixture(scope="module")
def address(there: Board, chromium: Any) -> Iterator[str]:
    """The real command, with its runner beside it. Not started where there is no browser."""
    words = [sys.executable, "-m", "motley", "board", "serve", "--run", "--port", "0", "--board", str(there.folder)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    said = server.stdout.readline()
    yield said.rpartition(" ")[2].strip().rstrip("/")
    server.terminate()
    assert server.wait(60) == 0


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A phone. Whatever a script would do, or the policy had to stop, is a failure."""
    context = chromium.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark")
    found, wrong = context.new_page(), []
    found.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    found.on("console", lambda message: ANSWERED in message.text or wrong.append(f"{message.text} at {found.url}"))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    yield found
    context.close()
    assert wrong == []


def wide(page: Any) -> int:
    """How many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_filed_in_the_browser_measured_without_another_touch(there: Board, address: str, page: Any) -> None:
    page.goto(address)
    page.get_by_role("link", name="Ask for a benchmark").first.click()
    page.get_by_label("Prompt tokens to read").fill("16")
    page.get_by_label("Tokens to generate").fill("8")
    page.get_by_role("button", name="Show the prediction").click()
    assert page.get_by_text("It can be measured here").is_visible()
    page.get_by_role("button", name="File the request").click()
    assert page.get_by_role("heading", name="motley-8m").is_visible()
    permalink, until = page.url, time.monotonic() + 240
    while there.store.get(int(permalink.rpartition("/")[2])).state is not State.MEASURED:
        assert time.monotonic() < until, there.store.events(1)
        time.sleep(0.2)
    page.goto(permalink)
    text = page.locator("main").inner_text()
    for words in ("Predicted and measured", "✓ equal", "motley bench --lab lab.toml --pp 16 --tg 8", "128 of 128"):
        assert words in text
    assert page.locator("svg.strip .median").count() == 2
    assert page.locator("svg.map").count() == 1
    assert wide(page) == 0


def test_no_field_runs_a_script(there: Board, address: str, page: Any, tmp_path: Path) -> None:
    """Filed through the forms, with names in other people's results, on every page and in the export."""
    page.goto(f"{address}/ask")
    for name in ("model", "quant", "hardware", "note"):
        page.locator(f"[name={name}]").fill(EVIL[:60])
        page.get_by_role("button", name="Show the prediction").click()
        page.locator(f"[name={name}]").fill("")
    page.locator("[name=pp]").fill("1000000")
    page.locator("[name=note]").fill(EVIL)
    page.get_by_role("button", name="File the request").click()
    there.ask(Ask(pp=3, tg=0, hardware="rtx-5090", note=EVIL + FORMULA))
    names = ("command", "model__name", "model__quant", "model__file", "machine__cpu", "commit", "reasons__0")
    result, _ = there.submit(
        result_json(**dict.fromkeys(names, EVIL)).replace(b'"big"', b'"<b onclick=alert(5)>"'), EVIL
    )
    request = there.ask(Ask(pp=3, tg=0, hardware="rtx-5090"))[0]
    export(there, tmp_path / "site")
    for url in (address, f"{address}/requests/{request}", f"{address}/results/{result}", f"{address}/?words={EVIL}"):
        page.goto(url)
    for file in sorted((tmp_path / "site").rglob("*.html")):
        page.goto(file.as_uri())
        assert wide(page) == 0
    assert "onload=alert(3)" in page.locator("main").inner_text()


def test_axe_finds_nothing_serious(there: Board, address: str, page: Any) -> None:
    result, _ = there.submit(result_json(date="2026-01-01"))
    request, _ = there.ask(Ask(model="deepseek-v2-lite", hardware="rtx-5090"))
    paths = ["/", "/ask", "/ask?model=olmoe-1b-7b", "/ask?model=nothing", "/submit", "/about"]
    for path in (*paths, f"/results/{result}", f"/requests/{request}", "/requests/1"):
        page.goto(address + path)
        assert serious(page) == [], path
        assert wide(page) == 0, path

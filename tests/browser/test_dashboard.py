"""The server's page in a browser: a real server over three nodes of this machine, one of which dies."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, serious

pytest.importorskip("starlette", reason="the serve extra is not there: pip install 'motley-moe[serve]'")

VIEWS = ("cluster", "experts", "chat", "what-if", "results")


@dataclass
class Server:
    address: str
    nodes: dict[str, int]  # name -> process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "motley", "serve", "--nodes", "3", "--port", "0", "--slots", "2"]
    data = tmp_path_factory.mktemp("data")
    env = os.environ | {"MOTLEY_DATA": str(data)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"its page at (http://\S+)/;", line):
                yield Server(found[1], {n: int(p) for n, p in re.findall(r"(node\d) \(process (\d+)", said)})
                break
        else:
            pytest.fail(said)
        process.send_signal(signal.SIGINT)
        process.stderr.read()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """The page, open; what it asked for and what went wrong are checked at the end."""
    context = chromium.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    wrong: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.address)
    opened.wait_for_selector("#devices td")
    yield opened
    context.close()
    assert not wrong
    elsewhere = [url for url in asked if not url.startswith((server.address, "data:", "blob:"))]
    assert not elsewhere


def go(page: Any, view: str) -> None:
    page.click(f"nav >> a[href='#{view}']")
    page.wait_for_selector(f"#view-{view}:visible")


def say(page: Any, words: str) -> None:
    page.fill("#words", words)
    page.click("#send")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for view in VIEWS:
        go(page, view)
        assert serious(page) == []


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for view in VIEWS:
        go(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_the_cluster_is_drawn(page: Any) -> None:
    label = page.get_attribute("#picture svg", "aria-label")
    assert re.search(r"node\d: home of \d layers?", label)
    assert "3 links" in label
    assert page.locator("#links tbody tr").count() == 3
    assert "µs" in page.text_content("#picture")
    assert re.match(r"[\d,]+ \([\d,]+ to [\d,]+\)", page.inner_text("#tile-predicted"))


def test_chat(page: Any) -> None:
    go(page, "chat")
    page.click("summary")
    page.fill("#most", "900")
    page.fill("#temperature", "0")
    say(page, "The king")
    page.wait_for_selector("#talk .assistant pre:not(:empty)")
    page.click("#stop")
    page.wait_for_selector("#talk .assistant footer:has-text('stopped')")
    page.fill("#most", "12")
    page.click("#again")
    page.wait_for_selector("#talk .assistant footer:has-text('length')")
    first = page.inner_text("#talk .assistant pre")
    page.click("#again")
    page.wait_for_selector("#again:enabled")
    page.wait_for_selector("#talk .assistant footer:has-text('length')")
    assert page.locator("#talk .assistant").count() == 1
    assert page.inner_text("#talk .assistant pre") == first
    assert "+ 12 tokens" in page.inner_text("#talk .assistant footer")
    page.fill("#most", "100000")
    say(page, "<img src=x onerror=alert(1)>")
    page.wait_for_selector("#talk .bad")
    assert "context" in page.inner_text("#talk .bad")
    assert page.locator("#talk img").count() == 0


def test_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-chat:visible")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    page.keyboard.type("Once")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .assistant pre:not(:empty)")


def test_experts(page: Any) -> None:
    go(page, "chat")
    say(page, "The king said")
    page.wait_for_selector("#talk .assistant footer:has-text('tok/s')")
    go(page, "experts")
    assert page.locator("#busiest tbody tr").count() == 4
    page.focus("div.heat")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    told = page.inner_text("#expert-told")
    assert re.fullmatch(r"Layer 1, expert 1: chosen [\d,]+ times \([\d.]+ times an even share\), on node\d\.", told)
    page.select_option("#experts-of", "all")
    painted = """() => { const c = document.querySelector("#heat");
        return new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size }"""
    page.wait_for_function(f"({painted})() > 10")


def test_what_if(page: Any) -> None:
    go(page, "what-if")
    page.fill("#plan-changes", "add m3-ultra-512 @10gbe\ndrop node2")
    page.click("#plan-go")
    page.wait_for_selector("#plan-go:enabled")
    assert page.inner_text("#plan-state") == "found"
    rows = page.locator("#outcomes tbody tr").all_inner_texts()
    names = [row.split("\t")[0] for row in rows]
    assert names == ["as it is", "add m3-ultra-512 @10gbe", "drop node2", "all together"]
    assert page.locator("#plan-pictures svg").count() == sum("\tyes\t" in row for row in rows)
    page.fill("#plan-changes", "explode node2")
    page.click("#plan-go")
    page.wait_for_selector("#plan-go:enabled")
    assert page.inner_text("#plan-state") == "a change begins with add, drop or swap, not 'explode'"


def test_what_a_restarted_server_tells_is_shown(page: Any) -> None:
    """Its events are numbered from 1 again; those that were shown already are not shown twice."""
    lives = iter([[(1, 100.0, "first"), (2, 101.0, "second")], [(1, 200.0, "after the restart")]])
    told: list[tuple[int, float, str]] = []

    def answer(route: Any) -> None:  # what it says ends at once, and the page asks again
        told[:] = next(lives, told)
        events = [{"n": n, "clock": clock, "kind": "node", "text": text} for n, clock, text in told]
        route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps({'events': events})}\n\n")

    page.route("**/api/events", answer)
    page.reload()
    page.wait_for_selector("#events:has-text('after the restart')")
    page.wait_for_selector("#trouble:visible")
    shown = page.evaluate("[...document.querySelectorAll('#events li')].map((li) => li.lastChild.textContent)")
    assert shown == ["after the restart", "second", "first"]


def test_exchanges_of_both_ends_are_added_up(page: Any) -> None:
    ways = (("node0", "node1", 30, 0.003, 0.001), ("node1", "node0", 10, 0.003, 0.001), ("node0", "node2", 7, 0.1, 0.2))
    names = ("a", "b", "count", "seconds", "work_seconds")
    told = {"placed": None, "exchanges": [dict(zip(names, way), transport="tcp") for way in ways]}
    body = f"data: {json.dumps(told)}\n\n"
    page.route("**/api/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.reload()
    page.wait_for_selector("#links tr:has-text('node0 – node1')")
    rows = dict(text.split("\t", 1) for text in page.locator("#links tbody tr").all_inner_texts())
    assert rows["node0 – node1"].endswith("\t40\t100 µs")
    assert rows["node0 – node2"].endswith("\t7\t0 µs")
    assert rows["node1 – node2"].endswith("\t0\tnone yet")


def test_results(page: Any) -> None:
    go(page, "results")
    page.wait_for_selector("#results-none:visible")
    assert "motley bench" in page.inner_text("#results-none")


def test_a_node_dies_before_your_eyes(page: Any, server: Server, tmp_path: Path) -> None:
    """Last: the others want all nodes."""
    go(page, "chat")
    page.click("summary")
    page.fill("#temperature", "0")  # a story by chance may end before its 800 tokens
    page.fill("#most", "800")
    say(page, "A long story")
    page.wait_for_selector("#talk .assistant pre:not(:empty)")
    used = set(re.findall(r"(node\d): home|(node\d): [\d.]+ % of", page.get_attribute("#picture svg", "aria-label")))
    victim = next(name for pair in used for name in pair if name and name != "node0")
    os.kill(server.nodes[victim], signal.SIGKILL)
    go(page, "cluster")
    page.wait_for_selector(f"#events:has-text('{victim} is lost')")
    page.wait_for_selector("#events:has-text('the streams go on')")
    page.wait_for_selector(f"#devices tr:has-text('{victim}') .lost")
    go(page, "chat")
    page.wait_for_selector("#talk .assistant footer:has-text('tokens')", timeout=60_000)
    assert "800 tokens" in page.inner_text("#talk .assistant footer")

"""Pages in a browser: nothing is wider than a phone. Skipped where there is no Chromium."""

import html
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from chromium import CHROMIUM

from bench_sample import sample_served, sample_suite
from motley.bench.report import page as bench_page
from motley.lab.lab import Device, Kernel, Lab, Link
from motley.plan.picture.facts import Asked
from motley.plan.picture.page import render
from motley.plan.search import find_placement
from motley.predict.workload import Workload
from motley.shape.model import ModelShape

# A page of its own measures the other one in a frame of the width asked for, and writes what it found.
FRAME = """<!doctype html><body><iframe srcdoc="{page}" style="width:{width}px;height:3000px;border:0"></iframe>
<p id="found"></p><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const root = frame.contentDocument.documentElement, wide = [];
  for (const e of root.querySelectorAll("main *")) {{
    if (e.closest(".scroll") || e.closest("svg") && e.tagName != "svg") continue;
    const box = e.getBoundingClientRect();
    if (box.width && box.right > root.clientWidth + 1) wide.push(e.tagName + "." + e.getAttribute("class"));
  }}
  const over = root.scrollWidth - root.clientWidth;
  document.querySelector("#found").textContent = "over " + over + " wide [" + wide.join(" ") + "]";
}};
</script>"""


def small(name: str, speed: float, memory: float) -> Device:
    kernel = Kernel("q4_k", 600 * speed, ((2**13, 40 * speed), (2**14, 18 * speed)))
    return Device(name, name, "cpu", int(memory), 2, 20 * speed, 1000 * speed, 100 * speed, 4, kernels=(kernel,))


def plan_page() -> str:
    long = "a-machine-with-a-name-that-nobody-would-type-" * 2
    there = Lab((small("fast", 4, 3e9), small(long, 1, 64e9)), (Link("fast", long, "tcp", 10, 1.0),))
    shape = ModelShape.named("olmoe-1b-7b", "q4_k")
    return render(Asked(shape, there, find_placement(shape, there, Workload(), seconds=0.2)))


PAGES = {
    "plan": cache(plan_page),
    "suite": lambda: bench_page.render(sample_suite()),
    "server": lambda: bench_page.render(sample_served()),
}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("name", "width"),
    [*(("plan", width) for width in (320, 375, 768, 1200)), ("suite", 320), ("suite", 768), ("server", 320)],
)
def test_nothing_is_wider_than_the_window(name: str, width: int, tmp_path: Path) -> None:
    assert CHROMIUM
    page = PAGES[name]()
    (tmp_path / "frame.html").write_text(FRAME.format(page=html.escape(page), width=width), encoding="utf-8")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    words += ["--virtual-time-budget=5000", "--dump-dom", "--window-size=1300,3000", str(tmp_path / "frame.html")]
    seen = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r'id="found">over (\d+) wide \[(.*?)\]', seen)
    assert found, seen[-500:]
    assert (int(found[1]), found[2]) == (0, "")

"""The page's addresses without a browser: its files, and what-if, which reads no file that somebody names."""

import asyncio
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the serve extra is not there: pip install 'motley-moe[serve]'")

from starlette.applications import Starlette
from starlette.testclient import TestClient

from motley.bench.store import Store
from motley.bundled import model_path
from motley.dashboard import planner
from motley.dashboard.planning import Planning
from motley.dashboard.routes import OPEN_PATHS, POLICY, routes
from motley.dashboard.view import HERE, Shown, view
from motley.errors import UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.lab.labs import described
from motley.lab.placement import LayerPlacement, Placement, RowsPart
from motley.predict.workload import Workload
from motley.serve.guard import Access
from motley.serve.problems import Problem


@pytest.fixture(scope="module")
def shown() -> Shown:
    path = model_path()
    return Shown(str(path), shape_of(open_checkpoint(path)), 256, 2, lambda: None)


@pytest.fixture
def client(shown: Shown, tmp_path: Path) -> TestClient:
    async def problem(request: Any, error: Any) -> Any:
        return error.response()

    app = Starlette(routes=routes(shown, Store(tmp_path / "r.sqlite")), exception_handlers={Problem: problem})
    return TestClient(app)


def test_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.url.path == "/page/"
    assert page.headers["content-security-policy"] == POLICY
    tag = page.headers["etag"]
    assert client.get("/page/", headers={"if-none-match": tag}).status_code == 304
    for name, kind in {"main.js": "text/javascript", "look.css": "text/css", "uplot/LICENSE": "text/plain"}.items():
        got = client.get(f"/page/{name}")
        assert (got.status_code, got.headers["content-type"]) == (200, f"{kind}; charset=utf-8")


@pytest.mark.parametrize(
    "name", ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "uplot", "nothing.js", "/etc/passwd"]
)
def test_nothing_else_is_a_file(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_small(client: TestClient) -> None:
    """300 KB compressed is the promise; a fifth of that is plenty."""
    names = ["", "look.css", "app.css", "uplot/uPlot.iife.min.js", "uplot/uPlot.min.css"]
    folder = Path(__file__).parents[3] / "src/motley/dashboard/static"
    names += [path.name for path in folder.glob("*.js")]
    total = 0
    for name in names:
        got = client.get(f"/page/{name}", headers={"accept-encoding": "gzip"})
        assert got.headers["content-encoding"] == "gzip"
        total += len(gzip.compress(got.content, 9))
    assert total < 60_000


def test_only_the_page_is_open_without_a_key() -> None:
    access = Access(frozenset({"secret"}), open_paths=OPEN_PATHS)

    def ask(path: str) -> None:
        access.check({"path": path, "method": "GET", "headers": [(b"host", b"localhost")]})

    for path in ("/", "/page/", "/page/main.js"):
        ask(path)
    for path in ("/api/whatif", "/api/results", "/api/results/1", "/v1/models", "/pages", "/metrics"):
        with pytest.raises(Problem):
            ask(path)


def test_one_process_is_one_device(shown: Shown) -> None:
    found = view(shown)
    (device,) = found["devices"]
    assert (device["name"], device["home_layers"], device["expert_share"]) == (HERE, shown.shape.n_layers, 1.0)
    assert found["predicted_tokens_per_s"] is None
    weights = device["held"]["home"] + device["held"]["experts"]
    assert 0.9 < weights / shown.shape.n_bytes < 1.5


def test_what_if(client: TestClient) -> None:
    asked = {"lab": "rtx-4090 + m3-ultra-512 @10gbe", "model": "olmoe-1b-7b", "changes": ["drop m3-ultra-512"]}
    found = client.post("/api/whatif", json=asked).json()
    assert [o["configuration"] for o in found["outcomes"]] == ["as it is", "drop m3-ultra-512"]
    assert [len(o["view"]["devices"]) for o in found["outcomes"]] == [2, 1]
    assert all(o["prediction"]["tokens_per_s"]["p50"] > 0 for o in found["outcomes"])


def test_who_only_has_a_share_of_the_output_matrix_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "held", lambda *args: None)
    monkeypatch.setattr(planner, "drawn", lambda lab, placement, holds, prediction, used, head: (list(used), head))
    placement = Placement((LayerPlacement("a", ("b", "a")),), head=(RowsPart("a", 0, 8), RowsPart("c", 8, 16)))
    found = SimpleNamespace(placement=placement, stored=frozenset(), prediction=None)
    outcome: Any = SimpleNamespace(plan=found, lab=SimpleNamespace(devices=()))
    question: Any = SimpleNamespace(shape=None, context=1, slots=1, workload=Workload())
    assert planner._picture(question, outcome) == {"view": (["a", "b", "c"], "a")}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "was not measured"),
        ({"lab": "/etc/passwd"}, "unknown device"),
        ({"lab": "rtx-4090", "model": "/etc/passwd"}, "unknown"),
        ({"lab": "rtx-4090", "changes": ["eat it"]}, "begins with add, drop or swap"),
        ({"lab": "rtx-4090", "changes": ["add x"] * 9}, "changes"),
        ({"lab": "rtx-4090", "context": 0}, "context"),
        ({"lab": "x" * 301}, "lab"),
        ({"lab": "rtx-4090", "file": "/etc/passwd"}, "file"),
    ],
)
def test_questions_that_are_none(client: TestClient, asked: dict[str, Any], says: str) -> None:
    got = client.post("/api/whatif", json=asked)
    assert got.status_code == 400
    assert says in got.json()["error"]["message"]


def test_one_plan_at_a_time(shown: Shown) -> None:
    async def both() -> None:
        planning = Planning(shown)
        body = json.dumps({"lab": "rtx-4090", "model": "olmoe-1b-7b"}).encode()
        first = asyncio.create_task(planning.answer(body))
        await asyncio.sleep(0.1)
        with pytest.raises(Problem) as told:
            await planning.answer(body)
        assert told.value.status == 429
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(both())


def test_described_labs_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("secret")
    with pytest.raises(UsageError) as told:
        described(str(tmp_path / "lab.toml"))
    assert "secret" not in str(told.value)


def test_results(client: TestClient) -> None:
    assert client.get("/api/results").json() == []
    for id in ("7", str(2**63), "9" * 5000, "x", "-1", "٣"):
        assert client.get(f"/api/results/{id}").status_code == 404

"""The board over HTTP: pages, API, limits, moderation; foreign text stays text; nothing gives a 500."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from board_fakes import FORMULA, MARKDOWN, SCRIPT, TEMPLATE, TURNING, board, result_json, sample

pytest.importorskip("starlette", reason="the pages need the extra [serve]")
pytest.importorskip("python_multipart", reason="the pages need the extra [serve]")
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from motley.bench.result import from_json, to_json
from motley.board import tables
from motley.board.ask import Ask
from motley.board.board import Board
from motley.board.export import export
from motley.board.links import Links
from motley.board.pages import Pages
from motley.board.states import Shown, State
from motley.board.store import Filter
from motley.board.web.app import application, routes
from motley.board.web.limits import Bucket, household
from motley.errors import UsageError
from pages import Outline

OWN = {"origin": "http://testserver"}
OPEN = "[public]\nmoderated = false\nasks_per_hour = 1000\nresults_per_hour = 1000\npages_per_minute = 100000\n"


def client_of(there: Board) -> TestClient:
    return TestClient(application(there), follow_redirects=False)


@pytest.fixture
def there(tmp_path: Path) -> Board:
    return board(tmp_path / "board", OPEN)


@pytest.fixture
def client(there: Board) -> Iterator[TestClient]:
    with client_of(there) as found:
        yield found


def well_formed(page: str) -> Outline:
    outline = Outline(page)
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"script", "iframe", "object", "img", "base"}
    for _, attributes in outline.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        for name in ("href", "action", "formaction"):
            assert not (attributes.get(name) or "").lower().startswith(("javascript:", "http", "//"))
    return outline


def measured(there: Board, ask: Ask) -> int:
    id, _ = there.ask(ask)
    there.store.move(id, State.RUNNING)
    there.store.measured(id, f"digest{id}", to_json(sample()))
    return id


def test_from_the_form_to_the_request(there: Board, client: TestClient) -> None:
    preview = client.get("/ask", params={"model": "olmoe-1b-7b", "pp": "32", "tg": ""})
    assert preview.status_code == 200
    assert "It can be measured here" in well_formed(preview.text).text
    assert there.store.counts() == {}
    filed = client.post("/ask", data={"model": "olmoe-1b-7b", "pp": "32", "note": "please"}, headers=OWN)
    assert (filed.status_code, filed.headers["location"]) == (303, "/requests/1")
    page = well_formed(client.get("/requests/1").text)
    assert "please" in page.text
    assert client.post("/requests/1/vote", headers=OWN).status_code == 303
    assert there.store.get(1).votes == 1  # whoever asked had voted
    listed = well_formed(client.get("/", params={"words": "olmoe", "state": "queued"}).text)
    assert "olmoe-1b-7b" in listed.text
    assert "No request is like this" in client.get("/", params={"words": "kimi"}).text


@pytest.mark.parametrize(("states", "query"), [((), "?page=2"), ((State.QUEUED,), "?state=queued&amp;page=2")])
def test_a_list_of_several_pages_leads_on(there: Board, states: tuple[State, ...], query: str) -> None:
    for n in range(1, 4):
        there.ask(Ask(pp=n, tg=0))
    home = Pages(there, Links.served("")).home
    assert f'<a rel="next" href="/{query}">' in home(Filter(states, limit=1))
    middle = home(Filter(states, limit=1, offset=1))
    assert f'<a rel="prev" href="/{query.replace("2", "1")}">' in middle
    assert f'<a rel="next" href="/{query.replace("2", "3")}">' in middle


def test_a_measured_request_shows_both_and_the_recipe(there: Board, client: TestClient) -> None:
    id = measured(there, Ask(pp=128, tg=64))
    page, result = well_formed(client.get(f"/requests/{id}").text).text, sample()
    for words in (result.command, "e9710f1a2b3c", "8488C", "128 of 128", "Predicted and measured", "Every sample"):
        assert words in page
    found = client.get(f"/api/requests/{id}").json()
    assert {m["test"] for m in found["measured"]} == {"pp128", "tg64"}
    assert (found["state"], found["check_passed"]) == ("measured", True)


def test_wrong_fields_are_said_in_the_form(client: TestClient, there: Board) -> None:
    for data, words in ({"model": "nothing-like-it"}, "unknown model shape"), ({"pp": "x"}, "whole number"):
        answer = client.post("/ask", data=data, headers=OWN)
        assert answer.status_code == 422
        assert words in well_formed(answer.text).text
    assert there.store.counts() == {}


def test_api(there: Board, client: TestClient) -> None:
    first = client.post("/api/requests", json={"model": "olmoe-1b-7b", "tg": 8, "pp": 0})
    assert (first.status_code, first.json()["state"]) == (201, "queued")
    again = client.post("/api/requests", json={"model": "OLMoE", "tg": 8, "pp": 0})
    assert (again.status_code, again.json()["new"], again.json()["id"]) == (200, False, first.json()["id"])
    told = client.post("/api/predict", json={"model": "deepseek-v3"}).json()
    assert told["predicted"] == []
    assert "missing" in told["reason"]
    assert client.post("/api/requests/1/vote", json={}).json() == {"voted": False}
    sent = client.post("/api/results", content=result_json(), headers={"content-type": "application/json"})
    assert (sent.status_code, sent.json()["reproduced_here"]) == (201, False)
    assert from_json(client.get("/results/1.json").content) == sample()
    assert client.get("/api/requests").json()["counts"] == {"queued": 1}


BAD_JSON = (b"", b"{", b"[" * 50_000, b'{"pp": 1e999}', b'{"model": "\xff"}', b'"x"', b'{"pp": -1}')


@pytest.mark.parametrize("body", BAD_JSON)
@pytest.mark.parametrize("path", ["/api/requests", "/api/predict", "/api/results"])
def test_bad_json_is_the_senders_error(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": "http://testserver"},
        {"sec-fetch-site": "same-site"},
        {},
    ],
)
def test_forms_of_other_sites_are_refused(there: Board, client: TestClient, headers: dict[str, str]) -> None:
    there.ask(Ask())
    for path, data in (("/ask", {"pp": "8"}), ("/requests/1/vote", {}), ("/submit", {"json": "{}"})):
        assert client.post(path, data=data, headers=headers).status_code == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.post("/api/requests", content=b"{}", headers={**headers, "content-type": kind})
        assert answer.status_code in (403, 415)
    assert there.store.get(1).votes == 1
    assert there.store.counts() == {"queued": 1}


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for path in ("/", "/ask", "/nothing", "/requests/99", "/board.css", "/api/requests", "/requests.csv"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert "set-cookie" not in headers


def test_limits_are_per_address(tmp_path: Path) -> None:
    there = board(tmp_path, "[public]\nasks_per_hour = 2\nvotes_per_hour = 1\nmoderated = false\nbehind_proxy = true")
    client = client_of(there)

    def ask(pp: int, address: str) -> int:
        headers = {"x-forwarded-for": f"9.9.9.9, {address}"}
        return client.post("/api/requests", json={"pp": pp, "tg": 0}, headers=headers).status_code

    assert [ask(n, "10.0.0.1") for n in (1, 2, 3)] == [201, 201, 429]
    assert ask(3, "10.0.0.2") == 201
    answer = client.post("/api/requests", json={"pp": 4, "tg": 0}, headers={"x-forwarded-for": "10.0.0.1"})
    assert int(answer.headers["retry-after"]) > 0
    assert there.store.get(3).votes == 1
    assert client.post("/api/requests/3/vote", json={}, headers={"x-forwarded-for": "10.0.0.3"}).json()["voted"]
    assert "10.0.0" not in str((there.folder / "board.sqlite").read_bytes())


def test_the_proxys_word_on_an_address_is_the_last(tmp_path: Path) -> None:
    """In one header or in several: whatever comes before it was sent by whoever asks."""
    client = client_of(board(tmp_path, "[public]\nasks_per_hour = 1\nbehind_proxy = true"))
    statuses = []
    for n in range(1, 4):
        headers = [("x-forwarded-for", f"9.9.9.{n}"), ("x-forwarded-for", "10.0.0.1")]
        statuses.append(client.post("/api/requests", json={"pp": n, "tg": 0}, headers=headers).status_code)
    assert statuses == [201, 429, 429]


def test_pages_are_limited(tmp_path: Path) -> None:
    client = client_of(board(tmp_path, "[public]\npages_per_minute = 3"))
    assert [client.get("/about").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_bucket_refills_and_forgets() -> None:
    now = [0.0]
    bucket = Bucket(2, 10, lambda: now[0])
    assert [bucket.take("a") for _ in range(2)] == [0, 0]
    assert bucket.take("a") == pytest.approx(5)
    assert bucket.take("b") == 0
    now[0] = 5
    assert bucket.take("a") == 0
    assert bucket.take("a") > 0


def test_one_connection_of_ipv6_is_one_address() -> None:
    assert household("2001:db8::1") == household("2001:db8::ffff:2") != household("2001:db8:0:1::1")
    assert household("::ffff:10.0.0.1") == household("10.0.0.1") == "10.0.0.1"
    assert household("testclient") == "testclient"


def test_a_full_board_takes_nothing_new(tmp_path: Path) -> None:
    client = client_of(board(tmp_path, "[public]\nmost_open = 1"))
    assert client.post("/api/requests", json={"pp": 1, "tg": 0}).status_code == 201
    answer = client.post("/api/requests", json={"pp": 2, "tg": 0})
    assert (answer.status_code, "full" in answer.json()["error"]) == (422, True)


def test_bodies_are_limited(client: TestClient, tmp_path: Path) -> None:
    kind = {"content-type": "application/json"}
    assert client.post("/api/requests", content=b"x" * 70_000, headers=kind).status_code == 413
    parts = (b"x" * 10_000 for _ in range(8))  # no content-length
    assert client.post("/api/requests", content=parts, headers=kind).status_code == 413
    assert client.post("/ask", content=b"a=b&" * 20_000, headers=OWN).status_code == 413
    assert client.post("/api/results", content=b" " * 5_000_000, headers=kind).status_code == 413
    small = client_of(board(tmp_path / "small", "[public]\nresult_mb = 0.001"))
    assert "over this board's 0.001 MB" in small.post("/api/results", content=result_json(), headers=kind).text


def test_only_the_named_hosts_are_answered(there: Board) -> None:
    client = TestClient(application(there, frozenset({"localhost"})))
    assert client.get("/", headers={"host": "localhost:8477"}).status_code == 200
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 421


def test_moderation(tmp_path: Path) -> None:
    there = board(tmp_path, "")
    client = client_of(there)
    client.post("/ask", data={"pp": "8", "note": "buy my pills"}, headers=OWN)
    client.post("/api/results", content=result_json(command="buy"), headers={"content-type": "application/json"})
    waiting = client.get("/requests/1").text
    assert "Waits for the host" in waiting
    assert "pills" not in waiting + client.get("/").text + client.get("/api/requests/1").text
    assert client.get("/api/requests").json()["requests"] == []
    assert "waits for approval" in client.get("/results/1").text
    assert client.get("/results/1.json").status_code == 404
    assert "result" not in client.get("/api/results/1").json()
    assert client.post("/requests/1/vote", headers=OWN).status_code == 409

    token = (there.folder / "admin-token").read_text().strip()
    assert (there.folder / "admin-token").stat().st_mode & 0o077 == 0
    for wrong in ({}, {"authorization": "Bearer no"}, {"authorization": token}, {"authorization": "Bearer "}):
        assert client.post("/api/requests/1/approve", json={}, headers=wrong).status_code == 401
    right = {"authorization": f"Bearer {token}"}
    for path in ("/api/requests/1/approve", "/api/results/1/approve"):
        assert client.post(path, json={}, headers=right).status_code == 200
    assert "pills" in client.get("/requests/1").text
    assert client.get("/results/1").status_code == 200
    assert client.post("/api/requests/1/hide", json={}, headers=right).json()["shown"] == "hidden"
    assert client.get("/requests/1").status_code == 404
    again = client.post("/ask", data={"pp": "8"}, headers=OWN)
    assert (again.status_code, "the host does not want this request" in again.text) == (422, True)
    assert client.post("/api/requests/1/burn", json={}, headers=right).status_code == 404
    assert client.post("/api/requests/77/hide", json={}, headers=right).status_code == 404


def test_an_empty_admin_token_opens_nothing(there: Board, client: TestClient) -> None:
    there.ask(Ask())
    (there.folder / "admin-token").write_text("\n")
    for token in ("", " ", "None"):
        headers = {"authorization": f"Bearer {token}"}
        assert client.post("/api/requests/1/hide", json={}, headers=headers).status_code == 401


FOREIGN = {"text": SCRIPT + TURNING + TEMPLATE + MARKDOWN, "formula": FORMULA, "no text": "\ud800\x00"}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_foreign_text_stays_text_everywhere(there: Board, client: TestClient, tmp_path: Path, text: str) -> None:
    """In each field that takes text: on every page, in the export, in the CSV."""
    ascii_ = json.dumps(text)  # as JSON may carry it: lone surrogates, too
    client.post("/api/requests", content=f'{{"pp": 4, "note": {ascii_}}}', headers={"content-type": "application/json"})
    for field in ("model", "quant", "hardware", "pp", "note"):
        sent = text.encode("utf-8", "replace").decode()
        for answer in (client.post("/ask", data={field: sent}, headers=OWN), client.get("/ask", params={field: sent})):
            assert answer.status_code in (200, 303, 422)
            if answer.text:
                well_formed(answer.text)
    id = measured(there, Ask(pp=128, tg=64, note=text.encode("utf-8", "replace").decode()))
    fields = ("command", "model__name", "model__quant", "model__file", "machine__cpu", "machine__os", "reasons__0")
    changes = [{name: text} for name in (*fields, "check__reference", "commit", "date", "motley")]
    for change in changes:
        client.post("/api/results", content=result_json(**change), headers={"content-type": "application/json"})
    renamed = result_json().replace(b'"small"', ascii_.encode())
    client.post("/api/results", content=renamed, headers={"content-type": "application/json"})
    files = tmp_path / "site"
    export(there, files)
    pages = [client.get(f"/results/{k.id}").text for k in there.store.results(limit=50)]
    pages += [client.get(path).text for path in ("/", "/about", f"/requests/{id}", "/requests/1")]
    pages += [path.read_text("utf-8") for path in files.rglob("*.html")]
    assert len(pages) >= 10
    for page in pages:
        well_formed(page)
        assert not set(page) & set(TURNING) & {"\u202e", "\u2066", "\u200b", "\x1b", "\x07", "\x00"}
        assert SCRIPT not in page
    assert TEMPLATE not in text or "{{ 7 * 7 }}{% raw %}" in client.get(f"/requests/{id}").text
    for line in tables.csv_of(there).splitlines():
        assert not [cell for cell in line.split(",") if cell.lstrip('"').startswith(("=", "+", "@"))]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({}, ""),
        ({"model__n_bytes": 20 * 10**9, "results__2__active_bytes_per_token": 3 * 10**9}, "it would have read"),
        ({"lab__devices__0__read_gb_s": 90_000.0}, "no memory does"),
        ({"model__name": "Qwen3-30B-A3B"}, "qwen3-30b-a3b has 30,53"),
        ({"results__2__active_bytes_per_token": 900_000_000_000}, "a token reads 900,000,000,000"),
    ],
)
def test_impossible_results_are_flagged(there: Board, client: TestClient, change: dict[str, object], flag: str) -> None:
    id, _ = there.submit(result_json(**change))
    flags = client.get(f"/api/results/{id}").json()["flags"]
    assert (flag in " ".join(flags)) if flag else flags == []
    page = well_formed(client.get(f"/results/{id}").text).text
    assert "not reproduced here" in page
    assert ("Flagged" in page) == bool(flag)


@pytest.mark.parametrize(("sample", "taken"), [(5e-324, False), (1e308, False), (2e-9, True), (9e14, True)])
def test_speeds_that_no_machine_has_are_refused(there: Board, client: TestClient, sample: float, taken: bool) -> None:
    """Before arithmetic with them fails, here or on a page."""
    there.ask(Ask(pp=128, tg=64))
    spread = {"median": sample, "min": sample, "max": sample, "samples": [sample] * 5}
    data = result_json(model__name="motley-8m", results__0__tokens_per_s=spread)
    answer = client.post("/api/results", content=data, headers={"content-type": "application/json"})
    assert answer.status_code == (201 if taken else 422)
    assert taken or "results[0].tokens_per_s.samples: must be between 1e-09 and 1e+15" in answer.json()["error"]
    for path in ("/", "/requests/1", "/requests.csv"):
        assert client.get(path).status_code == 200


def test_a_dense_models_result_is_shown(there: Board, client: TestClient) -> None:
    layers = [{"home": "small", "experts": []}] * 8
    none = {"model__n_experts": 0, "model__n_experts_used": 0, "model__d_expert": 0, "routes": None}
    id, _ = there.submit(result_json(placement__layers=layers, **none))
    assert "home of 8 layers" in well_formed(client.get(f"/results/{id}").text).text


def test_submitting_with_the_form(there: Board, client: TestClient) -> None:
    file = {"file": ("result.json", result_json(), "application/json")}
    answer = client.post("/submit", files=file, data={"note": "mine"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/results/1")
    pasted = client.post("/submit", data={"json": result_json().decode()}, headers=OWN)
    assert pasted.headers["location"] == "/results/1"
    wrong = client.post("/submit", files={"file": ("x", b"{}", "application/json")}, headers=OWN)
    assert wrong.status_code == 422
    assert "the result: the top level" in well_formed(wrong.text).text
    kind = {"content-type": "multipart/form-data; boundary=x"}
    broken = client.post("/submit", content=b"nonsense", headers={**OWN, **kind})
    assert broken.status_code in (400, 422)


@pytest.mark.parametrize("path", ["/api/r%0Ax", "/a%0Ab", "/nowhere"])
def test_no_path_goes_around_the_guard(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_below_another_application(there: Board) -> None:
    """As `motley serve` mounts it: links and redirects stay below, limits and headers come along."""
    there.ask(Ask())
    client = TestClient(Starlette(routes=[Mount("/board", routes=routes(there))]), follow_redirects=False)
    page = client.get("/board/")
    assert 'href="/board/requests/1"' in page.text
    assert "content-security-policy" in page.headers
    assert client.get("/board/requests/1").status_code == 200
    filed = client.post("/board/ask", data={"pp": "9"}, headers=OWN)
    assert filed.headers["location"] == "/board/requests/2"
    assert client.post("/board/api/requests", json={"pp": 9}).status_code == 200
    assert client.get("/board/api/nothing").json() == {"error": "There is nothing here."}


def test_export_is_complete_and_relative(there: Board, tmp_path: Path) -> None:
    first, second = measured(there, Ask(pp=128, tg=64)), there.ask(Ask(model="olmoe-1b-7b"))[0]
    hidden, _ = there.ask(Ask(pp=3))
    there.store.show("request", hidden, Shown.HIDDEN)
    there.submit(result_json(date="2026-01-01"))
    folder = tmp_path / "site"
    n = export(there, folder)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert len(files) == n
    assert {"index.html", "about.html", "board.css", f"requests/{first}.html", f"requests/{second}.html"} <= files
    assert f"requests/{hidden}.html" not in files
    for name in files:
        if name.endswith(".html"):
            outline = well_formed((folder / name).read_text("utf-8"))
            assert "form" not in {tag for tag, _ in outline.tags}
            for _, attributes in outline.tags:
                if (href := attributes.get("href")) and not href.startswith(("#", "data:")):
                    assert ((folder / name).parent / href).resolve().is_file(), (name, href)
    there.store.show("request", second, Shown.HIDDEN)
    export(there, folder)
    assert not (folder / f"requests/{second}.html").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(UsageError, match="holds something else"):
        export(there, tmp_path / "other")


@pytest.mark.parametrize("digits", [19, 30, 5000])
def test_numbers_that_no_row_has_are_nowhere(there: Board, client: TestClient, digits: int) -> None:
    """SQLite keeps 19 digits at the most, and Python reads 4,300."""
    id = "9" * digits
    for path in (f"requests/{id}", f"results/{id}", f"results/{id}.json", f"api/requests/{id}", f"api/results/{id}"):
        assert client.get(f"/{path}").status_code == 404
    token = (there.folder / "admin-token").read_text().strip()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for path in (f"/api/requests/{id}/vote", f"/api/requests/{id}/approve", f"/api/results/{id}/hide"):
        assert client.post(path, headers=headers, content=b"{}").status_code == 404


def test_nothing_gives_a_500(there: Board) -> None:
    """Random paths, queries, headers and bodies: whatever comes, it is answered below 500."""
    rng = random.Random(8)
    measured(there, Ask(pp=128, tg=64))
    words = ["", "requests", "results", "api", "1", "0", "9" * 30, "-1", "ask", "submit", "vote", "%00", "..", "1.json"]
    words += ["board.css", "hide", "\u202e", "a" * 300, "%ff%fe", "about", "predict", "1;drop"]
    bits = ["model=x", "pp=" + "9" * 40, "state=queued", "state=%00", "page=0", "page=999999", "words=%ff", "&&&", "="]
    kinds = ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "x" * 99]
    kinds.append("application/x-www-form-urlencoded")
    methods = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]
    client = TestClient(application(there), raise_server_exceptions=False, follow_redirects=False)
    for _ in range(120):
        path = "/" + "/".join(rng.choices(words, k=rng.randrange(1, 5)))
        headers = {"content-type": rng.choice(kinds), "authorization": rng.choice(["", "Bearer", "Bearer x", "\x7f"])}
        if rng.random() < 0.8:
            headers |= OWN
        body = rng.choice([b"", rng.randbytes(50), b'{"pp": 3, "tg": 0}', b"pp=3&tg=0&model=%00", result_json()])
        url = f"{path}?{rng.choice(bits)}"
        answer = client.request(rng.choice(methods), url, headers=headers, content=body)
        assert answer.status_code < 500, (url, headers, body[:60], answer.text[:300])
    assert there.store.get(1).state is State.MEASURED

"""Benching a server, against one that answers at a known pace and misbehaves on demand. Times are only held from
below: a stand-in that sleeps is never early, but may be late."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley.bench import gate
from motley.bench.endpoint import Address, Endpoint
from motley.bench.journal import Journal
from motley.bench.load_http import Served, run_served
from motley.bench.prompts import WORDS, Counting, texts
from motley.bench.result import from_json, to_json
from motley.bench.served import ServedResult, as_load, parse_any
from motley.bench.sse import MOST_BYTES, MalformedStream, events
from motley.bench.suite import Load, Unit
from motley.errors import FormatError, MotleyError, UsageError
from motley.predict.workload import Workload
from openai_stand_in import OVERHEAD, StandIn, stand_in

pytest.importorskip("httpx2", reason="needs httpx2 (extra `endpoint`)")

LOAD = Load(16, 4, 2)
BOTH = ("ignore_eos", "cache_prompt")


def bench(server: StandIn, *units: Unit, repeat: int = 5, key: str | None = None) -> ServedResult:
    return run_served(Served(Address.of(server.url, key), None, units or (LOAD,), repeat, command="motley bench"))


def codes(result: ServedResult) -> set[str]:
    return {flag.code for flag in gate.flags(result)} - {"varying", "throttled", "busy-client"}  # of a busy machine


def test_a_servers_pace_is_seen() -> None:
    with stand_in(first_s=0.01, gap_s=0.004) as server:
        result = bench(server, Workload("prefill", 32), Workload("decode", 4), LOAD)
    prefill, decode = result.results
    assert [test.label for test in result.results] == ["pp32", "tg4"]
    assert {r.prompt_tokens for r in prefill.load.requests} == {32}
    assert prefill.tokens_per_s.max <= 32 / 0.01
    assert decode.tokens_per_s.samples == tuple(1e3 / (r.tpot_ms or 0) for r in decode.load.requests)
    assert len(prefill.tokens_per_s.samples) == len(decode.tokens_per_s.samples) == 5
    (load,) = result.loads
    assert len(load.requests) == 5 * LOAD.requests
    assert {(r.prompt_tokens, r.output_tokens) for r in load.requests} == {(16, 4)}
    assert min(r.ttft_ms for r in load.requests) >= 10
    assert min(r.e2e_ms for r in load.requests) >= 10 + 3 * 4
    assert (load.counted_by, load.tokens_per_piece, load.errors) == ("usage", 1.0, {})
    assert load.output_tokens_per_s.max <= 2 * 4 / (0.01 + 3 * 0.004)
    assert server.most_under_way == 2
    assert result.server.software == "stand-in/1"
    assert result.server.extras == ("ignore_eos", "cache_prompt")
    assert parse_any(to_json(result)) == result
    assert codes(result) == set()


def test_prompts_differ_from_their_first_words_on() -> None:
    with stand_in() as server:
        bench(server)
    assert {body["max_tokens"] for body in server.asked} == {4}  # never a single one, of which nothing may be seen
    prompts = [body["prompt"] for body in server.asked]
    assert len({prompt[:60] for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize(
    ("behaviour", "server_says"),
    [
        ({"refuses": ("ignore_eos",)}, ((), "usage", "completions")),
        ({"refuses": ("stream_options",), "tokenizer": "/tokenize"}, (BOTH, "tokenize", "completions")),
        ({"refuses": ("stream_options", "cache_prompt")}, ((), "words", "completions")),
        ({"apis": ("chat",)}, (BOTH, "usage", "chat")),
        ({"usage": False, "tokenizer": "/extras/tokenize"}, (BOTH, "tokenize", "completions")),
        ({"tokens_per_word": 2}, (BOTH, "usage", "completions")),
        ({"odd": True}, (BOTH, "usage", "completions")),
        ({"odd": True, "apis": ("chat",)}, (BOTH, "usage", "chat")),
        ({"done_line": False}, (BOTH, "usage", "completions")),
    ],
)  # fmt: skip
def test_servers_differ_and_prompts_keep_their_length(behaviour: dict[str, Any], server_says: tuple[Any, ...]) -> None:
    with stand_in(**behaviour) as server:
        result = bench(server, Load(33, 4, 1), repeat=1)
    said = result.server
    assert (said.extras, said.prompts_counted_by, said.api) == server_says
    (load,) = result.loads
    if said.prompts_counted_by == "words":
        assert {r.prompt_tokens for r in load.requests} == {33}  # words, for want of better
    else:
        assert {abs(r.prompt_tokens - 33) for r in load.requests} <= {0, 1}
        last = server.asked[-1]
        sent = last["prompt"] if said.api == "completions" else last["messages"][0]["content"]
        assert OVERHEAD + server.behaviour.tokens_per_word * len(sent.split()) == load.requests[-1].prompt_tokens
    assert load.counted_by == ("usage" if said.prompts_counted_by == "usage" else "chunks")
    assert ("counted-by-chunks" in codes(result)) == (load.counted_by == "chunks")
    assert ("prompts-not-counted" in codes(result)) == (said.prompts_counted_by == "words")


def test_pieces_of_several_tokens_are_counted_by_usage() -> None:
    with stand_in(per_piece=4) as server:
        (load,) = bench(server, Load(16, 8, 1), repeat=1).loads
    assert {r.output_tokens for r in load.requests} == {8}
    assert load.tokens_per_piece == 4.0


def test_answers_that_end_early_count_what_came() -> None:
    with stand_in(stops_at=3) as server:
        result = bench(server, Load(16, 8, 1))
    assert {r.output_tokens for r in result.loads[0].requests} == {3}
    assert codes(result) == {"short-answers"}


def test_prompts_from_a_cache_are_flagged() -> None:
    with stand_in(cached=12) as server:
        result = bench(server, repeat=5)
    assert result.loads[0].cached_share == pytest.approx(12 / 16)
    assert codes(result) == {"cached-prompts"}


@pytest.mark.parametrize(
    ("fault", "words"), [(500, "HTTP 500"), ("nothing", "closed early"), ("error", "in the stream")]
)
@pytest.mark.parametrize("generation", [1, 2])
def test_a_server_that_fails_while_its_tokens_are_counted_is_one_sentence(
    generation: int, fault: Any, words: str
) -> None:
    with stand_in(faults={generation: fault}) as server, pytest.raises(MotleyError, match=f"small request: .*{words}"):
        bench(server)


PROBES = 3  # generations before the first load: the fields, a short and a long text
WARM = 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (500, "HTTP 500"),
        (429, "HTTP 429"),
        ("half", "closed early"),
        ("nothing", "closed early"),
        ("no end", "closed early"),
        ("garbage", "malformed stream"),
        ("error", "error in the stream"),
    ],
)
def test_a_request_that_fails_is_counted_and_the_others_go_on(fault: Any, kind: str) -> None:
    with stand_in(faults={PROBES + WARM + 1: fault}) as server:
        result = bench(server)
    (load,) = result.loads
    assert load.errors == {kind: 1}
    assert len(load.requests) == 5 * LOAD.requests - (fault != 429)  # a full server is asked again
    assert "failed-requests" in codes(result)


def test_a_full_server_that_never_empties_is_given_up() -> None:
    full = dict.fromkeys(range(PROBES, 1000), 429)
    with stand_in(faults=full) as server, pytest.raises(MotleyError, match="no request was answered: 10 x HTTP 429"):
        bench(server)
    assert len(server.asked) == PROBES + WARM * 5


def test_one_load_that_fails_does_not_take_the_others() -> None:
    with stand_in(faults={PROBES + i: 500 for i in range(WARM)}) as server:
        result = bench(server, LOAD, Load(16, 4, 1))
    assert [s.test for s in result.skipped] == [LOAD.name]
    assert "2 x HTTP 500" in result.skipped[0].why
    assert len(result.loads) == 1


def test_a_server_that_goes_away_ends_the_suite_which_can_go_on() -> None:
    journal, second = Journal("monday"), Load(16, 4, 1)
    with stand_in(keep_alive=False) as server:
        asked = Served(Address.of(server.url), None, [LOAD, second], 2, "mine")

        def leaves(what: str, _done: float) -> None:
            if what.startswith(f"{second.name}: warming"):
                server.shutdown()
                server.server_close()

        with pytest.raises(MotleyError, match="no longer answers"):
            run_served(asked, leaves, journal)
    assert journal.n_done == 1
    with stand_in() as server:
        result = run_served(replace(asked, address=Address.of(server.url)), journal=journal)
    assert [load.concurrency for load in result.loads] == [2, 1]
    assert {body["max_tokens"] for body in server.asked[PROBES:]} == {4}
    assert len(server.asked) == PROBES + 1 + 2 * 2  # the first load was not asked again


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"every": 500}, "HTTP 500"),
        ({"apis": ()}, "HTTP 404"),
        ({"key": "secret"}, "--api-key-env"),
        ({"models": {"data": [{"id": "a"}, {"id": "b"}]}}, "it has a, b"),
        ({"models": ["nonsense"]}, "names none"),
        ({"every": "garbage"}, "malformed stream"),
        ({"every": "json"}, "no stream"),
        ({"every": "escape"}, r"HTTP 500 \(\[31mred"),
    ],
)
def test_a_server_that_cannot_be_benched_says_why(behaviour: dict[str, Any], words: str) -> None:
    with stand_in(**behaviour) as server, pytest.raises(MotleyError, match=words):
        bench(server)


def test_nobody_there_is_one_sentence() -> None:
    with stand_in() as server:
        pass
    with pytest.raises(MotleyError, match="does not answer"):
        bench(server)


def test_a_key_is_sent_and_kept_nowhere() -> None:
    with stand_in(key="secret") as server:
        result = bench(server, key="secret", repeat=1)
    assert {headers["authorization"] for headers in server.headers} == {"Bearer secret"}
    assert b"secret" not in to_json(result)
    assert "secret" not in repr(Address.of(server.url, "secret"))


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:80", "http://h:80/v1"),
        ("http://h:80/v1/", "http://h:80/v1"),
        ("https://h/openai/v1", "https://h/openai/v1"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    assert Address.of(url).base == base


@pytest.mark.parametrize("url", ["h:80", "file:///etc/passwd", "http://me:pass@h", "http://h/?key=1", "http://"])
def test_addresses_that_are_none_or_would_leak(url: str) -> None:
    with pytest.raises(UsageError):
        Address.of(url)


def test_what_makes_no_sense_through_http_is_skipped_with_its_reason() -> None:
    with stand_in() as server:
        result = bench(server, Workload("prefill", 16, depth=8), Workload("decode", 4, batch=2), LOAD, repeat=1)
    assert [s.test for s in result.skipped] == ["pp16@d8", "tg4x2"]
    assert as_load(Workload("decode", 4, depth=64))[0] == Load(64, 4, 1, per_slot=1)


def test_a_placed_results_reader_says_what_it_got() -> None:
    with stand_in() as server:
        data = to_json(bench(server, repeat=1))
    with pytest.raises(FormatError, match="through an endpoint"):
        from_json(data)
    with pytest.raises(FormatError, match="api"):
        parse_any(data.replace(b'"api": "completions"', b'"api": "soap"'))


def test_calibration_finds_overhead_and_tokens_a_word() -> None:
    counting = Counting.of([(8, 8 * 2 + 5), (72, 72 * 2 + 5)])
    assert (counting.words(105), counting.tokens(50)) == (50, 105)
    assert Counting.of([(8, 30), (72, 30)]) == Counting()  # nonsense
    assert Counting(overhead=50).words(16) == 1


def test_texts_are_words_and_begin_differently() -> None:
    made = [next(texts(50, seed)) for seed in range(200)]
    assert len({text[:40] for text in made}) == 200
    assert all(set(text.split()) <= set(WORDS) for text in made)
    assert len(WORDS) == len(set(WORDS)) > 200


async def _pieces(data: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        yield data[at:cut]
        at = cut


async def _all(data: bytes, cuts: list[int]) -> list[str]:
    return [event async for event in events(_pieces(data, cuts))]


STREAM = b": hello\r\n\r\ndata: one\ndata: more\n\nevent: x\rdata:two\r\rid: 3\ndata:\n\ndata: \xc3\xa9nd\n\ndata: last"


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
@settings(max_examples=200, deadline=None)
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    assert asyncio.run(_all(STREAM, cuts)) == ["one\nmore", "two", "", "\u00e9nd", "last"]


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(MalformedStream):
        asyncio.run(_all(b"data: " + b"x" * (MOST_BYTES + 1), [MOST_BYTES]))


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motley.bench.endpoint.httpx", None)

    async def open_it() -> None:
        async with Endpoint.open(Address.of("http://h")):
            pass

    with pytest.raises(UsageError, match=r"motley-moe\[endpoint\]"):
        asyncio.run(open_it())

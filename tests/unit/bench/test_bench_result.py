"""The JSON of a bench: the design's keys, a round trip, and errors that name the field."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_sample import sample_result
from motley.bench import result as result_file
from motley.bench.markdown import markdown
from motley.bench.records import Interval, Spread
from motley.bench.report.page import render
from motley.bench.result import from_json, load_result, to_json
from motley.bench.served import load_any
from motley.bench.words import model_words, placement_words
from motley.errors import FormatError


def as_dict() -> dict[str, Any]:
    return json.loads(to_json(sample_result()))


def test_has_exactly_the_designs_keys() -> None:
    d = as_dict()
    assert {"motley", "model", "machine", "lab", "placement", "results", "check"} <= d.keys()
    assert {"read_gb_s", "int8_gops", "threads"} <= d["machine"].keys()
    assert {"a", "b", "transport", "rtt_us", "gb_s"} <= d["lab"]["links"][0].keys()
    assert d["results"][0].keys() >= {
        "test", "depth", "batch", "tokens_per_s", "ms_per_step", "predicted_tokens_per_s",
        "active_bytes_per_token", "bandwidth_fraction", "time",
    }  # fmt: skip
    assert d["results"][0]["tokens_per_s"].keys() == {"median", "min", "max", "samples"}
    assert d["results"][0]["predicted_tokens_per_s"].keys() == {"p10", "p50", "p90"}
    assert list(d["results"][0]["time"]) == ["attention", "router", "experts", "link", "head", "python", "other"]
    assert d["check"].keys() >= {
        "reference", "max_abs_logit_diff", "max_rel_logit_diff", "greedy_tokens_equal", "greedy_tokens_compared",
    }  # fmt: skip


def test_a_model_whose_first_layers_are_dense_is_read_and_shown() -> None:
    """As DeepSeek's: such a layer has a home, no experts, and nothing is chosen in it."""
    d = as_dict()
    d["placement"]["layers"][0]["experts"] = []
    d["routes"][0] = [0] * len(d["routes"][0])
    result = from_json(json.dumps(d).encode())
    assert result.placement.layers[0].experts == ()
    assert render(result)
    d["placement"]["layers"][1]["experts"].pop()
    with pytest.raises(FormatError, match=r"layers\[1\].experts: 31 given"):
        from_json(json.dumps(d).encode())


def test_a_dense_model_is_told_without_experts() -> None:
    d = as_dict()
    d["model"] |= {"n_experts": 0, "n_experts_used": 0, "d_expert": 0}
    d["routes"] = None
    for layer in d["placement"]["layers"]:
        layer["experts"] = []
    result = from_json(json.dumps(d).encode())
    assert model_words(result).endswith(" layers, dense")
    assert placement_words(result).endswith(" layers")
    assert "experts:" not in markdown(result)


@pytest.mark.parametrize("load", [load_result, load_any])
def test_a_file_that_does_not_say_its_size_is_read_no_further_than_its_limit(
    load: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_file, "MAX_FILE_BYTES", 1 << 16)
    with pytest.raises(FormatError, match="/dev/zero: too large for a bench result"):
        load(Path("/dev/zero"))


def test_round_trip() -> None:
    result = sample_result()
    assert from_json(to_json(result)) == result


def set_at(document: Any, path: str, value: Any) -> Any:
    *folders, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    node = document
    for folder in folders:
        node = node[folder]
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("results.0.ms_per_step", "fast", "results[0].ms_per_step"),
        ("results.1.tokens_per_s.median", 1e9, "results[1].tokens_per_s.median"),
        ("results.1.tokens_per_s.samples.2", -1.0, "results[1].tokens_per_s.samples"),
        ("results.2.test", "<script>", "results[2].test"),
        ("results.2.surprise", 1, "surprise"),
        ("results", [], "results"),
        ("machine.threads", 0, "machine.threads"),
        ("machine.cpu", "x" * 9999, "machine.cpu"),
        ("placement.layers.3.home", "nowhere", "placement.layers[3]"),
        ("placement.layers", [], "placement.layers"),
        ("routes.1", [1, 2, 3], "routes"),
        ("check.greedy_tokens_equal", 1000, "check.greedy_tokens_equal"),
        ("check.greedy_tokens_equal", 2**80, "check.greedy_tokens_equal"),
        ("results.0.predicted_tokens_per_s.p10", 1e12, "results[0].predicted_tokens_per_s"),
        ("lab.devices.0.read_gb_s", -3.0, "lab.devices"),
        ("peers.0.ratio.max", 1e9, "peers[0].ratio.max"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, named: str) -> None:
    data = json.dumps(set_at(as_dict(), path, value)).encode()
    with pytest.raises(FormatError) as caught:
        from_json(data, "theirs.json")
    assert "theirs.json: " in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"motley": 1e999}', b"NaN"])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        from_json(data)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_never_crash(data: st.DataObject) -> None:
    original = bytearray(to_json(sample_result()))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError):  # any other exception fails the test
        from_json(bytes(original))


def test_a_missing_file_is_one_sentence(tmp_path: Any) -> None:
    with pytest.raises(FormatError, match="can't be read"):
        load_result(tmp_path / "none.json")


def test_spread_of_samples() -> None:
    spread = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.min, spread.max, spread.samples) == (2.5, 1.0, 10.0, (3.0, 1.0, 2.0, 10.0))


def test_parts_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Interval(p10=1, p50=2, p90=3).p10 = 5  # type: ignore[misc]

"""The explanation of a prediction: it adds up to the prediction, and its bytes are the model's."""

from dataclasses import replace

import pytest
from labs import device, lab, placed, tiny_shape

from motley.lab.group import grouped
from motley.lab.hardware import hardware
from motley.lab.lab import Lab
from motley.lab.placement import LayerPlacement, Placement
from motley.lab.profile import device as catalogued
from motley.predict.explain import Explanation, explain, explanation_text
from motley.predict.predict import predict
from motley.predict.show import number
from motley.predict.workload import Workload
from motley.shape.model import ModelShape, Role

OLMOE = ModelShape.named("olmoe-1b-7b", "q4_k_m")
CARD = Lab((catalogued(hardware("rtx-4090"), name="card"),))
CPU = lab(device("cpu"))
PAIR = lab(device("fast", speed=4), device("big"))


def unpriced(shape: ModelShape, tokens: int) -> float:
    norms = sum(t.n_bytes for t in shape.tensors if t.role is Role.NORM)
    return norms + tokens * shape.embed_bytes / shape.vocab_size


def ends_split(shape: ModelShape) -> Placement:
    """The first layer at home on fast, the others on big."""
    layers = [LayerPlacement("fast" if i == 0 else "big", ("big",) * shape.n_experts) for i in range(shape.n_layers)]
    return Placement(tuple(layers))


@pytest.mark.parametrize("name", ["tg64", "tg64@d1024", "tg64x4", "tg64x100", "pp512", "pp2000"])
@pytest.mark.parametrize(
    ("there", "placement"),
    [
        (CARD, placed(OLMOE, "card", "card")),
        (CPU, placed(OLMOE, "cpu", "cpu")),
        (PAIR, placed(OLMOE, "fast", "big", "big", "fast")),
        (PAIR, ends_split(OLMOE)),
    ],
    ids=["card", "cpu", "experts apart", "layers split"],
)
def test_the_lines_add_up_to_the_prediction(there: Lab, placement: Placement, name: str) -> None:
    workload = Workload.parse(name)
    found = explain(OLMOE, there, placement, workload)
    want = predict(OLMOE, there, placement, workload)
    assert found.ms_per_step == want.ms_per_step
    assert sum(line.ms for line in found.lines) == pytest.approx(want.ms_per_step, rel=1e-9)
    for term in want.terms:
        lines = [x.ms for x in found.lines if (x.term, x.device) == (term.name, term.device)]
        assert sum(lines) == pytest.approx(term.ms, rel=1e-9)
    assert not [line for line in found.lines if line.what == "other"]


@pytest.mark.parametrize("there", [CARD, CPU], ids=["card", "cpu"])
@pytest.mark.parametrize(("name", "tolerance"), [("tg64", 1e-9), ("tg64x100", 1e-9), ("pp512", 1e-9), ("tg64x4", 0.02)])
def test_weights_are_the_models_active_bytes(there: Lab, name: str, tolerance: float) -> None:
    workload = Workload.parse(name)
    only = there.devices[0].name
    found = explain(OLMOE, there, placed(OLMOE, only, only), workload)
    tokens = workload.step_tokens
    head = 1.0 if workload.kind == "decode" else min(1.0, tokens / workload.tokens)
    want = OLMOE.step_bytes(tokens) - unpriced(OLMOE, tokens) - (1 - head) * OLMOE.head_bytes
    assert found.weight_bytes == pytest.approx(want, rel=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-v2-lite",  # latent attention, dense layers first
        "qwen3-next-80b-a3b",  # states beside caches, shared experts
        "gpt-oss-20b",  # windows
        "nemotron-3-nano-30b-a3b",  # layers of one kind of block each
        "gemma-3n-e4b",  # tied, with tables and a projection beside the head's
        "llama-3-8b",  # no experts
        "kimi-linear-48b-a3b",
        "llama-4-scout",
    ],
)
def test_every_familys_weights_are_counted_once(name: str) -> None:
    shape = ModelShape.named(name, "q4_k_m")
    there = Lab((replace(CARD.devices[0], memory_bytes=10**12),))
    layers = [LayerPlacement("card", ("card",) * shape.experts_in(i)) for i in range(shape.n_layers)]
    found = explain(shape, there, Placement(tuple(layers)), Workload())
    assert found.weight_bytes == pytest.approx(shape.step_bytes() - unpriced(shape, 1), rel=1e-6)
    assert sum(line.ms for line in found.lines) == pytest.approx(found.ms_per_step)
    assert not [line for line in found.lines if line.what == "other"]


def test_each_rate_gives_its_milliseconds() -> None:
    found = explain(OLMOE, PAIR, placed(OLMOE, "fast", "big", "fast"), Workload.parse("tg64"))
    assert {line.term for line in found.lines} == {"attention", "router", "experts", "link", "head", "python"}
    for line in found.lines:
        amount = {"GB/s": line.n_bytes / 1e6, "Gop/s": line.operations / 1e6, "us each": line.times * 1e-3}
        value, _, unit = line.rate.partition(" ")
        rate = float(value.replace(",", ""))
        ms = amount[unit] * rate if unit == "us each" else amount[unit] / rate
        assert ms == pytest.approx(line.ms, rel=0.01)


def test_exchanges_are_counted_by_how_often_someone_is_waited_for() -> None:
    away = explain(OLMOE, PAIR, placed(OLMOE, "fast", "big"), Workload.parse("tg64"))
    trips = next(line for line in away.lines if line.what == "exchange: round trips")
    assert trips.times == pytest.approx(OLMOE.n_layers)
    assert trips.rate == "50 us each"
    mixed = explain(OLMOE, PAIR, placed(OLMOE, "fast", *["fast"] * 31, "big"), Workload.parse("tg64"))
    fewer = next(line for line in mixed.lines if line.what == "exchange: round trips")
    assert 0 < fewer.times < OLMOE.n_layers


def test_a_group_pays_for_its_all_reduces() -> None:
    members = [replace(CARD.devices[0], name=f"card{i}") for i in range(2)]
    group = grouped("pair", members, reduce_us=10.0, reduce_gb_s=20.0)
    found = explain(OLMOE, Lab((group,)), placed(OLMOE, "pair", "pair"), Workload())
    reduces = next(line for line in found.lines if line.what == "all-reduces")
    assert reduces.times == 2 * OLMOE.n_layers


def test_text_shows_every_line_the_subtotals_and_the_sources() -> None:
    found = explain(OLMOE, PAIR, placed(OLMOE, "fast", "big", "fast"), Workload.parse("tg64"))
    text = explanation_text(found)
    for line in found.lines:
        assert line.what in text
        assert line.figure in text
    rows = text.split("\n\n")[0].splitlines()
    for name in ("fast", "big"):
        subtotal = next(row for row in rows if row.startswith(f"{name}, together"))
        assert float(subtotal.split()[2]) == pytest.approx(sum(x.ms for x in found.lines if x.device == name), abs=0.01)
    assert f"{found.ms_per_step:.2f}" in rows[-1]
    assert "100.0 %" in rows[-1]
    assert "fast: measured; reads 80 GB/s" in text
    assert "tcp, 50 us round trip, 1 GB/s; measured" in text


def test_a_catalogue_device_shows_the_vendors_figure() -> None:
    found = explain(OLMOE, CARD, placed(OLMOE, "card", "card"), Workload())
    note = next(note for note in found.notes if note.startswith("card: "))
    known = hardware("rtx-4090").bandwidth_gb_s
    assert number(known) in note
    assert f"{CARD.devices[0].read_gb_s / known:.2f} of" in note


def test_many_devices_are_shown_by_class() -> None:
    shape = tiny_shape(n_layers=4, n_experts=32, n_used=4)
    names = [f"small{i}" for i in range(16)]
    many = lab(device("home", speed=4), *(device(name) for name in names))
    placement = placed(shape, "home", *names)
    found = explain(shape, many, placement, Workload())
    assert _names(found) == {"home", "small0 and 15 alike"}
    assert sum(line.ms for line in found.lines) == pytest.approx(found.ms_per_step)
    assert "16 links: tcp" in explanation_text(found)


def _names(found: Explanation) -> set[str]:
    return {line.device for line in found.lines}

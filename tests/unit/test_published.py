"""Published rows: read, understood, predicted or refused with a reason."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from motley.errors import UsageError
from motley.predict.published import words
from motley.predict.published.answer import answer, domain, sigma, tokens_per_s
from motley.predict.published.question import Refused, ask
from motley.predict.published.rows import ANSWER, Answer, Row, read_rows, write_answers

ROW = Row(
    "r1", "Qwen3-30B-A3B", "Q4_K_M", "llama.cpp", "1x RTX 3090", "tg", hw_key="rtx_3090", arch="moe", gen_tokens=128
)


def table(path: Path, *rows: dict[str, str]) -> Path:
    columns = ["row_id", "model", "quant", "engine", "hardware", "n_devices", "mode", "hw_key", "total_params_b", "x"]
    with open(path, "w", newline="") as file:
        out = csv.DictWriter(file, columns)
        out.writeheader()
        out.writerows(rows)
    return path


def test_a_row_is_read_and_unknown_columns_are_left_alone(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"row_id": "a", "model": "olmoe", "mode": "tg", "total_params_b": "6.9", "x": "?"})
    (row,) = read_rows(path)
    assert (row.row_id, row.total_params_b, row.batch) == ("a", 6.9, "1")


def test_what_is_no_number_says_nothing(tmp_path: Path) -> None:
    (row,) = read_rows(table(tmp_path / "a.csv", {"row_id": "a", "model": "m", "total_params_b": "~7"}))
    assert row.total_params_b is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column row_id, model"),
        ("row_id;model;quant;engine;hardware;n_devices;mode\na;m;q;e;h;1;tg\n", "separate them by commas"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_rows(tmp_path / "a.csv")


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the rows"):
        read_rows(tmp_path / "none.csv")


def test_answers_are_written_as_scripts_expect(tmp_path: Path) -> None:
    write_answers(tmp_path / "o.csv", [Answer("a", 1.0, 2.0, 3.5), Answer("b", reason="why not")])
    rows = list(csv.reader((tmp_path / "o.csv").open()))
    assert rows == [list(ANSWER), ["a", "1", "2", "3.5", ""], ["b", "", "", "", "why not"]]


def test_a_prediction_has_an_interval_around_it() -> None:
    found = answer(ROW)
    assert found.p10 is not None
    assert found.p50 is not None
    assert found.p90 is not None
    assert 40 < found.p10 < found.p50 < found.p90 < 400
    assert "depth is not stated" in found.reason


def test_what_is_not_stated_widens() -> None:
    stated = replace(ROW, context_depth=512.0)
    assert not ask(stated).doubts
    assert sigma(ask(ROW)) > sigma(ask(stated))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec_decode": "MTP"}, "speculative"),
        ({"mode": "latency"}, "mode 'latency' is not known"),
        ({"model": "nobody-1x", "arch": ""}, "not in the catalogue"),
        ({"hw_key": "", "hardware": "1x FooGPU 9000"}, "'FooGPU 9000' is not in the catalogue"),
        ({"n_devices": "1-4"}, "not one number"),
        ({"batch": "server"}, "batch is not stated"),
        ({"total_params_b": -30.0}, "total_params_b = -30 is not possible"),
        ({"context_depth": 1e30}, "more than 20,000,000 tokens"),
        ({"hw_key": "rtx_3080", "hardware": "RTX 3080"}, "does not fit"),
        ({"parallelism": "TP=None gpuLayers=20"}, "20 of 48 layers on the card"),
        ({"parallelism": "tensor TP3 uneven", "n_devices": "3"}, "uneven"),
        ({"parallelism": "CPU experts", "hardware": "RTX 3090"}, "does not name a card and a processor"),
    ],
)
def test_a_row_that_says_too_little_is_refused_with_its_reason(change: dict[str, Any], said: str) -> None:
    found = answer(replace(ROW, **change))
    assert found.p50 is None
    assert said in found.reason


def test_an_unknown_model_stands_as_its_nearest_one_scaled() -> None:
    question = ask(replace(ROW, model="nobody-30b", total_params_b=33.0, active_params_b=3.4))
    shape = question.stated.shape
    assert question.stated.factor == pytest.approx(3.4e9 / shape.n_active_params)
    assert question.stated.size == pytest.approx(33e9 / shape.n_params)
    assert "not in the catalogue" in question.stated.doubt


def test_a_stated_file_size_scales_the_bytes() -> None:
    plain = ask(replace(ROW, context_depth=0.0))
    size = plain.stated.shape.n_bytes / 2**30
    larger = ask(replace(ROW, context_depth=0.0, model_file_gib=1.2 * size))
    assert larger.stated.factor == pytest.approx(1.2, rel=1e-3)
    assert tokens_per_s(larger) < tokens_per_s(plain)


def test_a_tensor_split_is_faster_than_one_and_slower_than_ideal() -> None:
    one = replace(ROW, model="Llama-3-8B", arch="dense", engine="vLLM", quant="F16", context_depth=0.0)
    two = replace(one, n_devices="2", parallelism="tensor TP2", link="PCIe no P2P")
    assert ask(two).split == "tensor"
    assert tokens_per_s(ask(one)) < tokens_per_s(ask(two)) < 2 * tokens_per_s(ask(one))


def test_a_layer_split_reads_as_slowly_as_one() -> None:
    one = replace(ROW, context_depth=0.0)
    two = replace(one, n_devices="2", parallelism="pipeline (layer split)", link="PCIe in one host")
    assert ask(two).split == "layers"
    assert domain(ask(two)) == "several"
    assert tokens_per_s(ask(two)) < tokens_per_s(ask(one))


def test_experts_on_the_processor_are_paid_at_its_bandwidth() -> None:
    row = replace(ROW, hardware="Ryzen 7950X + RTX 4080 16GB", hw_key="", parallelism="hybrid: --n-cpu-moe 48")
    few = replace(row, parallelism="hybrid: --n-cpu-moe 12")
    assert [h.kind for _, h in ask(row).members] == ["cuda", "cpu"]
    assert tokens_per_s(ask(row)) < tokens_per_s(ask(few))


def test_sockets_of_one_host_are_one_processor() -> None:
    row = replace(ROW, hardware="1x RTX 5090 32GB + 2x EPYC 9355 (PCIe5)", hw_key="", parallelism="CPU experts")
    assert ask(row).members[-1][0] == 1
    assert ask(row).members[-1][1].sockets == 2


def test_a_servers_prompts_share_its_time() -> None:
    served = replace(ROW, mode="tg_serving", batch="16", prompt_tokens=1024.0, context_depth=0.0)
    decoded = replace(ROW, batch="16", prompt_tokens=1024.0, context_depth=1024.0)
    assert ask(served).prompt is not None
    assert tokens_per_s(ask(served)) < tokens_per_s(ask(decoded))


def test_a_placement_that_does_not_fit_is_never_predicted() -> None:
    with pytest.raises(Refused, match="does not fit"):
        tokens_per_s(ask(replace(ROW, model="DeepSeek-V3")))


def test_empty_lines_are_no_rows_and_repeated_names_are_answered(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"row_id": "a", "model": "olmoe"}, {}, {"row_id": "a", "model": "m"})
    assert [row.model for row in read_rows(path)] == ["olmoe", "m"]


def test_words_of_tables() -> None:
    assert words.engine("llama.cpp -- ik_llama.cpp fork") == "ik_llama.cpp"
    assert words.link("PCIe/NVLink in one host") == "pcie4x16"
    assert words.link("50 Gbps Ethernet (100GbE NIC on PCIe x4), TCP") == "100gbe-x4"
    assert words.split("TP=1 gpuLayers=999", "llama.cpp") == "one"
    assert words.split("TP8+EP8", "vLLM") == "tensor"
    assert words.split("none", "llama.cpp RPC") == "rpc"
    assert words.terms("3090 24GB * 2") == [(2, "3090 24GB")]
    assert words.terms("1x RTX 3090 + CPU AMD EPYC 7543") == [(1, "RTX 3090"), (1, "CPU AMD EPYC 7543")]
    assert words.backend("llama.cpp-hip fa=0 b= hipblaslt=1") == "hip+blaslt-nofa"
    assert words.backend("rocm-7.2.4") == "rocm"
    assert words.micro_batch("profile=default; ubatch=256") == 256
    assert words.backend("llama.cpp-vulkan fa=0 b= hipblaslt=") == "vulkan-nofa"
    assert words.link("10GbE RoCE") == "cx7-200g"
    assert words.link("Thunderbolt 5 RDMA") == "tb5-rdma"
    assert words.layers_on_processor("last 14 layers of experts on CPU") == (14, False)
    assert words.layers_on_processor("ik_llama.cpp ncmoe 18") == (18, True)

"""Devices by name: what `--device` takes, what a node calls its devices, and what is said where one can't be opened."""

import argparse
import importlib.util

import pytest

from motley.cli.options import Offered, device
from motley.cli.session import Seat
from motley.errors import UnsupportedError, UsageError
from motley.ops.devices import device_names, kind_of, open_device, present


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("cpu", Offered("cpu")),
        ("mlx=8GB", Offered("mlx", 8 * 10**9)),
        ("mlx:cpu", Offered("mlx:cpu")),
        ("tinygrad:CUDA:1=512MiB", Offered("tinygrad:CUDA:1", 512 << 20)),
    ],
)
def test_what_the_command_line_takes(text: str, offered: Offered) -> None:
    assert device(text) == offered
    assert device(str(offered)) == offered


@pytest.mark.parametrize("text", ["gpu", "cuda", "cpu:1", "mlx:ane", "tinygrad", "tinygrad:TPU", "mlx=lots", ""])
def test_what_it_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        device(text)


def test_names_and_kinds() -> None:
    specs = ["mlx", "cpu", "tinygrad:CUDA:0", "tinygrad:CUDA:1", "tinygrad:METAL"]
    assert device_names("a", specs) == ["a", "a.cpu", "a.cuda", "a.cuda2", "a.metal"]
    assert [kind_of(s) for s in specs] == ["mlx", "cpu", "cuda", "cuda", "metal"]


def test_devices_in_one_memory_share_it() -> None:
    offered = (Offered("mlx"), Offered("cpu"), Offered("tinygrad:CUDA"), Offered("tinygrad:METAL", 5))
    parts = Seat("a", 3, 10**9, offered).parts()
    assert [(p.name, p.memory_bytes) for p in parts] == [
        ("a", 500_000_000),
        ("a.cpu", 500_000_000),
        ("a.cuda", 0),
        ("a.metal", 5),
    ]
    assert [p.memory_bytes for p in Seat("a", 3, 10**9).parts()] == [10**9]


def test_what_is_not_installed_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlx" else found(name))
    with pytest.raises(UnsupportedError, match=r"device mlx needs mlx: .*pip install 'motley-moe\[mlx\]'"):
        open_device("mlx")
    assert "mlx" not in [p.spec for p in present()]


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no device is called 'npu': it is cpu, mlx or tinygrad:NAME"):
        open_device("npu")


def test_the_cpu_is_always_there() -> None:
    assert present()[0].spec == "cpu"

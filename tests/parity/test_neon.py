"""The AArch64 kernels, cross-compiled and run under qemu's user emulation: the portable kernels' bits, and the choice
among them on CPUs with and without the extensions.

Needs Debian's g++-aarch64-linux-gnu and qemu-user. Emulation shows what the instructions compute, not how fast.
"""

import platform
import shutil
from pathlib import Path

import pytest
from native_checks import ARM64, Isa, build_kernels_check, build_layer_check, run

COMPILER = shutil.which("aarch64-linux-gnu-g++") or ""
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static") or ""

pytestmark = [
    pytest.mark.skipif(not COMPILER, reason="no aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu)"),
    pytest.mark.skipif(not QEMU, reason="no qemu-aarch64 (Debian: qemu-user)"),
    pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this machine runs them by itself"),
]


@pytest.fixture(scope="module")
def kernels_check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels_check(COMPILER, ARM64, "MOTLEY_ARM64", tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize(
    ("cpu", "chosen"), [("cortex-a53", "neon"), ("neoverse-n1", "neon-dotprod"), ("max", "neon-i8mm")]
)
def test_kernels_have_the_bits_of_the_portable_ones(kernels_check: Path, cpu: str, chosen: str) -> None:
    printed = run(QEMU, "-cpu", cpu, kernels_check, chosen)
    assert f"{chosen}: 0 differences" in printed


@pytest.mark.parametrize("isa", ARM64, ids=lambda isa: isa.name)
def test_layer_has_the_bits_of_the_portable_one(isa: Isa, tmp_path: Path) -> None:
    assert "0 differences" in run(QEMU, "-cpu", "max", build_layer_check(COMPILER, isa, tmp_path, "-static"))

"""Each vector layer of this machine's architecture against the portable one: every function, to the bit.

What the kernels make of them is tested through Python (test_ops_exactness.py); here are the values they seldom see.
"""

import platform
import shutil
from pathlib import Path

import pytest
from native_checks import ARM64, X86, Isa, build_layer_check, run

from motley.ops.native import isas

HERE = {"x86_64": X86, "AMD64": X86, "aarch64": ARM64, "arm64": ARM64}.get(platform.machine(), [])


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_layer_has_the_bits_of_the_portable_one(isa: Isa, tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if isa.name not in isas():
        pytest.skip(f"this CPU or build has no {isa.name}")
    assert "0 differences" in run(build_layer_check(compiler, isa, tmp_path))

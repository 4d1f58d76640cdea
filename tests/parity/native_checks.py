"""Compiling and running the C++ checks in tests/parity/native: vector layers and kernels against the portable ones."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = Path(__file__).parent / "native"
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wno-psabi", f"-I{ROOT}/native"]


@dataclass(frozen=True)
class Isa:
    """flags: its translation unit's in CMakeLists.txt. level: what the unit defines for its layer."""

    name: str
    layer: str
    flags: tuple[str, ...]
    level: str = ""

    @property
    def unit(self) -> Path:
        return ROOT / "native" / f"kernels_{self.name.replace('-', '_')}.cpp"


AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c")
X86 = [
    Isa("avx512", "simd_avx512.h", (*AVX512, "-Wno-uninitialized", "-Wno-maybe-uninitialized")),
    Isa("avx2-vnni", "simd_avx2.h", (*AVX2, "-mavxvnni"), "MOTLEY_VNNI=1"),
    Isa("avx2", "simd_avx2.h", AVX2, "MOTLEY_VNNI=0"),
]
ARM64 = [
    Isa("neon-i8mm", "simd_neon.h", ("-march=armv8.2-a+dotprod+i8mm",), "MOTLEY_NEON=2"),
    Isa("neon-dotprod", "simd_neon.h", ("-march=armv8.2-a+dotprod",), "MOTLEY_NEON=1"),
    Isa("neon", "simd_neon.h", (), "MOTLEY_NEON=0"),
]


def run(*command: str | Path) -> str:
    """What it printed; an AssertionError with that when it failed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def build_layer_check(compiler: str, isa: Isa, folder: Path, *flags: str) -> Path:
    program = folder / f"layer-{isa.name}"
    defines = [f'-DLAYER="{isa.layer}"', "-DNAME=checked", *([f"-D{isa.level}"] if isa.level else [])]
    run(compiler, *FLAGS, *flags, *isa.flags, *defines, CHECKS / "check_layer.cpp", "-o", program)
    return program


def build_kernels_check(compiler: str, isas: list[Isa], define: str, folder: Path) -> Path:
    """All kernels of `isas` and the portable ones in one program, which chooses among them as the package does."""
    sources: list[tuple[Path, tuple[str, ...]]] = [(isa.unit, isa.flags) for isa in isas]
    sources += [(ROOT / "native" / f"{name}.cpp", ()) for name in ("kernels_scalar", "isa", "formats", "int8_blocks")]
    sources.append((CHECKS / "check_kernels.cpp", ()))

    def build(source: tuple[Path, tuple[str, ...]]) -> Path:
        made = folder / f"{source[0].stem}.o"
        run(compiler, *FLAGS, *source[1], f"-D{define}", "-c", source[0], "-o", made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(build, sources))
    program = folder / "kernels"
    run(compiler, "-static", *objects, "-o", program)
    return program

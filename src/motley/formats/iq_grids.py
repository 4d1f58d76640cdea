"""The grids of the IQ formats: what an index in a block stands for. The table, `iq_grids.inc`, says how it is written;
the native kernels read it too."""

import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TABLE = Path(__file__).with_name("iq_grids.inc")
_ROW = re.compile(r'\{"(\w+)", (\d+), (\d+), \{([-\d, ]+)\},((?:\s*"[0-9a-f]+")+)\}')


@cache
def grids() -> dict[str, NDArray[np.float32]]:
    """By format: the points of its grid [points, integers in a point], in the order of their indices."""
    return {
        name: _points(int(width), [int(level) for level in levels.split(",")], re.sub(r'["\s]', "", bits))
        for name, width, _, levels, bits in _ROW.findall(_TABLE.read_text())
    }


def _points(width: int, levels: list[int], bits: str) -> NDArray[np.float32]:
    there = np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), bitorder="little"))
    digits = there[:, None] // len(levels) ** np.arange(width) % len(levels)
    points: NDArray[np.float32] = np.array(levels, np.float32)[digits]
    return points

"""Damaged GGUF files give one clear error or open: 2,000 cases here, 100,000 and more with `tools/fuzz_gguf.py`."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOOL = Path(__file__).parents[2] / "tools" / "fuzz_gguf.py"
spec = importlib.util.spec_from_file_location("fuzz_gguf", TOOL)
assert spec is not None
assert spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz_gguf"] = fuzz  # dataclasses look their module up
spec.loader.exec_module(fuzz)

SEEDS = fuzz.seeds()
FRACTION = st.floats(0, 1, exclude_max=True, allow_nan=False)
EDIT = st.tuples(st.integers(0, len(fuzz.DAMAGES) - 1), FRACTION, FRACTION, st.integers(0, 2**64 - 1))


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fuzz.IN_MEMORY) as folder:
        yield Path(folder) / "case.gguf"


@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_the_undamaged_files_open(path: Path, seed: object) -> None:
    """Or the damage would never reach beyond the first check."""
    path.write_bytes(seed.raw)
    outcome = fuzz.open_everything(path)
    assert outcome == ("FormatError" if seed is SEEDS[0] else "opened")  # the first is no model, only a file


@settings(max_examples=2000, deadline=2000, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.sampled_from(SEEDS), edits=st.lists(EDIT, min_size=1, max_size=4))
def test_damage_is_an_error_or_harmless(path: Path, seed: object, edits: list) -> None:
    path.write_bytes(fuzz.damage(seed, edits))
    fuzz.open_everything(path)


@settings(max_examples=300, deadline=2000, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(raw=st.binary(max_size=400), start=st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0"]))
def test_arbitrary_bytes(path: Path, raw: bytes, start: bytes) -> None:
    path.write_bytes(start + raw)
    fuzz.open_everything(path)

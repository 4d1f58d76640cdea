"""Planning is light: it needs no kernels, no file formats, no network and no terminal drawing. Held by what is
imported, never by a time."""

import subprocess
import sys

import pytest

HEAVY = (
    "motley.ops",
    "motley.formats",
    "motley.models",
    "motley.cluster",
    "motley.engine",
    "motley.bench",
    "zenoh",
    "msgspec",
    "rich",
    "jinja2",
    "tokenizers",
    "multiprocessing",
    "torch",
    "mlx",
    "tinygrad",
    "scipy",
)
LIGHT = ("motley.shape.model", "motley.lab.lab", "motley.lab.hardware", "motley.predict.predict", "motley.plan.search")


@pytest.mark.parametrize("module", [*LIGHT, "motley.cli.plan", "motley.cli.predict"])
def test_what_plans_imports_nothing_heavy(module: str) -> None:
    loaded = _modules_after(f"import {module}")
    assert module in loaded
    assert {name for name in loaded if name.startswith(HEAVY)} == set()


@pytest.mark.parametrize("command", ["plan", "predict"])
def test_parsing_a_command_imports_nothing_heavy(command: str) -> None:
    loaded = _modules_after(f"from motley.cli.main import build_parser; build_parser(only={command!r})")
    assert f"motley.cli.{command}" in loaded
    assert {name for name in loaded if name.startswith(HEAVY)} == set()


@pytest.mark.parametrize("module", ["motley", "motley.shape.model"])
def test_numpy_waits_until_something_is_priced(module: str) -> None:
    assert "numpy" not in _modules_after(f"import {module}")


def _modules_after(statement: str) -> set[str]:
    words = [sys.executable, "-c", f"import sys; {statement}; print('\\n'.join(sys.modules))"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())

"""The design's import directions: an arrow is "may import"; every package may import `errors` and `progress`."""

import ast
from pathlib import Path

import pytest

import motley

ROOT = Path(motley.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "bundled": set(),
    "database": set(),
    "page": set(),
    "shape": set(),
    "lab": set(),
    "formats": {"shape"},
    "ops": {"formats", "shape"},
    "models": {"ops", "formats", "shape"},
    "predict": {"shape", "lab"},
    "plan": {"predict", "shape", "lab", "page"},
    "cluster": {"ops", "formats", "shape"},
    "doctor": {"ops", "cluster"},
    "engine": {"models", "cluster", "plan", "predict", "ops", "formats", "shape", "lab"},
    "eval": {"engine", "models", "predict", "ops", "formats", "shape"},
    "bench": {"database", "page", "engine", "plan", "predict", "models", "ops", "formats", "shape", "lab"},
    "serve": {"engine", "plan", "predict", "formats", "shape", "lab"},
    "dashboard": {"serve", "engine", "bench", "page", "plan", "predict", "formats", "shape", "lab"},
    "board": {"database", "bench", "serve", "plan", "predict", "lab", "shape", "formats", "page", "bundled"},
    "cli": {"*"},
    "__init__": {"*"},
    "__main__": {"*"},
}


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def motley_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "motley":
                names = [f"motley.{a.name}" for a in node.names]
            elif node.module:
                names = [node.module]
        found |= {n.split(".")[1] for n in names if n.startswith("motley.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_directions(path: Path) -> None:
    package = package_of(path)
    allowed = ALLOWED[package]
    if "*" in allowed:
        return
    extra = motley_imports(path) - allowed - {package, "errors", "progress", "__version__"}
    assert not extra, f"{path.relative_to(ROOT)} ({package}) may not import {sorted(extra)}"

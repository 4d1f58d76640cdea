"""docs/cli.md is what tools/cli_docs.py writes, and the design's forms are in it."""

import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "cli_docs.py"))


def test_page_is_current() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == TOOL["document"](TOOL["build_parser"]()), "run: python tools/cli_docs.py"


def test_every_command_is_there() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in ("bench", "run", "plan", "probe", "node", "synth", "report"):
        assert f"## motley {name}\n" in text
    for option in (
        "--shape",
        "--quant",
        "--nodes",
        "--lab",
        "--threads",
        "--pp",
        "--tg",
        "--depth",
        "--batch",
        "--repeat",
        "--peer",
        "--json",
    ):
        assert f"`{option}" in text.partition("## motley run")[0], option


def readme_commands() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("motley ")]


@pytest.mark.parametrize("line", readme_commands())
def test_the_readmes_commands_parse(line: str) -> None:
    words = shlex.split(line)[1:]
    assert TOOL["build_parser"]().parse_args(words).command == words[0]


def test_the_readmes_tree_is_real() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("src/motley/\n")[2].partition("```")[0]
    names = [(line.startswith("  "), line.split()[0]) for line in tree.splitlines() if line.strip()]
    for inside, name in names:
        assert (ROOT / ("src/motley" if inside else "") / name).exists(), name
    packages = {p.name + "/" for p in (ROOT / "src" / "motley").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages == {name for inside, name in names if inside and name.endswith("/")}

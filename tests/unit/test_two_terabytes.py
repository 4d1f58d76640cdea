"""docs/two-terabytes.md is what tools/two_terabytes writes: its questions, its labs, its models. Its numbers move with
the profiles and are not compared here; the whole script takes minutes."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "two_terabytes"
PARTS = ("answers", "page", "text", "uncertain")


@pytest.fixture(scope="module")
def tool() -> dict[str, ModuleType]:
    sys.path.insert(0, str(TOOL))
    try:
        return {name: importlib.import_module(name) for name in PARTS}
    finally:
        sys.path.remove(str(TOOL))


@pytest.fixture(scope="module")
def written() -> str:
    return (ROOT / "docs" / "two-terabytes.md").read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def columns(text: str) -> list[str]:
    """The head of every table."""
    return re.findall(r"^(\|.+\|)\n\|(?:---\|)+$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def small(tool: dict[str, ModuleType]) -> str:
    """The page of one model that fits and one that does not, with hardly any search."""
    answers = tool["answers"].Answers(looks=3)
    return str(tool["page"].page(answers, ["kimi-k2", "step-3.5-flash"], [("step-3.5-flash", "q4_k_m")]))


def test_the_page_has_the_scripts_questions_and_tables(tool: dict[str, ModuleType], written: str, small: str) -> None:
    assert headings(written) == headings(small) == list(tool["page"].SECTIONS)
    assert columns(written) == columns(small)


def test_the_page_has_every_wiring_and_every_big_model(tool: dict[str, ModuleType], written: str) -> None:
    for name in tool["page"].WIRINGS:
        assert f"| `{name}` |" in written
    missing = [name for name in tool["answers"].big_models() if f"\n| {name} |" not in written]
    assert not missing, "run: python tools/two_terabytes"


def test_equal_questions_have_equal_answers(tool: dict[str, ModuleType], small: str) -> None:
    answers = tool["answers"].Answers(looks=3)
    again = tool["page"].page(answers, ["kimi-k2", "step-3.5-flash"], [("step-3.5-flash", "q4_k_m")])
    assert again == small


def test_what_does_not_fit_is_never_a_speed(tool: dict[str, ModuleType]) -> None:
    answers = tool["answers"].Answers(looks=3)
    assert answers.ask("kimi-k2", "bf16", "2tb-10gbe-rdma") is None
    steps = tool["page"].ladder(answers)
    assert [room for _, room in steps] == sorted(room for _, room in steps)
    assert tool["page"].cell("kimi-k2", "bf16", steps).startswith("**no**: ")


def test_figures_move_the_speed_they_belong_to(tool: dict[str, ModuleType]) -> None:
    asked = tool["answers"].Answers(looks=3).ask("step-3.5-flash", "q4_k_m", "2tb-macs-rdma")
    found = dict(tool["uncertain"].swings(asked))
    assert found["reading weights on the Macs"] > 0.02
    assert found["reading weights on the card"] == 0, "there is none in this lab"


@pytest.mark.parametrize(("value", "said"), [(1234.5, "1,230"), (9.462, "9.46"), (26, "26"), (0.0123, "0.0123")])
def test_numbers_have_three_digits_and_no_exponent(tool: dict[str, ModuleType], value: float, said: str) -> None:
    assert tool["text"].number(value) == said

"""Facts about the machine and the checkout are real."""

import subprocess
from pathlib import Path

import pytest

from motley.bench import facts
from motley.lab.machine import usable_cores
from motley.shape.model import ModelShape


def test_machine() -> None:
    machine = facts.machine(10.0, None, 2)
    assert machine.cores == usable_cores()
    assert machine.memory_bytes > 1e8
    assert machine.cpu


def test_commit_is_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "motley"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("motley.__file__", str(package / "__init__.py"))
    assert facts.commit() is None

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "--short=12", "HEAD").strip()
    assert facts.commit() == head
    (package / "__init__.py").write_text("changed = 1")
    assert facts.commit() == f"{head}-dirty"


@pytest.mark.parametrize(
    ("name", "quant", "said"),
    [("olmoe-1b-7b", "q4_k_m", "q4_k"), ("qwen3-0.6b", "q8_0", "q8_0"), ("qwen3-0.6b", "q4_k_m", "q4_k")],
)
def test_quantisation_is_of_most_bytes(name: str, quant: str, said: str) -> None:
    assert facts.expert_quant(ModelShape.named(name, quant)) == said


def test_model() -> None:
    shape = ModelShape.named("olmoe-1b-7b", "q4_k")
    model = facts.model(shape, Path("/x/y.gguf"), "abc")
    assert (model.quant, model.file, model.file_hash, model.n_bytes) == ("q4_k", "y.gguf", "abc", shape.n_bytes)

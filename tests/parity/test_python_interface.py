"""The Python interface as the README shows it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import motley
from motley.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "models"


def test_load_gives_logits_and_tokens() -> None:
    golden = np.load(GOLDEN / "mixtral.npz")
    prompt = golden["prompt"].tolist()
    with motley.load(GOLDEN / "mixtral.gguf", threads=2, context=64) as model:
        logits = model.logits(prompt)
        assert logits.shape == (37, 160)
        assert logits.dtype == np.float32
        assert list(model.generate(prompt, max_tokens=16, temperature=0.0)) == golden["ids"].tolist()
        seeded = [list(model.generate(prompt, max_tokens=8, temperature=1.0, seed=3)) for _ in range(2)]
        assert seeded[0] == seeded[1]
        with pytest.raises(UsageError, match="between 0 and 159"):
            model.logits([160])


def test_importing_motley_imports_nothing_heavy() -> None:
    code = "import sys, motley; motley.ModelShape; sys.exit(len({'zenoh', 'tokenizers', 'rich'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

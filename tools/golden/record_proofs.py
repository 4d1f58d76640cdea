"""Record what proves each family: run its golden logits (tests/golden/models) and write down the largest error.

    PYTHONPATH=src:tests python tools/golden/record_proofs.py

Writes src/motley/models/proofs.json, which `motley models` shows. tests/parity/test_proofs.py fails where a family has
no entry, where golden files are not those that were measured, and where an error grows.
"""

import json
from pathlib import Path

import motley.models
from golden_errors import architecture, digest, goldens, measured

OUT = Path(motley.models.__file__).parent / "proofs.json"


def main() -> None:
    proofs = []
    for name in goldens():
        tokens, error = measured(name)
        proofs.append(
            {
                "golden": name,
                "architecture": architecture(name),
                "tokens": tokens,
                "max_rel_error": float(f"{error:.3g}"),
                "sha256": digest(name),
            }
        )
        print(f"{name}: {tokens} tokens, {error:.2e}")
    OUT.write_text(json.dumps(proofs, indent=1) + "\n")


if __name__ == "__main__":
    main()

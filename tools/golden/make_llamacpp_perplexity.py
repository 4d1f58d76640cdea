"""Golden perplexities: what llama.cpp's own tool says of the bundled model and its held-out text.

    python -m pip download --no-binary :all: --no-deps llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B peer -DLLAMA_CURL=OFF
    cmake --build peer --target llama-perplexity
    PYTHONPATH=src:tests python tools/golden/make_llamacpp_perplexity.py peer/bin/llama-perplexity

Writes tests/golden/llamacpp_perplexity.json: by variant of the model the value after each window of 512 tokens, the
last one's standard error and the tool's arguments. `VARIANTS` says what they are; tests/parity/test_perplexity.py makes
the same files.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from motley.bundled import heldout_path
from perplexity_models import VARIANTS, write_variant

OUT = Path(__file__).parents[2] / "tests" / "golden" / "llamacpp_perplexity.json"
CONTEXT = 512
FLOAT_CACHE = ["-ctk", "f32", "-ctv", "f32"]


def measured(tool: Path, model: Path, *more: str) -> dict[str, object]:
    arguments = ["-c", str(CONTEXT), "-t", "2", *more]
    words = [str(tool), "-m", str(model), "-f", str(heldout_path()), *arguments]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    text = said.stdout + said.stderr
    running = [float(value) for _, value in re.findall(r"\[(\d+)\](\d+\.\d+),", text)]
    final = re.search(r"PPL = (\d+\.\d+) \+/- (\d+\.\d+)", text)
    assert final, text
    assert float(final[1]) == running[-1]
    return {"arguments": arguments, "running": running, "error": float(final[2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tool", type=Path)
    tool = parser.parse_args().tool
    version = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True)
    golden: dict[str, object] = {"tool": (version.stdout + version.stderr).splitlines()[0], "context": CONTEXT}
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            path = write_variant(Path(folder), variant)
            golden[variant] = found = measured(tool, path, *(FLOAT_CACHE if variant == "f32" else []))
            print(variant, found["running"][-1], found["error"])  # type: ignore[index]
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()

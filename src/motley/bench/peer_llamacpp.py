"""llama.cpp as a peer, through `llama-cpp-python` (extra `peers`), in a process of its own.

This side starts `python -m motley.bench.llamacpp_worker`, sends one JSON request a line and reads one JSON answer a
line; when it closes, all of the rival's memory is gone. The same file, tokens, threads and chunk go to both sides.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from motley.bench.measure import Text
from motley.bench.peer import Peer, Settings
from motley.errors import MotleyError, UsageError
from motley.predict.workload import Workload

# Repacking interleaves Q4 rows for llama.cpp's own matrix-vector kernels: it can help decode and cost prefill, or the
# other way round, so both are tried.
SETTINGS: tuple[Settings, ...] = ({"repack": True}, {"repack": False})


def require_installed() -> None:
    """UsageError with the remedy if llama.cpp's package is missing."""
    if find_spec("llama_cpp") is None:
        raise UsageError(
            "--peer llama.cpp needs the package llama-cpp-python: pip install 'motley-moe[peers]' (compiles llama.cpp)"
        )


def rivals(
    model: Path, threads: int, workloads: Sequence[Workload], text: Text
) -> list[Callable[[], AbstractContextManager[Peer]]]:
    """One way to start llama.cpp per setting."""
    require_installed()
    start = {
        "model": str(model),
        "threads": threads,
        "context": max(w.context for w in workloads),
        "sequences": max(w.batch for w in workloads),
        "chunk": max(w.chunk for w in workloads),
        "text": text.ids.tolist(),
    }

    def opener(settings: Settings) -> Callable[[], AbstractContextManager[Peer]]:
        return lambda: _started(start, settings)

    return [opener(settings) for settings in SETTINGS]


@contextmanager
def _started(start: dict[str, Any], settings: Settings) -> Iterator[Peer]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "motley.bench.llamacpp_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield LlamaCpp(process, log, start, settings)
        finally:
            if process.stdin:
                process.stdin.close()  # the worker ends at the end of its input
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class LlamaCpp:
    """The worker process, loaded. Satisfies `peer.Peer`."""

    name = "llama.cpp"

    def __init__(
        self, process: "subprocess.Popen[str]", log: IO[bytes], start: dict[str, Any], settings: Settings
    ) -> None:
        self._process, self._log = process, log
        self.settings = settings
        self.version = str(self._ask({**start, **settings})["version"])

    def prepare(self, workload: Workload) -> None:
        self._ask({"do": "prepare", "workload": asdict(workload)})

    def seconds(self, workload: Workload) -> float:
        return float(self._ask({"do": "sample", "workload": asdict(workload)})["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise MotleyError(f"llama.cpp ended without an answer; its last words: {self._last_words()}")
        return dict(json.loads(answer))

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])[-600:] or "none"

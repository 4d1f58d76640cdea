"""The process in which llama.cpp runs for a comparison: `python -m motley.bench.llamacpp_worker`.

Reads JSON requests from stdin, one a line (first the settings, then tests), and answers each with a line. Uses
llama.cpp's C interface directly and fills its batches before the clock starts: only `llama_decode` and the reading of
its logits are timed, so that no Python is held against it.
"""

import json
import os
import sys
import time
from typing import Any, TextIO

import llama_cpp
import numpy as np

from motley.bench.measure import WARM_UP_STEPS, Test, Workload, batches, prompt_batches
from motley.ops.protocol import Batch


class LlamaCppModel:
    """A loaded model and a context that holds every test of the session."""

    def __init__(self, start: dict[str, Any]) -> None:
        llama_cpp.llama_backend_init()
        self.workload = Workload(np.array(start["text"], np.int32), start["chunk"])
        self.model = _load(start["model"], repack=start["repack"])
        self.context = _context(self.model, start)
        self.memory = llama_cpp.llama_get_memory(self.context)

    def prepare(self, test: Test) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)
        for slot in range(test.batch):
            for batch in prompt_batches(self.workload, slot, 0, test.depth):
                self._decode(_filled(batch))
        for batch, _ in zip(batches(test, self.workload), range(WARM_UP_STEPS), strict=False):
            self._decode(_filled(batch))

    def seconds(self, test: Test) -> float:
        self._rewind(test)
        spent = 0.0
        for step in batches(test, self.workload):
            batch = _filled(step)
            start = time.perf_counter()
            self._decode(batch)
            spent += time.perf_counter() - start
        return spent

    def _rewind(self, test: Test) -> None:
        """Back to the test's depth: llama.cpp refuses positions that its cache holds already."""
        for slot in range(test.batch):
            llama_cpp.llama_memory_seq_rm(self.memory, slot, test.depth, -1)

    def _decode(self, batch: Any) -> None:
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        llama_cpp.llama_get_logits_ith(self.context, -1)  # waits for the result
        llama_cpp.llama_batch_free(batch)


def _load(path: str, repack: bool) -> Any:
    settings = llama_cpp.llama_model_default_params()
    settings.n_gpu_layers = 0
    settings.use_extra_bufts = repack
    model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
    if not model:
        raise RuntimeError(f"llama.cpp can't load {path}")
    return model


def _context(model: Any, start: dict[str, Any]) -> Any:
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = start["context"] * start["sequences"]
    settings.n_seq_max = start["sequences"]
    settings.n_batch = settings.n_ubatch = max(start["chunk"], start["sequences"])
    settings.n_threads = settings.n_threads_batch = start["threads"]
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        raise RuntimeError("llama.cpp can't make a context")
    return context


def _filled(step: Batch) -> Any:
    """A llama_batch with the same tokens, positions, sequences and wanted rows."""
    batch = llama_cpp.llama_batch_init(len(step), 0, 1)
    batch.n_tokens = len(step)
    wanted = set(step.rows.tolist())
    for i in range(len(step)):
        batch.token[i] = int(step.tokens[i])
        batch.pos[i] = int(step.positions[i])
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = int(step.slots[i])
        batch.logits[i] = i in wanted
    return batch


def _own_stdout() -> TextIO:
    """The answer channel; from here on, whatever else prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def _answer(model: LlamaCppModel, request: dict[str, Any]) -> dict[str, Any]:
    test = Test(request["kind"], request["n"], request["depth"], request["batch"])
    if request.get("prepare"):
        model.prepare(test)
        return {}
    return {"seconds": model.seconds(test)}


def main() -> None:
    channel = _own_stdout()
    model: LlamaCppModel | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if model is None:
            model = LlamaCppModel(request)
            answer: dict[str, Any] = {"version": llama_cpp.__version__}
        else:
            answer = _answer(model, request)
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()

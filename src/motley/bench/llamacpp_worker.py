"""The process in which llama.cpp runs for a comparison: `python -m motley.bench.llamacpp_worker`.

Reads JSON requests from stdin, one a line (first the settings, then workloads), and answers each with a line. Uses
llama.cpp's C interface directly and fills its batches before the clock starts: only `llama_decode` and the wait for
its end are timed, so that no Python is held against it.
"""

import json
import os
import sys
import time
from typing import Any, TextIO

import llama_cpp
import numpy as np

from motley.bench.measure import WARM_UP_STEPS, Text, batches, prompt_batches
from motley.ops.protocol import Batch
from motley.predict.workload import Workload


class LlamaCppModel:
    """A loaded model and a context that holds every workload of the session."""

    def __init__(self, start: dict[str, Any]) -> None:
        llama_cpp.llama_backend_init()
        self.text = Text(np.array(start["text"], np.int32))
        self.model = _load(start["model"], repack=start["repack"])
        self.context = _context(self.model, start)
        self.memory = llama_cpp.llama_get_memory(self.context)

    def prepare(self, workload: Workload) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)
        for step in prompt_batches(workload, self.text, 0, workload.depth):
            self._decode(step)
        for step, _ in zip(batches(workload, self.text), range(WARM_UP_STEPS), strict=False):
            self._decode(step)

    def seconds(self, workload: Workload) -> float:
        self._rewind(workload)
        return sum(self._decode(step) for step in batches(workload, self.text))

    def _rewind(self, workload: Workload) -> None:
        """Back to the workload's depth: llama.cpp refuses positions that its cache holds already."""
        for slot in range(workload.batch):
            llama_cpp.llama_memory_seq_rm(self.memory, slot, workload.depth, -1)

    def _decode(self, step: Batch) -> float:
        """Seconds that llama.cpp took."""
        batch = _filled(step)
        start = time.perf_counter()
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        return seconds


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
    workload = Workload(**request["workload"])
    if request["do"] == "prepare":
        model.prepare(workload)
        return {}
    return {"seconds": model.seconds(workload)}


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

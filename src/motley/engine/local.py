"""A whole model on one device in this process: `motley.load`, and the reference that a placed model is checked
against."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from motley.engine.device import DeviceModel
from motley.engine.engine import Engine
from motley.engine.reuse import Reuse
from motley.engine.runner import ExchangeCount
from motley.engine.sampling import Sampling
from motley.engine.times import StepTimes
from motley.errors import CapacityError, UsageError
from motley.formats.checkpoint import open_checkpoint
from motley.formats.shape_of import shape_of
from motley.formats.tensor import Checkpoint
from motley.lab.machine import usable_cores
from motley.models.registry import config_of
from motley.ops.devices import open_device
from motley.ops.protocol import Batch, Ops
from motley.progress import Progress, silent
from motley.shape.mixer import CacheType


class LocalRunner:
    """`engine.runner.Runner` on one device. Owns the ops it is given: `close` closes them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        *,
        n_slots: int = 1,
        context: int = 4096,
        cache: CacheType | None = None,
        repack: bool = True,
        progress: Progress = silent,
    ) -> None:
        config = config_of(checkpoint.architecture, checkpoint.metadata)
        every = {i: range(config.n_experts) for i in range(config.n_layers) if config.has_experts(i)}
        self.n_slots, self.context = n_slots, context
        self.vocab_size = config.vocab_size
        self.reuse = Reuse.of(shape_of(checkpoint).mixers, ops.rewind)
        self.model = DeviceModel(
            checkpoint,
            ops,
            layers=range(config.n_layers),
            experts=every,
            n_slots=n_slots,
            context=context,
            cache=cache,
            repack=repack,
            progress=progress,
        )

    def step(self, batch: Batch) -> NDArray[np.float32]:
        assert self.model.stage is not None
        return self.model.stage.forward(batch, None)

    def times(self) -> StepTimes:
        return self.model.clock.times

    def routes(self) -> NDArray[np.int64]:
        return self.model.placed.chosen()

    def watch_routes(self, watch: Callable[[int, NDArray[np.int32]], None] | None) -> None:
        """`watch(layer, ids)` is told which experts the tokens of each step chose, int32 [T, A]; None: nobody is."""
        self.model.placed.watch = watch

    def exchanges(self) -> list[ExchangeCount]:
        return []

    def close(self) -> None:
        self.model.ops.close()


class Model:
    """What `motley.load` gives: one model on one device. A context manager: `close` frees threads and
    memory."""

    def __init__(self, runner: LocalRunner) -> None:
        self.runner = runner

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, vocab]: the logits after each token of one sequence. UsageError for ids outside the
        vocabulary, CapacityError for more tokens than the context holds."""
        _check_ids(tokens, self.runner.vocab_size)
        if len(tokens) > self.runner.context:
            raise CapacityError(
                f"{len(tokens)} tokens exceed the context of {self.runner.context}: "
                "give fewer, or load with a longer one"
            )
        everything = list(range(len(tokens)))
        return self.runner.step(Batch(tokens, everything, [0] * len(tokens), everything))

    def generate(
        self,
        tokens: Sequence[int],
        max_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: frozenset[int] = frozenset(),
    ) -> Iterator[int]:
        """Yield up to `max_tokens` new tokens, ending after one of `stop`."""
        _check_ids(tokens, self.runner.vocab_size)
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        return Engine(self.runner).generate(tokens, max_tokens, sampling, stop)

    def close(self) -> None:
        self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: str | PathLike[str],
    *,
    device: str = "cpu",
    threads: int = 0,
    context: int = 4096,
    slots: int = 1,
    cache: CacheType | None = None,
    repack: bool = True,
) -> Model:
    """Load a GGUF file onto a device of this machine: `context` tokens for each of `slots` sequences.

    `device`: `cpu`, `mlx`, `tinygrad:CUDA` (`ops.devices`); what follows concerns the CPU. `threads` 0: one per core
    this process may use. `cache`: how keys and values are stored, if not as the device likes. `repack` False: the
    weights stay in the mapped file, which must not change meanwhile: there at once and shared with other processes,
    somewhat slower, the same answers to the last bit. Raises FormatError or UnsupportedError."""
    checkpoint = open_checkpoint(path)
    ops = open_device(device, threads or usable_cores())
    return Model(LocalRunner(checkpoint, ops, n_slots=slots, context=context, cache=cache, repack=repack))


def _check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    if not len(tokens):
        raise UsageError("no tokens given: a model needs at least one")
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        raise UsageError(f"token ids must be between 0 and {vocab_size - 1}; got {min(tokens)}..{max(tokens)}")

"""The one thread that owns the engine. Others hand it sequences and take them back; it steps while there is work.

Its own time in a step (everything but the runner's) is measured into a histogram. It never waits for a client: what a
step brought is handed over (`Sequence.deliver`), all of a step's at once (`flush`).
"""

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter

from motley.engine.engine import Engine, Stream
from motley.errors import CapacityError, ClusterError, MotleyError
from motley.predict.workload import STEP_TOKENS
from motley.serve.metrics import Meters
from motley.serve.reading import Reading, Readings
from motley.serve.sequence import Piece, Sequence

RETRY_S = 1.0  # before a load that did not fit the nodes that are left is tried again
PREFILL_S = 0.15  # of a step that streams wait for, for prompts,
LEAST = 64  # but so many of their tokens always: experts are read for fewer, too
GIVE_UP_S = 60.0  # of such trials, then everything that runs is ended with the reason
FAILED = "the server failed: its log says why"


class QueueFull(MotleyError):
    pass


class ShuttingDown(MotleyError):
    pass


class Scheduler:
    """`start`, then `submit` and `cancel` from any thread; `close` ends all sequences that still run. `queue`: how many
    may wait for a slot. `flush`: called after each step that delivered something. `tell`: why all of them wait."""

    def __init__(
        self,
        engine: Engine,
        meters: Meters,
        queue: int,
        flush: Callable[[], None],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine, self._meters, self._queue, self._flush, self._tell = engine, meters, queue, flush, tell
        self._lock = threading.Condition()
        self._new: deque[Sequence] = deque()
        self._gone: deque[Sequence] = deque()
        self._closing = False
        self._of: dict[Stream, Sequence] = {}  # those that have been submitted to the engine
        self._readings = Readings(engine)
        self._stuck_since = 0.0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    # -- from any thread

    def start(self) -> None:
        self._thread.start()

    def submit(self, sequences: list[Sequence]) -> None:
        """All of them or none. QueueFull where they would wait behind too many; ShuttingDown; MotleyError where the
        thread has failed."""
        with self._lock:
            if self.failure:
                raise MotleyError(FAILED)
            if self._closing:
                raise ShuttingDown("the server is shutting down: ask another one, or later")
            free = max(0, self.n_slots - len(self._engine.running))
            if self.n_waiting + len(sequences) > self._queue + free:
                raise QueueFull(f"{self.n_waiting} sequences wait for a slot already: try again in a moment")
            self._new += sequences
            self._lock.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Nothing more is delivered of it after the step under way, and its slot is free for the next one."""
        with self._lock:
            self._gone.append(sequence)
            self._lock.notify()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    @property
    def n_slots(self) -> int:
        return self._engine.runner.n_slots

    @property
    def context(self) -> int:
        return self._engine.runner.context

    @property
    def n_running(self) -> int:
        return len(self._engine.running)

    @property
    def n_waiting(self) -> int:
        return self._engine.n_waiting + len(self._new)

    def slots(self) -> list[dict[str, int | str]]:
        """What each slot does; the idle ones last."""
        found: list[dict[str, int | str]] = []
        for stream in list(self._engine.running):
            n, done = len(stream.prompt), stream.computed
            found.append(
                {
                    "state": "prefill" if done < n else "decode",
                    "prompt": n,
                    "computed": done,
                    "generated": len(stream.answer),
                }
            )
        return found + [{"state": "idle", "prompt": 0, "computed": 0, "generated": 0}] * (self.n_slots - len(found))

    def reading(self) -> Reading:
        """The runner's counters, a fraction of a second old."""
        if self._readings.ask():
            with self._lock:
                self._lock.notify()
        return self._readings.last

    # -- the thread

    def _run(self) -> None:
        try:
            self._readings.read()
            while self._wait():
                self._step()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            over = ShuttingDown("the server is shutting down: the answer ends here")
            self._end_all(MotleyError(FAILED) if self.failure else over)

    def _wait(self) -> bool:
        """Until there is something to do, then take in what is new. False: the end."""
        while not self._has_work():
            self._readings.read()  # it may ask nodes: nobody waits for the lock meanwhile
        with self._lock:
            self._began = perf_counter()
            self._runner_s, self._tokens = self._engine.runner_s, self._engine.runner_tokens
            new, self._new = self._new, deque()
            gone, self._gone = self._gone, deque()
            if self._closing:
                self._new = new
                return False
        for sequence in new:
            self._submit(sequence)
        for sequence in gone:
            self._cancel(sequence)
        return True

    def _has_work(self) -> bool:
        """Waits until there is something to do, or (False) only counters to read."""
        with self._lock:
            while not (work := self._closing or self._new or self._gone or self._engine.busy):
                if self._readings.due():
                    break
                self._lock.wait()
            return bool(work)

    def _submit(self, sequence: Sequence) -> None:
        try:
            stream = self._engine.submit(
                sequence.prompt, sequence.max_tokens, stop=sequence.ends, choose=sequence.chooser
            )
        except MotleyError as error:
            self._end(sequence, Piece(finish="error", error=error))
            return
        sequence.stream = stream
        self._of[stream] = sequence

    def _cancel(self, sequence: Sequence) -> None:
        if sequence.stream is not None and sequence.stream in self._of:
            del self._of[sequence.stream]
            self._engine.cancel(sequence.stream)
            self._meters.requests.add("cancelled")
        sequence.ended = True

    def _step(self) -> None:
        if not self._engine.busy:
            self._flush()
            return
        try:
            moved = self._engine.step()
            self._stuck_since = 0.0
        except (CapacityError, ClusterError) as error:
            self._stuck(error)
            return
        except MotleyError as error:  # the runner's own: no sequence can go on
            self._end_all(error)
            return
        self._note_started()
        for stream in moved:
            self._deliver(self._of[stream])
        self._flush()
        runner_s, tokens = self._engine.runner_s - self._runner_s, self._engine.runner_tokens - self._tokens
        self._budget(runner_s, tokens)
        if tokens:  # otherwise a node was lost and the model loaded anew: no step
            self._meters.step(perf_counter() - self._began, runner_s, len(moved))
        if self._readings.due():
            self._readings.read()

    def _note_started(self) -> None:
        for stream in self._engine.running:
            timings = self._of[stream].timings
            timings.started = timings.started or self._began

    def _budget(self, seconds: float, tokens: int) -> None:
        """How much of prompts may ride with streams, by what the last such step took. A larger step than they ever
        wait for counts as one of those: what is brought for it is brought for a small one, too."""
        if tokens > self.n_slots:
            fitting = PREFILL_S * min(tokens, STEP_TOKENS) / seconds
            self._engine.beside = int(min(max(LEAST, fitting), STEP_TOKENS, self._engine.chunk))

    def _deliver(self, sequence: Sequence) -> None:
        sequence.timings.started = sequence.timings.started or self._began  # it may have run and ended in this step
        piece = self._taken(sequence)
        if not piece.finish:
            sequence.deliver(piece)
            return
        assert sequence.stream is not None
        self._engine.cancel(sequence.stream)
        del self._of[sequence.stream]
        self._end(sequence, piece)

    def _taken(self, sequence: Sequence) -> Piece:
        try:
            return sequence.take()
        except MotleyError as error:  # its text can't be made: that is this sequence's own
            return Piece(finish="error", error=error)

    def _end(self, sequence: Sequence, piece: Piece) -> None:
        sequence.ended = True
        sequence.timings.ended = perf_counter()
        self._meters.ended(sequence, piece)
        sequence.deliver(piece)

    def _stuck(self, error: MotleyError) -> None:
        """The nodes that are left can't hold the model: the streams wait for one to come back, but not for ever."""
        now = perf_counter()
        if not self._stuck_since:
            self._stuck_since = now
            self._tell(f"the streams wait for a node, {GIVE_UP_S:.0f} s at most: {error}")
        if now - self._stuck_since > GIVE_UP_S:
            self._end_all(error)
            self._stuck_since = 0.0
            return
        with self._lock:
            if not self._closing:
                self._lock.wait(RETRY_S)

    def _end_all(self, error: MotleyError) -> None:
        with self._lock:
            new, self._new = self._new, deque()
        for stream, sequence in list(self._of.items()):
            self._engine.cancel(stream)
            self._end(sequence, Piece(finish="error", error=error))
        for sequence in new:
            self._end(sequence, Piece(finish="error", error=error))
        self._of.clear()
        self._flush()

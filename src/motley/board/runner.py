"""Runner: works through the queue, one `motley bench` at a time, unattended.

A run is a process of its own, on a leash (`motley.board.leash`), with a time limit, without the network unless it is a
download that the host allowed. One runner a board: it holds a lock, which the leash inherits, so that the next runner
also waits for a run that is being ended. Whatever is marked as running when a runner starts was left by one that died.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from motley.bench.folders import cache_folder
from motley.bench.result import Result, load_result, to_json
from motley.board import leash
from motley.board.board import Board
from motley.board.question import Understood
from motley.board.states import Shown, State
from motley.board.store import Filter, Request
from motley.errors import CapacityError, MotleyError, UsageError
from motley.predict.memory import gigabytes

Say = Callable[[str], None]

_POLL_S = 1.0
_PATH = re.compile(r"(?<![\w.])(?:~|\.{1,2})?/(?:[^\s/'\":]+/)*([^\s/'\":]*)")


class Runner:
    def __init__(self, board: Board, say: Say) -> None:
        self.board, self.say = board, say
        self.runs = board.folder / "runs"

    def work(self, *, watch: bool) -> int:
        """Until the queue is empty, or for ever. How many were measured. Outside the host's hours it waits, or ends."""
        measured = 0
        with self._alone() as lock:
            self._begin()
            while True:
                request = self._next()
                if request is not None:
                    measured += self.run(request, lock) is State.MEASURED
                elif not watch:
                    return measured
                else:
                    time.sleep(_POLL_S)

    def once(self) -> bool:
        """The first of the queue only; False where there is none."""
        with self._alone() as lock:
            self._begin()
            request = self._next()
            if request is not None:
                self.run(request, lock)
            return request is not None

    def _begin(self) -> None:
        self.recover()
        self.board.catch_up()
        self.board.reconsider()
        limits = self.board.settings.limits
        if not limits.open_at(datetime.now()):
            self.say(f"runs start {limits.hours} only: not now")

    def _next(self) -> Request | None:
        return self.board.store.take() if self.board.settings.limits.open_at(datetime.now()) else None

    def recover(self) -> None:
        store = self.board.store
        for left in store.requests(Filter(states=(State.RUNNING,), shown=tuple(Shown))):
            state = store.again(left.id, "the runner ended in the middle", self.board.settings.limits.attempts)
            self.say(f"request {left.id} was left running: {state}")

    def run(self, request: Request, lock: int) -> State:
        name = f"{request.model} {request.quant}"
        self.say(f"request {request.id}: {name}, attempt {request.attempts}")
        started = time.monotonic()
        try:
            state = self._run(request, lock)
        except KeyboardInterrupt:
            self.board.store.again(request.id, "the host interrupted it", request.attempts + 1)
            raise
        self.say(f"request {request.id}: {state} after {time.monotonic() - started:.0f} s")
        return state

    def _run(self, request: Request, lock: int) -> State:
        store = self.board.store
        try:
            asked = self.board.understand(request.ask)
            if asked.arguments is None:
                raise UsageError(asked.why_not)
            self._require_disk(asked)
        except MotleyError as error:  # the host's files or limits have changed since
            store.move(request.id, State.REFUSED, self._public(str(error)))
            return State.REFUSED
        self.runs.mkdir(exist_ok=True)
        out = self.runs / f"{request.id}.json"
        out.unlink(missing_ok=True)
        status = self._bench(request, asked, lock)
        limits = self.board.settings.limits
        if status is None:
            reason = f"it did not end within {limits.minutes:g} minutes, this host's limit"
            store.move(request.id, State.REFUSED, reason)
            return State.REFUSED
        if not out.is_file():
            return self._failed(request, status)
        try:
            result = load_result(out)
        except MotleyError as error:
            return store.again(request.id, self._public(str(error)), limits.attempts)
        if self.board.settings.cluster:
            self._require_nodes(request, result)
        command = self._public(result.command)
        data = to_json(msgspec.structs.replace(result, command=command))
        digest = sha256(b"%d " % request.id + data).hexdigest()  # each run is a result of its own
        store.measured(request.id, digest, data)
        out.unlink()
        return State.MEASURED

    def _require_disk(self, asked: Understood) -> None:
        """Random weights are written before they are read."""
        folder = cache_folder()
        there = next(f for f in (folder, *folder.parents) if f.is_dir())
        if asked.source == "synthetic" and shutil.disk_usage(there).free < 1.1 * asked.shape.n_bytes:
            raise CapacityError(f"this host's disk has no room for {gigabytes(asked.shape.n_bytes)} of random weights")

    def _failed(self, request: Request, status: int) -> State:
        """Wrong use and bad input stay so: refused at once. What else ended it may be gone next time."""
        lines = self._log(request).read_text("utf-8", "replace").strip().splitlines()
        said = next((text for text in reversed(lines) if text.startswith("motley bench: ")), "")
        why = self._public(said.removeprefix("motley bench: ")) or f"it ended with status {status} and no result"
        attempts = 1 if status == 2 and said else self.board.settings.limits.attempts
        return self.board.store.again(request.id, why[:600], attempts)

    def _bench(self, request: Request, asked: Understood, lock: int) -> int | None:
        """Its exit status; None where it took too long."""
        with self._log(request).open("wb") as log:
            words = [sys.executable, "-m", leash.__name__, *self._program(), *self.command(asked, request)]
            running = subprocess.Popen(
                words,
                cwd=self.board.folder,
                env=self._environment(asked),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            try:
                return running.wait(60 * self.board.settings.limits.minutes)
            except subprocess.TimeoutExpired:
                return None
            finally:
                assert running.stdin
                running.stdin.close()
                running.wait(leash.GRACE_S + 10)

    def _program(self) -> list[str]:
        return [sys.executable, "-m", "motley"]

    def command(self, asked: Understood, request: Request) -> list[str]:
        settings, q = self.board.settings, asked.question
        lab = str(Path(settings.lab).expanduser())  # as it is run in the board's folder
        place = self._joined() if settings.cluster else ["--lab", lab]
        tests = ["--pp", str(q.pp), "--tg", str(q.tg), "--depth", str(q.depth), "--batch", str(q.batch)]
        out = [
            "--repeat",
            str(settings.repeat),
            "--json",
            f"runs/{request.id}.json",
            "--html",
            f"runs/{request.id}.html",
        ]
        return ["bench", *(asked.arguments or ()), *place, *tests, *out]

    def _joined(self) -> list[str]:
        """The cluster, of which this machine gives what the lab says that it has: what was predicted is measured."""
        settings, own = self.board.settings, self.board.lab.devices[0]
        words = ["--cluster", settings.cluster, "--memory", str(own.memory_bytes), "--threads", str(own.threads)]
        return [*words, "--trusted-lan"] if settings.trusted_lan else words

    def _require_nodes(self, request: Request, result: Result) -> None:
        """Whoever joined or left since the lab was measured changes what is measured; the prediction was of the lab.
        That is the host's to mend, and no request's fault: it waits, and so does the queue. UsageError."""
        there, known = ({device.name for device in lab.devices} for lab in (result.lab, self.board.lab))
        if there != known:
            names = ", ".join(sorted(there ^ known))
            self.board.store.again(request.id, "the host's machines are not all there", request.attempts + 1)
            raise UsageError(
                f"the cluster is not the one that was measured ({names} came or went): bring it back, or measure "
                "the host's figures again"
            )

    def _environment(self, asked: Understood) -> dict[str, str]:
        """Its results are the board's, not the host's own; and the hub answers only to an allowed download."""
        found = {**os.environ, "NO_COLOR": "1"}
        if not self.board.settings.cluster:  # who this machine is in a cluster stands in its own data folder
            found["MOTLEY_DATA"] = str((self.runs / "data").resolve())
        return found if asked.source == "download" else {**found, "HF_HUB_OFFLINE": "1"}

    def _log(self, request: Request) -> Path:
        return self.runs / f"{request.id}.log"

    def _public(self, text: str) -> str:
        """Without the host's folders: files by their names."""
        return _PATH.sub(lambda match: match[1] or match[0], text)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """The lock's descriptor."""
        descriptor = os.open(self.board.folder / "runner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        until = time.monotonic() + 2 * leash.GRACE_S
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UsageError(
                        "another `motley board run` works on this board: let it, or end it first"
                    ) from None
                time.sleep(0.2)

"""The process that speaks MLX's `ring` or `jaccl` for a node's process (`mlx_process`), with one such helper elsewhere.

Not in the node itself: MLX makes one world a process, once; `send` and `recv` block without a timeout; and where a peer
is gone `jaccl` looks for its messages for ever (github.com/ml-explore/mlx/issues/3910). A helper may be ended.

One world of two carries all links between two processes, as channels: Apple's driver takes some 100 memory regions a
device (issue 3162), of which a world of two registers 64. The bytes of each channel lie in rings of shared memory, as
the `local` link's do.

What `jaccl` allows decides the rest (mlx/distributed/jaccl/lib/jaccl/mesh_impl.h):
- `send` and `recv` take each other's completions, so never both at once: the turn to send passes to and fro, a frame
  each time. Who has none and wants it says so over `side`, a socket between the two helpers.
- A receiver names the size, and keeps a core busy while it waits. A message's first FIRST_BYTES say what follows; and
  who has the turn and nothing to send for a while lets the other rest: it then waits for `side` instead.
- A receiver should wait before the sender sends. After a rest the sender asks first.

At the end a helper says so, so that the other need not be killed while it receives: that leaves memory of the system's
wired on Macs (issue 3910).

Run by `mlx_process` only: `python -m motley.cluster.mlx_helper CONTROL SIDE WORLD`, two descriptors and JSON.
"""

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from motley.cluster.link import HEADER, MAX_PAYLOAD, unpack_header
from motley.cluster.local_link import LOOK_S, MEMORY_BYTES, READER, WRITER, rings_of
from motley.cluster.spin import default_spin_us, yield_core
from motley.errors import LinkError

START_S = 20  # whole seconds: until the world must be there
END_S = 1.0  # from the wish to end to the end
REST_S = 10e-3  # with nothing to send
FIRST_BYTES = 32 << 10  # of every message; activations of a token fit
PIECE_BYTES = 1 << 20  # of a frame in one message
ASIDE_BYTES = 64 << 20  # taken in for a node that does not read: two that send to each other both go on

TOLD = struct.Struct("<BxxxII")  # what, channel, bytes
ROOM_BYTES = FIRST_BYTES - TOLD.size
DATA, MORE, PASS, REST, END = range(5)  # the turn passes with DATA and PASS; MORE: of the same frame
WANT, RECEIVE, READY, LEAVE = b"W", b"R", b"K", b"E"  # over `side`


class World:
    """This process and the other: messages through MLX."""

    def __init__(self, told: dict[str, Any], side: socket.socket) -> None:
        self._rank: int = told["rank"]
        self._side = side
        os.environ["MLX_RANK"] = str(self._rank)
        import mlx.core as mx

        self._mx = mx
        mx.set_default_device(mx.cpu)
        init = {"ring": self._ring, "jaccl": self._jaccl}[told["backend"]]
        # A lock that MLX keeps while it waits for the other: only the kernel can end this then.
        signal.setitimer(signal.ITIMER_REAL, START_S)
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                self._group = init(told, file)
            # Messages right behind the beginning were seen to be lost without this (issue 3149).
            mx.eval(mx.distributed.all_sum(mx.ones(10), group=self._group, stream=mx.cpu))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, told: dict[str, Any], file: Any) -> Any:
        """The first listens, then the second calls: a second too early costs it a second."""
        json.dump([[address] for address in told["addresses"]], file)
        file.flush()
        os.environ["MLX_HOSTFILE"] = file.name
        self._after_the_first()
        return self._mx.distributed.init(strict=True, backend="ring")

    def _jaccl(self, told: dict[str, Any], file: Any) -> Any:
        """What the two must know of each other's queue pairs crosses `side`, which is proven, and no port is opened."""
        if not self._mx.distributed.is_available("jaccl"):
            raise RuntimeError("this MLX has no jaccl: it takes macOS 26.2 and RDMA enabled (motley doctor)")
        a, b = told["devices"]
        json.dump([[None, a], [b, None]], file)
        file.flush()
        os.environ["MLX_IBV_DEVICES"] = file.name

        def of_both(rank: int, size: int) -> Callable[[bytes, int], bytes]:
            def gather(mine: bytes, n_bytes: int) -> bytes:
                self._side.sendall(mine)
                other = self._exactly(n_bytes)
                return other + mine if rank else mine + other

            return gather

        return self._mx.distributed.init(strict=True, backend="jaccl", all_gather_factory=of_both)

    def _after_the_first(self) -> None:
        if self._rank == 0:
            self._side.sendall(b"!")
        else:
            self._exactly(1)
            time.sleep(0.02)

    def _exactly(self, n_bytes: int) -> bytes:
        came = b""
        while len(came) < n_bytes:
            piece = self._side.recv(n_bytes - len(came))
            if not piece:
                raise RuntimeError("the other side's helper ended")
            came += piece
        return came

    def send(self, data: np.ndarray[Any, Any]) -> None:
        mx = self._mx
        mx.eval(mx.distributed.send(mx.array(data), 1 - self._rank, group=self._group, stream=mx.cpu))

    def receive(self, n_bytes: int) -> memoryview:
        mx = self._mx
        came = mx.distributed.recv((n_bytes,), mx.uint8, 1 - self._rank, group=self._group, stream=mx.cpu)
        mx.eval(came)
        return memoryview(came)


class Channel:
    """One link of this node's: its rings, and what is on its way in them."""

    def __init__(self, file: int, bell: int) -> None:
        memory = mmap.mmap(file, MEMORY_BYTES)
        os.close(file)
        self.bell = socket.socket(fileno=bell)
        self.bell.setblocking(False)
        self.out, self._into = rings_of(memory, accepted=True)[::-1]  # seen from the node
        self.left = 0  # bytes of the frame that is being sent
        self._begun = b""  # of its header
        self.aside: deque[memoryview] = deque()
        self._delivering = threading.Lock()

    def take(self, room: memoryview, seconds: float) -> int:
        """Bytes of one frame; 0 where there are none. What is no frame goes as it comes: the other side will say so."""
        n = 0 if self.left else self._begin(room, seconds)
        while self.left and n < len(room):
            more = self.out.pull(room[n : n + self.left], 0.0 if n else seconds)
            if not more:
                break
            n, self.left = n + more, self.left - more
        if n and self.out.sleeps(WRITER):
            self.ring()
        return n

    def _begin(self, room: memoryview, seconds: float) -> int:
        """A frame's header, which may come in pieces where the ring is full."""
        n = len(self._begun)
        room[:n] = self._begun
        n += self.out.pull(room[n : HEADER.size], seconds)
        self._begun = b"" if n == HEADER.size else bytes(room[:n])
        if self._begun or not n:
            return 0
        try:
            self.left = unpack_header(room, MAX_PAYLOAD)[2]
        except LinkError:
            n += self.out.pull(room[n:], 0.0)
        return n

    def deliver(self, data: memoryview | None = None) -> None:
        """As much as goes; the node rings when there is room again. By whichever thread."""
        with self._delivering:
            if data is not None and len(data):
                self.aside.append(data)
            while self.aside:
                n = self._into.push([self.aside[0]])
                if n == len(self.aside[0]):
                    self.aside.popleft()
                elif n:
                    self.aside[0] = self.aside[0][n:]
                elif self._into.may_sleep(WRITER):
                    break
            else:
                self._into.woke(WRITER)
            if self._into.sleeps(READER):
                self.ring()

    @property
    def is_full(self) -> bool:
        with self._delivering:
            return sum(piece.nbytes for piece in self.aside) > ASIDE_BYTES

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            self.bell.send(b"!")


class Helper:
    """Two threads: `run` has the world, `watch` the sockets."""

    def __init__(self, control: socket.socket, side: socket.socket, world: World, *, begins: bool) -> None:
        self._control, self._side, self._world = control, side, world
        self._news = threading.Condition()  # of what follows
        self._channels: dict[int, Channel] = {}
        self._closed: set[int] = set()
        self._early: dict[int, list[memoryview]] = {}  # of channels that this node opens in a moment
        self._mine = begins  # whether this side has the turn
        self._rests = False  # whether who has no turn waits for `side`
        self._asked = self._wanted = self._called = self._ready = self._ends = False
        self._over = threading.Event()
        self._first = np.zeros(FIRST_BYTES, np.uint8)
        self._piece = np.zeros(PIECE_BYTES, np.uint8)
        self._last = 0  # the channel that was looked at last
        self._spin_s = min(default_spin_us() * 1e-6, REST_S)

    # -- the thread that has the world

    def run(self) -> None:
        threading.Thread(target=self._watch, name="watch").start()
        try:
            while not self._ends:
                if self._mine:
                    self._say_something()
                else:
                    self._listen()
            if not self._rests:
                self._part()
        except (RuntimeError, ValueError, OSError):
            if not self._ends:  # which is how the other side's end looks from here
                raise
        finally:
            self._over.set()

    def _say_something(self) -> None:
        with self._news:
            for channel in self._channels.values():
                channel.out.woke(READER)
        idle = time.perf_counter()
        while not self._ends:
            sent = self._send_a_frame()
            if sent or self._wanted:
                if not sent:
                    self._say(PASS)
                self._pass_the_turn()
                return
            waited = time.perf_counter() - idle
            if waited < self._spin_s:
                yield_core()
            elif self._rests or waited < REST_S:
                self._sleep(None if self._rests else REST_S - waited)
            else:
                self._say(REST)
                self._rests = True

    def _send_a_frame(self) -> bool:
        """The next one of any channel, in turn."""
        numbers = list(self._channels)
        start = numbers.index(self._last) + 1 if self._last in numbers else 0
        for number in numbers[start:] + numbers[:start]:
            channel = self._channels.get(number)
            if channel is None:
                continue
            n = channel.take(self._piece.data, LOOK_S)
            if not n:
                continue
            self._last = number
            while channel.left:
                if n:
                    self._say(MORE, number, n)
                if self._ends:
                    return False
                if number not in self._channels:  # its node gave it up in the middle of a frame
                    self._say(PASS)
                    return True
                n = channel.take(self._piece.data, LOOK_S)
            self._say(DATA, number, n)
            return True
        return False

    def _say(self, what: int, channel: int = 0, n: int = 0) -> None:
        if self._rests:
            self._ready = False
            self._side.sendall(RECEIVE)
            with self._news:
                if not self._news.wait_for(lambda: self._ready or self._ends) or not self._ready:
                    return
            self._rests = False
        if what in (DATA, PASS):
            self._wanted = False  # not later: the other side may answer, and ask again, before this thread goes on
        TOLD.pack_into(self._first.data, 0, what, channel, n)
        self._first[TOLD.size : TOLD.size + min(n, ROOM_BYTES)] = self._piece[: min(n, ROOM_BYTES)]
        self._world.send(self._first)
        if n > ROOM_BYTES:
            self._world.send(self._piece[ROOM_BYTES:n])

    def _pass_the_turn(self) -> None:
        with self._news:
            self._mine = self._asked = False
            waiting = [not channel.out.may_sleep(READER) for channel in self._channels.values()]
            if any(waiting):
                self._want()

    def _sleep(self, seconds: float | None) -> None:
        with self._news:
            if self._wanted or self._ends:
                return
            if all(channel.out.may_sleep(READER) for channel in self._channels.values()):
                self._news.wait(seconds)
            for channel in self._channels.values():
                channel.out.woke(READER)

    def _listen(self) -> None:
        if self._rests:
            with self._news:
                self._news.wait_for(lambda: self._called or self._ends)
                if self._ends:
                    return
                self._called = self._rests = False
            self._side.sendall(READY)
        what, channel, data = self._received()
        if what in (DATA, MORE):
            self._deliver(channel, data)
        if what in (DATA, PASS):
            self._mine = True
        elif what in (REST, END):
            self._rests, self._ends = True, self._ends or what == END

    def _received(self) -> tuple[int, int, list[memoryview]]:
        first = self._world.receive(FIRST_BYTES)
        what, channel, n = TOLD.unpack_from(first)
        if what > END or n > PIECE_BYTES:
            raise ValueError(f"malformed message: {what}, {n} bytes")
        data = [first[TOLD.size : TOLD.size + min(n, ROOM_BYTES)]]
        if n > ROOM_BYTES:
            data.append(self._world.receive(n - ROOM_BYTES))
        return what, channel, data

    def _deliver(self, number: int, data: list[memoryview]) -> None:
        with self._news:
            channel = self._channels.get(number)
            if channel is None:
                if number not in self._closed:
                    self._early.setdefault(number, []).extend(data)
                if sum(piece.nbytes for early in self._early.values() for piece in early) > ASIDE_BYTES:
                    raise ValueError("malformed message: of a link that there is not")
                return
        for piece in data:
            channel.deliver(piece)
        while channel.is_full and number in self._channels and not self._ends:
            time.sleep(1e-3)

    def _part(self) -> None:
        """Neither side is left in MLX; the other knows, or will in a moment, that this one ends."""
        while not self._mine:
            what, _, _ = self._received()
            if what in (REST, END):
                return
            self._mine = what in (DATA, PASS)
        self._say(END)

    # -- the thread that has the sockets

    def _watch(self) -> None:
        try:
            self._look_at_sockets()
        except Exception as error:  # or nobody would hear any more that the node ended
            _die(f"{type(error).__name__}: {error}")

    def _look_at_sockets(self) -> None:
        ends = select.poll()
        ends.register(self._control, select.POLLIN)
        ends.register(self._side, select.POLLIN)
        while not self._over.is_set():
            for number, _ in ends.poll(100):
                if number == self._control.fileno():
                    self._hear_node(ends)
                elif number == self._side.fileno():
                    self._hear_other()
                else:
                    self._hear_bell(number, ends)
            if self._ends:
                if not self._over.wait(END_S):
                    os._exit(0)
                return

    def _hear_node(self, ends: select.poll) -> None:
        data, files, _, _ = socket.recv_fds(self._control, 4, 2)
        if not data:  # it ended, however that happened
            with contextlib.suppress(OSError):
                self._side.sendall(LEAVE)
            self._end()
            return
        (number,) = struct.unpack("<I", data)
        channel = Channel(*files)
        with self._news:
            for piece in self._early.pop(number, []):
                channel.deliver(piece)
            self._channels = {**self._channels, number: channel}
            if not self._mine and not channel.out.may_sleep(READER):
                self._want()
            self._news.notify_all()
        ends.register(channel.bell, select.POLLIN)

    def _hear_other(self) -> None:
        try:
            said = self._side.recv(64)
        except OSError:  # it did not read all that was said
            said = b""
        if not said and not self._ends:
            _die("the other side's helper is gone")
        with self._news:
            self._wanted = self._wanted or WANT in said
            self._called = self._called or RECEIVE in said
            self._ready = self._ready or READY in said
            self._news.notify_all()
        if LEAVE in said:
            self._end()

    def _hear_bell(self, file: int, ends: select.poll) -> None:
        number, channel = next((n, c) for n, c in self._channels.items() if c.bell.fileno() == file)
        try:
            rung = bool(channel.bell.recv(64))
        except OSError:
            rung = False
        if not rung:
            ends.unregister(channel.bell)
            with self._news:
                self._closed.add(number)
                self._channels = {n: c for n, c in self._channels.items() if n != number}
            channel.bell.close()
            return
        channel.deliver()
        with self._news:
            if not self._mine and not channel.out.may_sleep(READER):
                self._want()
            self._news.notify_all()

    def _want(self) -> None:
        if not self._asked:
            self._asked = True
            with contextlib.suppress(OSError):
                self._side.sendall(WANT)

    def _end(self) -> None:
        with self._news:
            self._ends = True
            self._news.notify_all()


def _die(sentence: str) -> NoReturn:
    """At once: the other thread may be in MLX for ever."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    control, side = (socket.socket(fileno=int(file)) for file in sys.argv[1:3])
    told = json.loads(sys.argv[3])
    try:
        Helper(control, side, World(told, side), begins=told["rank"] == 1).run()
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        _die(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)


if __name__ == "__main__":
    main()

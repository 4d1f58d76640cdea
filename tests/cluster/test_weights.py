"""A node without the model file fetches its part of it: whole, once, checked, over real sockets."""

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from motley.bundled import model_path
from motley.cluster import weights
from motley.cluster.hello import admit, call, new_token
from motley.cluster.link import Link
from motley.cluster.messages import Kind
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen
from motley.cluster.weights import Kept, Served, fetch, merged
from motley.engine.assign import assignments
from motley.engine.node import NodeRuntime
from motley.errors import CapacityError, ClusterError, FormatError, LinkError
from motley.formats.checkpoint import open_checkpoint
from motley.lab.placement import LayerPlacement, Placement
from motley.ops.reference import ReferenceOps
from motley.progress import silent

HASH = "ab" * 16
SIZE = 3 * weights.PIECE_BYTES + 12345
DATA = np.random.default_rng(7).bytes(SIZE)


class Shelf:
    """Serves DATA; counts; ends the connection after `most` pieces."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.pieces: list[tuple[int, int]] = []
        self.most = most

    def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
        if file_hash != HASH:
            raise ClusterError("no such file")
        if len(self.pieces) >= self.most:
            raise LinkError("the shelf fell")
        self.pieces.append((start, end))
        return Served(memoryview(DATA), 0).piece(start, end)


class Source:
    def __init__(self, handler: object) -> None:
        self.token = new_token()
        listener = listen()
        self.address = (listener.host, listener.port)
        self.server = Server(listener, handler, cluster="test", name="head", token=self.token)  # type: ignore[arg-type]

    def connect(self, *_: object) -> Link:
        return call(*self.address, cluster="test", name="n", token=self.token)


@contextmanager
def source_of(handler: object) -> Iterator[Source]:
    source = Source(handler)
    try:
        yield source
    finally:
        source.server.close()


def content(kept: Kept, start: int, end: int) -> bytes:
    return kept.path.read_bytes()[start:end]


def test_ranges_become_few() -> None:
    assert merged([(5, 9), (0, 3), (3, 4), (8, 12), (20, 20)]) == [(0, 4), (5, 12)]


def test_what_is_missing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "x.gguf", 100, [(10, 20), (40, 50)])
    assert kept.missing([(0, 100)]) == [(0, 10), (20, 40), (50, 100)]
    assert kept.missing([(12, 18), (45, 60), (45, 55)]) == [(50, 60)]
    assert kept.missing([(10, 20)]) == []


def test_only_what_is_wanted_and_only_once(tmp_path: Path) -> None:
    shelf, wanted = Shelf(), [(1000, 5000), (weights.PIECE_BYTES, 2 * weights.PIECE_BYTES + 77), (SIZE - 9, SIZE)]
    with source_of(shelf) as source:
        kept = Kept.open(tmp_path, HASH, SIZE)
        n = fetch(kept, HASH, wanted, source.connect, silent)
        assert n == sum(end - start for start, end in wanted) == sum(end - start for start, end in shelf.pieces)
        again = Kept.open(tmp_path, HASH, SIZE)
        assert fetch(again, HASH, [*wanted, (2000, 3000)], source.connect, silent) == 0
    assert all(content(kept, *r) == DATA[r[0] : r[1]] for r in wanted)
    assert kept.path.stat().st_size == SIZE
    assert kept.path.stat().st_blocks * 512 < SIZE / 2  # holes stay holes


def test_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with source_of(Shelf(most=2)) as source, pytest.raises(ClusterError):
        fetch(Kept.open(tmp_path, HASH, SIZE), HASH, [(0, SIZE)], source.connect, silent)
    kept, shelf = Kept.open(tmp_path, HASH, SIZE), Shelf()
    had = sum(end - start for start, end in kept.there)
    with source_of(shelf) as source:
        assert fetch(kept, HASH, [(0, SIZE)], source.connect, silent) == SIZE - had
    assert had > 0
    assert kept.path.read_bytes() == DATA


def test_damaged_index_counts_as_nothing(tmp_path: Path) -> None:
    with source_of(Shelf()) as source:
        fetch(Kept.open(tmp_path, HASH, SIZE), HASH, [(0, 5000)], source.connect, silent)
    (tmp_path / f"{HASH}.json").write_text('{"size": 12, "there": [[0')
    assert Kept.open(tmp_path, HASH, SIZE).there == []


def test_a_damaged_piece_is_not_kept(tmp_path: Path) -> None:
    """A source that sends other bytes than it summed."""
    listener, token = listen(), new_token()

    def serve_badly() -> None:
        with suppress(ClusterError):
            while True:
                link = listener.accept()
                admit(link, "test", "bad", token)
                frame = link.receive(5)
                _, start, end = weights.read_fetch(frame.payload)
                crc, _ = weights.fetch_reply(memoryview(DATA)[start:end])
                link.send(Kind.FETCHED, frame.request, [crc, bytes(end - start)])

    threading.Thread(target=serve_badly, daemon=True).start()
    kept = Kept.open(tmp_path, HASH, SIZE)
    with pytest.raises(LinkError, match="damaged"):
        fetch(
            kept,
            HASH,
            [(0, 4096)],
            lambda: call(listener.host, listener.port, cluster="test", name="n", token=token),
            silent,
        )
    listener.close()
    assert kept.there == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_disk_too_small_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    shelf = Shelf()
    try:
        with source_of(shelf) as source, pytest.raises(CapacityError, match=r"0.01 GB of weights.*MOTLEY_CACHE"):
            fetch(Kept.open(tmp_path, HASH, SIZE), HASH, [(0, SIZE)], source.connect, silent)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert shelf.pieces == []


def test_a_disk_that_fills_in_the_middle_keeps_nothing_false(tmp_path: Path) -> None:
    """The last write before a limit is a short one: it does not count as whole."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = Kept.open(tmp_path, HASH, SIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.PIECE_BYTES + 1000, limit[1]))
    try:
        with source_of(Shelf()) as source, pytest.raises(CapacityError, match="what came is kept"):
            fetch(kept, HASH, [(0, 2 * weights.PIECE_BYTES)], source.connect, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert kept.there in ([], [(0, weights.PIECE_BYTES)])
    for start, end in kept.there:
        assert content(kept, start, end) == DATA[start:end]


def test_a_hash_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no file's hash"):
        Kept.open(tmp_path, "../outside", 10)


def test_a_request_for_too_much_is_malformed() -> None:
    with pytest.raises(LinkError, match="at most"):
        weights.read_fetch(memoryview(b"".join(bytes(p) for p in weights.fetch_call(HASH, 0, weights.PIECE_BYTES + 1))))
    with pytest.raises(LinkError, match="malformed"):
        weights.read_fetch(memoryview(b"short"))


def test_nothing_but_served_files_is_sent() -> None:
    runtime = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("no link is needed"))
    with pytest.raises(ClusterError, match="serves no file"):
        runtime.fetch("/etc/passwd", 0, 10)
    runtime.close()


def test_another_file_than_was_named_is_not_kept(tmp_path: Path) -> None:
    """The head serves other bytes under the hash: what its hash covers tells."""
    path = model_path()
    head = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("the head asks nobody"))
    file_hash = head.serve_file(str(path))
    served = head._served[file_hash]
    changed = bytearray(served.data)
    changed[-1] ^= 1
    head._served = {file_hash: Served(memoryview(changed), served.header_bytes)}
    layers = (LayerPlacement("a", ("b",) * 32),) * 4
    addresses = {"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 2)}
    with source_of(head) as source:
        sizes = {"context": 64, "slots": 1, "addresses": addresses, "source": source.address}
        told = assignments(Placement(layers), model="/nowhere", file_hash=file_hash, **sizes)["b"]  # type: ignore[arg-type]
        there = NodeRuntime("b", ReferenceOps(), source.connect, store=tmp_path)
        with pytest.raises(FormatError, match="not the file it named"):
            there.load(told, silent)
        there.close()
    assert not list(tmp_path.glob("*.json"))
    head.close()


def test_a_node_without_the_file_answers_as_one_with_it(tmp_path: Path) -> None:
    path = str(model_path())
    head = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("the head asks nobody"))
    layers = (LayerPlacement("a", ("b",) * 20 + ("a",) * 12),) * 2 + (LayerPlacement("b", ("b",) * 32),) * 2
    addresses = {"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 2)}
    with source_of(head) as source:
        told = assignments(
            Placement(layers),
            model=path,
            file_hash=head.serve_file(path),
            context=64,
            slots=1,
            addresses=addresses,
            source=source.address,
        )["b"]
        away = msgspec.structs.replace(told, model="/nowhere/model.gguf")
        here = NodeRuntime("b", ReferenceOps(), source.connect)
        there = NodeRuntime("b", ReferenceOps(), source.connect, store=tmp_path)
        with pytest.raises(FormatError, match="copy it to this machine"):
            here.load(away, silent)
        said: list[str] = []
        there.load(away, lambda what, fraction: said.append(what))
        here.load(told, silent)
        d = open_checkpoint(path).tensors["token_embd.weight"].dims[1]
        x = np.random.default_rng(1).standard_normal((3, d)).astype(np.float32)
        ids = np.array([[0, 5, 19, 7]] * 3, np.int32)
        ones = np.ones((3, 4), np.float32)
        assert (there.experts(0, x, ids, ones) == here.experts(0, x, ids, ones)).all()
        kept = next(tmp_path.glob("*.gguf"))
        assert kept.stat().st_blocks * 512 < 0.9 * kept.stat().st_size
        assert any(words.startswith("fetching: ") for words in said)
        said.clear()
        there.load(away, lambda what, fraction: said.append(what))
        assert not any(words.startswith("fetching: ") for words in said)
        for runtime in (here, there, head):
            runtime.close()

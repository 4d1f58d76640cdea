"""A node without the model file fetches its part of it: whole, once, checked, over real sockets."""

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cluster.sources import source_of
from motley.bundled import model_path
from motley.cluster import fetching, weights
from motley.cluster.fetching import fetch
from motley.cluster.hello import admit, call, new_token
from motley.cluster.kept import Kept
from motley.cluster.link import Link
from motley.cluster.messages import Kind
from motley.cluster.ranges import Ranges, merged, total
from motley.cluster.tcp_link import listen
from motley.cluster.weights import FileFacts, Layout, Served
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
LAYOUT = Layout([FileFacts("model.gguf", SIZE, 0)])


SERVED = Served(LAYOUT, [memoryview(DATA)])


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
        return SERVED.piece(start, end)


def content(kept: Kept, start: int, end: int) -> bytes:
    return kept.path.read_bytes()[start:end]


def test_ranges_become_few() -> None:
    assert merged([(5, 9), (0, 3), (3, 4), (8, 12), (20, 20)]) == [(0, 4), (5, 12)]


def test_what_is_missing() -> None:
    there = Ranges([(10, 20), (40, 50)])
    assert there.missing([(0, 100)]) == [(0, 10), (20, 40), (50, 100)]
    assert there.missing([(12, 18), (45, 60), (45, 55)]) == [(50, 60)]
    assert there.missing([(10, 20)]) == []


def test_ranges_are_a_set_of_bytes() -> None:
    """Against the slow obvious one, a set of numbers."""
    rng = np.random.default_rng(3)
    there, plain = Ranges(), set[int]()
    for _ in range(300):
        start, n, at, m = (int(x) for x in rng.integers([0, 0, 0, 1], [200, 9, 200, 30]))
        if n:
            there.add(start, start + n)
        plain |= {*range(start, start + n)}
        asked = {*range(at, at + m)}
        assert there.covers(at, at + m) == (asked <= plain)
        assert {byte for r in there.missing([(at, at + m)]) for byte in range(*r)} == asked - plain
        assert {byte for r in there.all() for byte in range(*r)} == plain
        assert there.all() == merged(there.all())


def test_only_what_is_wanted_and_only_once(tmp_path: Path) -> None:
    shelf, wanted = Shelf(), [(1000, 5000), (weights.PIECE_BYTES, 2 * weights.PIECE_BYTES + 77), (SIZE - 9, SIZE)]
    with source_of(shelf) as source:
        kept = Kept.open(tmp_path, HASH, LAYOUT)
        n = fetch(kept, wanted, source.connect).n_bytes
        assert n == total(wanted) == total(shelf.pieces)
        again = Kept.open(tmp_path, HASH, LAYOUT)
        assert fetch(again, [*wanted, (2000, 3000)], source.connect).n_bytes == 0
    assert all(content(kept, *r) == DATA[r[0] : r[1]] for r in wanted)
    assert kept.path.stat().st_size == SIZE
    assert kept.path.stat().st_blocks * 512 < SIZE / 2  # holes stay holes


def test_goes_on_where_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)
    with source_of(Shelf(most=2)) as source, pytest.raises(ClusterError):
        fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, SIZE)], source.connect)
    kept, shelf = Kept.open(tmp_path, HASH, LAYOUT), Shelf()
    had = total(kept.there.all())
    with source_of(shelf) as source:
        assert fetch(kept, [(0, SIZE)], source.connect).n_bytes == SIZE - had == total(shelf.pieces)
    assert had == 2 * weights.PIECE_BYTES
    assert kept.path.read_bytes() == DATA


def test_damaged_index_counts_as_nothing(tmp_path: Path) -> None:
    with source_of(Shelf()) as source:
        fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, 5000)], source.connect)
    (tmp_path / f"{HASH}.json").write_text('{"files": [], "there": [[0')
    assert Kept.open(tmp_path, HASH, LAYOUT).there.all() == []


def test_two_processes_keep_one_model(tmp_path: Path) -> None:
    """Each opened it before the other had anything; both parts are there for a third."""
    one, other = Kept.open(tmp_path, HASH, LAYOUT), Kept.open(tmp_path, HASH, LAYOUT)
    with source_of(Shelf()) as source:
        fetch(one, [(0, 5000)], source.connect)
        fetch(other, [(9000, 9500)], source.connect)
    assert Kept.open(tmp_path, HASH, LAYOUT).there.all() == [(0, 5000), (9000, 9500)]


def test_a_file_of_another_size_is_made_anew(tmp_path: Path) -> None:
    """Not cut: the process that maps the old one would end by a signal."""
    with source_of(Shelf()) as source:
        kept = Kept.open(tmp_path, HASH, LAYOUT)
        fetch(kept, [(0, 5000)], source.connect)
    old = kept.mapped()[0]
    small = Kept.open(tmp_path, HASH, Layout([FileFacts("model.gguf", 100, 0)]))
    assert small.there.all() == []
    assert bytes(old[:5000]) == DATA[:5000]
    assert kept.path.stat().st_size == 100


@pytest.mark.parametrize("good_after", [1, 3, 1000])
def test_a_damaged_piece_is_fetched_again(tmp_path: Path, good_after: int) -> None:
    """A source that sends other bytes than it summed, on its first connections or always."""
    listener, token = listen(), new_token()

    def serve_badly() -> None:
        with suppress(ClusterError):
            for turn in count():
                link = listener.accept()
                admit(link, "test", "bad", token)
                frame = link.receive(5)
                _, start, end = weights.read_fetch(frame.payload)
                crc, body = weights.fetch_reply(memoryview(DATA)[start:end])
                link.send(Kind.FETCHED, frame.request, [crc, body if turn >= good_after else bytes(end - start)])

    def connect() -> Link:
        return call(listener.host, listener.port, cluster="test", name="n", token=token)

    threading.Thread(target=serve_badly, daemon=True).start()
    kept = Kept.open(tmp_path, HASH, LAYOUT)
    if good_after > 100:
        with pytest.raises(LinkError, match="damaged"):
            fetch(kept, [(0, 4096)], connect)
        assert kept.there.all() == []
    else:
        fetched = fetch(kept, [(0, 4096)], connect)
        assert len(fetched.said) == good_after
        assert all("damaged" in sentence for sentence in fetched.said)
        assert content(kept, 0, 4096) == DATA[:4096]
    listener.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_too_small_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    shelf = Shelf()
    with small_disk(tmp_path, "1m"), source_of(shelf) as source:
        (tmp_path / "another").mkdir()
        (tmp_path / "another" / "model.gguf").write_bytes(bytes(100_000))
        words = r"^0.01 GB of weights.*0.00 GB are free: make room \(delete .* of other models, 0.00 GB\).*MOTLEY_CACHE"
        with pytest.raises(CapacityError, match=words):
            fetch(Kept.open(tmp_path, HASH, LAYOUT), [(0, SIZE)], source.connect)
    assert shelf.pieces == []


def test_a_disk_that_fills_loses_nothing_that_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else fills it while the third piece is asked for: the first one is written by then. When there is room
    again, the rest comes."""
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)

    class Filling(Shelf):
        def fetch(self, file_hash: str, start: int, end: int) -> memoryview:
            if len(self.pieces) == 2:
                with suppress(OSError), (tmp_path / "filler").open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
            return super().fetch(file_hash, start, end)

    with small_disk(tmp_path, "16m"):
        kept = Kept.open(tmp_path, HASH, LAYOUT)
        with source_of(Filling()) as source, pytest.raises(CapacityError) as told:
            fetch(kept, [(0, SIZE)], source.connect)
        assert "No space left on device; make room" in str(told.value)
        assert "MOTLEY_CACHE" in str(told.value)
        assert {path.name for path in tmp_path.iterdir()} == {HASH, f"{HASH}.json", "filler"}
        (tmp_path / "filler").unlink()
        again, shelf = Kept.open(tmp_path, HASH, LAYOUT), Shelf()
        had = total(again.there.all())
        assert had >= weights.PIECE_BYTES
        with source_of(shelf) as source:
            assert fetch(again, [(0, SIZE)], source.connect).n_bytes == SIZE - had == total(shelf.pieces)
        assert kept.path.read_bytes() == DATA


def test_a_disk_that_fills_in_the_middle_keeps_nothing_false(tmp_path: Path) -> None:
    """The last write before a limit is a short one: it does not count as whole."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = Kept.open(tmp_path, HASH, LAYOUT)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.PIECE_BYTES + 1000, limit[1]))
    try:
        with source_of(Shelf()) as source, pytest.raises(CapacityError, match="what came is kept"):
            fetch(kept, [(0, 2 * weights.PIECE_BYTES)], source.connect)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert kept.there.all() in ([], [(0, weights.PIECE_BYTES)])
    assert Kept.open(tmp_path, HASH, LAYOUT).there.all() == kept.there.all()
    for start, end in kept.there.all():
        assert content(kept, start, end) == DATA[start:end]


def test_a_hash_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no file's hash"):
        Kept.open(tmp_path, "../outside", LAYOUT)


@pytest.mark.parametrize(
    "name",
    [
        "../x.gguf",
        "a/b.gguf",
        ".x.gguf",
        "x.py",
        "",
        "\\x.gguf",
        "c:x.gguf",
        "x\0.gguf",
        "x.gguf/",
        "y" * 300 + ".gguf",
    ],
)
def test_a_name_from_elsewhere_is_no_path(name: str) -> None:
    with pytest.raises(LinkError, match="malformed list"):
        Layout.read([{"name": name, "size": 10, "header_bytes": 1}])


@pytest.mark.parametrize(
    "told",
    [
        [],
        None,
        [{"name": "x.gguf", "size": 10}],
        [{"name": "x.gguf", "size": 10, "header_bytes": 11}],
        [{"name": "x.gguf", "size": 0, "header_bytes": 0}],
        [{"name": "x.gguf", "size": 1 << 60, "header_bytes": 0}],
        [{"name": name, "size": 10, "header_bytes": 1} for name in ("x.gguf", "X.gguf")],
        [{"name": f"{i}.gguf", "size": 10, "header_bytes": 1} for i in range(5000)],
    ],
)
def test_files_that_cannot_be(told: object) -> None:
    with pytest.raises(LinkError, match="malformed list"):
        Layout.read(told)


def test_pieces_end_where_files_do() -> None:
    layout = Layout([FileFacts(f"{i}.gguf", size, 0) for i, size in enumerate((10, weights.PIECE_BYTES, 7))])
    assert layout.pieces([(3, layout.size)]) == [
        (3, 10),
        (10, weights.PIECE_BYTES),
        (weights.PIECE_BYTES, weights.PIECE_BYTES + 10),
        (weights.PIECE_BYTES + 10, layout.size),
    ]
    assert [layout.find(*piece)[0] for piece in layout.pieces([(3, layout.size)])] == [0, 1, 1, 2]
    for wrong in ((3, 11), (0, 0), (-1, 4), (layout.size - 1, layout.size + 1)):
        with pytest.raises(ClusterError, match="across two files or beyond"):
            layout.find(*wrong)


def test_a_request_for_too_much_is_malformed() -> None:
    with pytest.raises(LinkError, match="at most"):
        weights.read_fetch(memoryview(b"".join(bytes(p) for p in weights.fetch_call(HASH, 0, weights.PIECE_BYTES + 1))))
    with pytest.raises(LinkError, match="malformed"):
        weights.read_fetch(memoryview(b"short"))


def test_nothing_but_served_files_is_sent() -> None:
    runtime = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("no link is needed"))
    with pytest.raises(ClusterError, match="serves no file"):
        runtime.fetch("/etc/passwd", 0, 10)
    with pytest.raises(ClusterError, match="serves no file"):
        runtime.ask("digest", {"hash": "/etc/passwd", "start": 0, "end": 10})
    assert runtime.ask("file", {"hash": "/etc/passwd"}) == {}
    runtime.close()


def test_another_file_than_was_named_is_not_kept(tmp_path: Path) -> None:
    """The head serves other bytes under the hash: what its hash covers tells."""
    path = model_path()
    head = NodeRuntime("a", ReferenceOps(), lambda host, port: pytest.fail("the head asks nobody"))
    file_hash = head.serve_file(str(path))
    served = head._served[file_hash]
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    head._served = {file_hash: Served(served.layout, [memoryview(changed)])}
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
        kept = next(tmp_path.glob("*/model.gguf"))
        assert kept.stat().st_blocks * 512 < 0.9 * kept.stat().st_size
        assert any(words.startswith("fetching: ") for words in said)
        said.clear()
        there.load(away, lambda what, fraction: said.append(what))
        assert not any(words.startswith("fetching: ") for words in said)
        for runtime in (here, there, head):
            runtime.close()

"""A head or a peer for tests of fetching: a handler behind a socket."""

from collections.abc import Iterator
from contextlib import contextmanager

from motley.cluster.hello import call, new_token
from motley.cluster.link import Link
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen


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

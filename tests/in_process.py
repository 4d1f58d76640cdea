"""Three devices in this process: a in the head, b and c behind loopback sockets with threads of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from motley.cluster.hello import call, new_token
from motley.cluster.link import Link
from motley.cluster.server import Server
from motley.cluster.tcp_link import listen
from motley.engine.node import NodeRuntime
from motley.engine.placed import Site
from motley.ops.protocol import Ops


@contextmanager
def three_devices(make_ops: Callable[[str], Ops]) -> Iterator[Site]:
    """`make_ops`: the operations of the device with that name."""
    token = new_token()

    def reach(host: str, port: int) -> Link:
        return call(host, port, cluster="test", name="someone", token=token)

    with ExitStack() as stack:
        runtimes, addresses = {}, {}
        for name in "abc":
            runtimes[name] = NodeRuntime(name, make_ops(name), reach)
            listener = listen()
            server = Server(listener, runtimes[name], cluster="test", name=name, token=token)
            stack.callback(server.close)
            stack.callback(runtimes[name].close)
            addresses[name] = (listener.host, listener.port)
        yield Site(runtimes["a"], addresses, reach)

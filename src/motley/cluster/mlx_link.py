"""The `ring` and `jaccl` links: frames through MLX's distributed backends. Not encrypted.

`jaccl` is RDMA over Thunderbolt 5 between Macs, and UNTESTED: no Mac has run it. `ring` is TCP; it is there because it
takes the same way as jaccl and runs on Linux, too.

A helper process speaks MLX (`mlx_helper`), and shares memory with this one as the two sides of a `local` link do. Its
end is this link's end; so is the end of the authenticated link beside, over which it was agreed on (`agreed`).
"""

import logging
import mmap
import socket
from collections.abc import Callable

from motley.cluster.local_link import LocalLink
from motley.cluster.tcp_link import TcpLink

log = logging.getLogger("motley.link")


class MlxLink(LocalLink):
    """`died`: why the helper ended, once it has; "" where the other side's wish was the reason."""

    def __init__(
        self, transport: str, memory: mmap.mmap, bell: socket.socket, beside: TcpLink, died: Callable[[], str]
    ) -> None:
        super().__init__(memory, bell, beside, accepted=False)
        self.transport = transport
        self.spoilt = f"the {transport} link to {{}} failed"
        self._died = died

    def _end(self) -> None:
        if self._ended:
            return
        super()._end()
        if not self._is_there() and (reason := self._died()):
            self._tell(reason)
            self._give_up(reason)
            self._broken = self._broken or f"{self.spoilt.format(self.peer)}: {reason}"

"""What the links have in common that an authenticated one agreed on and stays beside: its end is their end, and what
went wrong with them is told over it."""

import contextlib
import logging
from collections.abc import Callable
from typing import NoReturn

from motley.cluster import messages
from motley.cluster.messages import Kind
from motley.cluster.stream_link import StreamLink
from motley.cluster.tcp_link import TcpLink
from motley.errors import ClusterError, LinkError

log = logging.getLogger("motley.link")


class BesideLink(StreamLink):
    """`beside` is this link's from now on. `on_spoilt` is called, once, when this one is given up though the other side
    is still there. `spoilt`: the words for that, about the peer."""

    spoilt: str

    def __init__(self, beside: TcpLink) -> None:
        super().__init__(beside.peer, spin_us=beside.spin_us)
        self._beside = beside
        self.on_spoilt: Callable[[], None] = lambda: None
        self._ended = self._given_up = False

    def _end(self) -> None:
        """The other side is gone, or done with this link: all that still comes over the one beside is its reason."""
        self._ended = True
        try:
            frame = self._beside.receive(0)
            if frame.kind == Kind.FAILURE:
                messages.raise_failure(frame.payload)
        except LinkError:
            pass  # it left without a word, as they do
        except ClusterError as error:
            self._give_up(str(error))

    def _malformed(self, sentence: str) -> NoReturn:
        self._tell(sentence)
        self._give_up(sentence)
        self._break(f"{self.spoilt.format(self.peer)}: {sentence}")

    def _tell(self, sentence: str) -> None:
        """The other side, over the link beside."""
        with contextlib.suppress(LinkError):
            self._beside.send(Kind.FAILURE, 0, messages.failure(ClusterError(sentence), "the other side"))

    def _give_up(self, sentence: str) -> None:
        if self._given_up:
            return
        self._given_up = True
        over = self._beside.transport
        log.warning("%s (%s): new calls go over %s", self.spoilt.format(self.peer), sentence, over)
        self.on_spoilt()

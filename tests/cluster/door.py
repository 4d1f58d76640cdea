"""A cluster's head and its door for joiners, for the tests that import these fixtures."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from motley.cluster.identity import Identity, init, new_token_text
from motley.cluster.joining import JoinServer
from motley.cluster.tokens import Token
from motley.progress import Progress

HOST = "127.0.0.1"
HOUR = 3600.0


class Echo:
    """A handler that answers questions only."""

    def ask(self, what: str, arguments: dict[str, object], progress: Progress) -> dict[str, object]:
        return {"what": what}


@pytest.fixture
def head(tmp_path: Path) -> Identity:
    return init(tmp_path / "head", "home", "head", HOST)


@pytest.fixture
def door(head: Identity) -> Iterator[JoinServer]:
    server = JoinServer(head, HOST, 0)
    yield server
    server.close()


def token_for(head: Identity, door: JoinServer, valid_s: float = HOUR) -> Token:
    return msgspec.structs.replace(Token.from_text(new_token_text(head, valid_s)), port=door.port)

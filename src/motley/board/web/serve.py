"""`motley board serve`: the pages on uvicorn, alone, with the runner beside them if that is asked for."""

import ipaddress
import socket
import subprocess
import sys
from contextlib import closing

import uvicorn

from motley.board import leash
from motley.board.board import Board
from motley.board.web.app import application
from motley.errors import UsageError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MOST_CONNECTIONS = 256


def serve(board: Board, host: str, port: int, *, also_run: bool) -> None:
    """Until Ctrl-C. Prints the address when it is ready to answer."""
    alone = _is_loopback(host)
    hosts = LOOPBACK if alone and not board.settings.public.behind_proxy else frozenset[str]()
    board.catch_up()
    with closing(_listening(host, port)) as listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"{board.settings.title}: http://{shown}:{listener.getsockname()[1]}/", flush=True)
        if not alone and not board.settings.public.moderated:
            print("Not moderated: whatever is filed is shown at once.", flush=True)
        config = uvicorn.Config(
            application(board, hosts),
            log_level="warning",
            access_log=False,  # addresses are nobody's business
            server_header=False,
            proxy_headers=False,  # the board reads its one proxy's header itself
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        runner = _runner(board) if also_run else None
        try:
            uvicorn.Server(config).run([listener])
        except KeyboardInterrupt:  # uvicorn raises it again when it has shut down
            pass
        finally:
            if runner and runner.stdin:
                runner.stdin.close()
                runner.wait(2 * leash.GRACE_S)


def _runner(board: Board) -> "subprocess.Popen[bytes]":
    """In a process of its own, which ends with this one."""
    python = [sys.executable, "-m"]
    words = [*python, leash.__name__, *python, "motley", "board", "run", "--watch", "--board", str(board.folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(f"can't listen at {host} port {port}: {error.strerror or error}; try --port 0") from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
